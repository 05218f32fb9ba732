"""The launchers' command line: what a job is, what the trainer is given, errors of one line before anything starts."""
import resource
import subprocess
import sys

import pytest

import runs
from input_pipeline.rules import UserError
from launch import spec
from launch.local import LocalJob


def job(*argv: str) -> LocalJob:
    return spec.parse(["launch.local", *argv], LocalJob)


def test_flags_before_the_dashes_are_the_launchers_and_after_them_the_trainers():
    found = job("--num_workers=3", "--evaluator", "--grace_secs=1.5", "--", "--recipe=digits", "--train_steps", "10")
    assert (found.num_workers, found.evaluator, found.grace_secs, found.max_restarts) == (3, True, 1.5, 3)
    assert found.trainer_flags == ("--recipe=digits", "--train_steps", "10")


def test_workers_get_the_trainers_flags_and_what_makes_them_one_run():
    several = job("--num_workers=2", "--hang_timeout_secs=90", "--", "--recipe=cifar10_cnn", "--seed=3")
    assert several.worker_command("python") == [
        "python", "-m", "trainer.main", "--recipe=cifar10_cnn", "--seed=3", "--model_dir=runs/cifar10_cnn",
        "--strategy=multi_worker", "--hang_timeout_secs=90"]
    assert several.evaluator_command("python") == ["python", "-m", "trainer.evaluator", "--model_dir=runs/cifar10_cnn"]
    one = job("--", "--model_dir=a", "--data_dir", "b", "--model_dir", "c")
    assert one.worker_command("p") == ["p", "-m", "trainer.main", "--model_dir=a", "--data_dir", "b", "--model_dir", "c"]
    assert one.evaluator_command("p") == ["p", "-m", "trainer.evaluator", "--model_dir=c", "--data_dir=b"]
    assert job().model_dir == "runs/digits"


def test_the_trainers_flags_are_found_however_they_are_written(tmp_path):
    (tmp_path / "flags").write_text("--model_dir=x\n--download\n")
    for flags in (("--model_dir=x", "--download"), ("-model_dir", "x", "-download=true"), (f"--flagfile={tmp_path}/flags",),
                  ("--train_steps", "10", "--model_dir=x", "--download"), ("--nodownload", "--download", "--model_dir=x")):
        found = job("--", *flags)
        assert found.model_dir == "x" and found.remote_paths() == ["--download"], flags
    # On another machine there is no such file. Mutation: its name is sent.
    assert job("--", "--seed=1", f"--flagfile={tmp_path}/flags").trainer_flags == ("--seed=1", "--model_dir=x", "--download")
    assert job("--", "--nodownload").remote_paths() == []
    assert job("--", "--data_dir=gs://b/d", "--tpu=local").remote_paths() == ["--data_dir=gs://b/d", "--tpu"]


WRONG = {
    ("--num_workers=0",): ("--num_workers=0", "must be at least 1, such as 1"),
    ("--num_workers=-1",): ("--num_workers=-1", "must be at least 1, such as 1"),
    ("--num_workers=0x2",): ("--num_workers=0x2", "a whole number"),
    ("--num_workers=1_0",): ("--num_workers=1_0", "a whole number"),
    ("--num_workers=1e3",): ("--num_workers=1e3", "a whole number"),
    ("--num_workers",): ("--num_workers", "needs a value"),
    ("--grace_secs=nan",): ("--grace_secs=nan", "a finite number, such as 30"),
    ("--grace_secs=inf",): ("--grace_secs=inf", "a finite number, such as 30"),
    ("--max_restarts=",): ("--max_restarts=", "a whole number"),
    ("--evaluator=maybe",): ("--evaluator=maybe", "true or false"),
    ("--noevaluator=1",): ("--noevaluator=1", "must be written --noevaluator, without a value"),
    ("--num_worker=2",): ("--num_worker=2", "did you mean --num_workers?"),
    ("--train_steps=3",): ("--train_steps=3", "come after --"),
    ("digits",): ("'digits'", "come after --"),
    ("--log_dir", "--evaluator"): ("--log_dir=--evaluator", "--name=value"),
    ("--num_workers=2", "--", "--strategy=mirrored"): ("--strategy=mirrored", "--num_workers=2"),
    ("--num_workers=2", "--", "--tpu=local"): ("--tpu=local", "--num_workers=2"),
    ("--num_workers=2", "--", "--emulate", "--num_gpus=2"): ("--emulate", "--num_workers=2"),
    ("--", "--fast_dev_run"): ("--fast_dev_run", "one process"),
    ("--", "--dry_run"): ("--dry_run", "one process"),
    ("--", "--model_dir"): ("after --: --model_dir", "needs a value"),
    ("--", "--learning_rte=1"): ("after --: --learning_rte=1", "did you mean --learning_rate?"),
    ("--", "--train_steps=many"): ("after --: --train_steps=many", "a whole number"),
    ("--", "--recipe=nope"): ("after --: --recipe=nope", "must be one of digits, "),
    ("--", "digits"): ("after --: 'digits'", "--name=value"),
    ("--undefok=foo", "--foo=1"): ("--undefok", "every flag must be known"),
    ("--flagfile=/nonexistent",): ("--flagfile must", "No such file or directory: '/nonexistent'"),
    ("--", "--flagfile=/nonexistent"): ("/nonexistent", "after --"),
    ("--flagfile=/dev/zero",): ("--flagfile must name a text file", "/dev/zero is no file"),
    ("--", "--flagfile", "/dev/zero"): ("--flagfile must name a text file", "/dev/zero is no file"),
    ("--hang_timeout_secs=1", "--", "--hang_timeout_secs=2"): ("--hang_timeout_secs=1", "--hang_timeout_secs=2"),
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_a_wrong_command_is_one_line_with_flag_value_and_rule(argv, capsys):
    code = spec.command(["x", *argv], LocalJob, lambda _: pytest.fail("started"), name="launch.local", doc="")
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("launch.local: ") and error.count("\n") == 1
    for part in WRONG[argv]:
        assert part in error


def test_wrong_values_of_any_length_stay_one_short_line():
    for value in ("9" * 100_000, "a\nb" * 5000, "\0", "é" * 1000):
        with pytest.raises(UserError) as error:
            job(f"--num_workers={value}")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_help_names_every_flag_with_its_default(capsys):
    assert spec.command(["x", "--help"], LocalJob, lambda _: 1, name="launch.local", doc="The doc.") == 0
    out = capsys.readouterr().out
    assert out.startswith("The doc.")
    for text in ("--num_workers=1 ", "--evaluator=false ", "--max_restarts=3 ", "--grace_secs=30 ", "--hang_timeout_secs ",
                 "--dry_run=false ", "--log_dir ", "--private=true "):
        assert f"  {text}" in out
    assert "trainer.main --help" in out


def test_a_wrong_command_fails_at_once_and_no_launcher_imports_tensorflow():
    """The bound is 0.7 s, of processor time: what else the machine does is not the launcher's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(runs.command("launch.local", "--num_workers=0"), cwd=runs.ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.7
    names = [f"launch.{path.stem}" for path in (runs.ROOT / "launch").glob("*.py")
             if path.stem not in ("__init__", "bench", "plan", "tpu_check")]
    program = f"import sys, {', '.join(names)}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=runs.ROOT)
