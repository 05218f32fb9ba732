"""Laws of a wrong command line: code 2, one line, at once, without TensorFlow, nothing written; and of --help.

The rules of single values, of pairs of flags and of a resume are in the other test_errors_*.py.

Mutations, each of which turned tests here red: TensorFlow imported in `resolve`; one_line left out of UserError;
absl's own parsers for the evaluator's flags; --undefok let through; values shared by two parses; the message on stdout.
"""
import os
import subprocess
import sys
import time

import pytest
from wrong_commands import ENVIRONMENT, ROOT, UNSET, check, each, run, wrong

from input_pipeline import command_line
from input_pipeline.rules import text_of
from trainer import flags, recipes

LONG = "x" * 100_000

COMMAND_LINE = [
    wrong("--train_stepss=3", says="--train_stepss=3 is not a flag; did you mean --train_steps?"),
    wrong("--batch_size=3", says="--batch_size=3 is not a flag; did you mean --global_batch_size?"),
    wrong("--data-dir=x", says="--data-dir=x is not a flag; did you mean --data_dir?"),
    wrong("---seed=1", says="---seed=1 is not a flag; did you mean --seed?"),
    wrong("--nodownloads", says="--nodownloads is not a flag; did you mean --nodownload?"),
    wrong("--nolog_steps", says="--nolog_steps is not a flag; did you mean --log_steps?"),
    wrong("--zzzzzzz", says="--zzzzzzz is not a flag; see --help"),
    wrong("--=3", says="is not a flag"),
    wrong("digits", says="'digits' is not a flag; flags are written --name=value, see --help"),
    wrong("--xla", "true", says="'true' is not a flag"),
    wrong("--dry_run", "--", "--seed=1", says="'--seed=1' is not a flag"),
    wrong("-", says="'-' is not a flag"),
    wrong("", says="'' is not a flag"),
    wrong("--seed", says="--seed needs a value; write --seed=VALUE"),
    wrong("--seed", "--dry_run", says="--seed=--dry_run must be a whole number"),
    wrong("--model_dir", "--dry_run", says="--model_dir=--dry_run must not begin with --"),
    wrong("--model_dir=", says="--model_dir= must not be empty; leave it out"),
    wrong("--data_dir=", says="--data_dir= must not be empty; leave it out"),
    wrong("--noxla=3", says="--noxla=3 must be written --noxla, without a value"),
    wrong("--seed=-1", "--seed=1", says="--seed=-1 must be at least 0"),
    wrong("--undefok=foo", "--foo=1", says="--undefok is not taken: every flag must be known"),
    wrong("--undefok", "foo", says="--undefok is not taken"),
    wrong("--flagfile=absent", says="--flagfile must name a text file | No such file or directory: 'absent'"),
    wrong("--flagfile=.", says="--flagfile must name a text file | is a folder"),
    wrong("--flagfile", says="--flagfile must name a text file"),
    wrong("--flagfile=f", files={"f": "--seed=1\n--flagfile=f\n"}, says="--flagfile must name | circular"),
    wrong("--flagfile=f", files={"f": "# a comment\n--seed=-1\n"}, says="--seed=-1 must be at least 0"),
    wrong("--flagfile=f", files={"f": "--seed=1\ndigits\n"}, says="'digits' is not a flag"),
    wrong("--flagfile=f", files={"f": "--undefok=foo\n--foo=1\n"}, says="--undefok is not taken"),
    wrong(f"--model={LONG}", says="--model=xxx | x...x | x must be one of digits_cnn"),
    wrong(f"--{LONG}=1", says="xxx...xxx | x is not a flag"),
    wrong(LONG, says="xxx...xxx | xx' is not a flag"),
    wrong(f"--data_dir={LONG}", "--dataset=cifar10", says="--data_dir=xxx | x...x | get it with"),
    wrong(f"--model_dir={LONG}", says="--model_dir=xxx | x...x | x must be a folder | File name too long"),
    wrong(f"--decay_steps={LONG}", says="--decay_steps=xxx | x...x | x must be whole numbers"),
    wrong(f"--decay_steps=1{',1' * 50_000}", says="--decay_steps=1,1 | belong to piecewise"),
    wrong(f"--seed={'9' * 100_000}", says="--seed=999 | ...999 | must be at most 9223372036854775807"),
    wrong(f"--init_from={LONG}", says="--init_from=xxx | x...x | x must be a --model_dir with a checkpoint"),
    wrong("--model=a\nb\tc", says=r"--model=a\nb\tc must be one of"),
    wrong("--recipe=a\x1b[31mb", says=r"--recipe=a\x1b[31mb must be one of"),
    wrong("--data_dir=a\nb", "--dataset=cifar10", says=r"--data_dir=a\nb: | get it with"),
    wrong("--augment=a\rb", says=r"--augment=a\rb"),
    wrong("--recipe=\udcff", says=r"--recipe=\udcff must be one of"),
]
EVALUATOR = [wrong(*arguments, says=says, command="trainer.evaluator") for *arguments, says in [
    ("--model_dir must name the run to evaluate",),
    ("--model_dir=", "--model_dir must name the run to evaluate"),
    ("--model_dir", "--model_dir needs a value"),
    ("--model_dir=m", "--poll_secs=-1", "--poll_secs=-1 must be at least 0.01, such as 5"),
    ("--model_dir=m", "--poll_secs=0", "--poll_secs=0 must be at least 0.01"),
    ("--model_dir=m", "--poll_secs=nan", "--poll_secs=nan must be a finite number"),
    ("--model_dir=m", "--poll_secs=1_0", "--poll_secs=1_0 must be a finite number"),
    ("--model_dir=m", "--poll_secs=", "--poll_secs= must be a finite number"),
    ("--model_dir=m", "--poll_secs=1e9", "--poll_secs=1e9 must be at most 86400"),
    ("--model_dir=m", "--timeout_secs=-0.5", "--timeout_secs=-0.5 must be at least 0"),
    ("--model_dir=m", "--timeout_secs=inf", "--timeout_secs=inf must be a finite number"),
    ("--model_dir=m", "--split=tets", "--split=tets must be one of test, validation, train; did you mean test?"),
    ("--model_dir=m", "--run_once=maybe", "--run_once=maybe must be true or false"),
    ("--model_dir=m", "--norun_once=1", "--norun_once=1 must be written --norun_once"),
    ("--model_dir=m", "--run_once", "--model_dir=m has no config.json"),
    ("--model_dir=m", "--poll=1", "--poll=1 is not a flag; did you mean --poll_secs?"),
    ("--model_dir=m", "--train_steps=1", "--train_steps=1 is not a flag"),
    ("m", "'m' is not a flag"),
    ("--model_dir=a\nb", "--run_once", r"has no config.json"),
    ("--model_dir=m", "--undefok=x", "--undefok is not taken"),
]]
PREPARE = [wrong(*arguments, says=says, command="input_pipeline.prepare") for *arguments, says in [
    ("--dataset must be given, one of cifar10, mnist, flowers, co2",),
    ("--dataset=cifar10", "--output must be given"),
    ("--dataset=cifar", "--output=D", "--dataset=cifar cannot be downloaded: it must be one of cifar10"),
    ("--dataset=image_folder", "--output=D", "--dataset=image_folder needs --from=FOLDER"),
    ("--datasets=cifar10", "--output=D", "datasets"),
    ("--dataset", "--dataset"),
    ("cifar10", "--output=D", "'cifar10' is not a flag"),
    ("--dataset=a\nb", "--output=D", "--dataset=a"),
]]
PREDICT = [wrong(*arguments, says=says, command="trainer.predict") for *arguments, says in [
    ("--model_dir=m", "no FILE is given"),
    ("--step=5", "f", "--model_dir must name a run"),
    ("--model_dir=m", "f", "--model_dir=m has no config.json"),
    ("--model_dir=m", "--step=-1", "f", "--step=-1 must be the number of a step, best or latest"),
    ("--model_dir=m", "--stp=5", "f", "--stp=5 is not a flag; did you mean --step?"),
]]
EXPORT = [wrong(*arguments, says=says, command="trainer.export") for *arguments, says in [
    ("--model_dir=m", "--output must name the folder to write"),
    ("--model_dir=m", "--output", "--output needs a value; write --output=VALUE"),
    ("--model_dir=m", "--output=--step", "--output=--step must not begin with --"),
    ("--model_dir=m", "--output=d", "--model_dir=m has no config.json"),
]]
TABLE = COMMAND_LINE + EVALUATOR + PREPARE + PREDICT + EXPORT


@pytest.fixture(scope="module")
def outcomes():
    return run(TABLE)


@each(TABLE)
def test_a_wrong_command_is_code_2_and_one_line(row, outcomes):
    check(row, outcomes)


@pytest.mark.parametrize("module, argument, says", [
    ("trainer.main", "--train_steps=-1", "trainer: --train_steps=-1 must be at least 0, such as 10\n"),
    ("trainer.main", "--num_gpus=2",
     "trainer: --num_gpus=2, but 0 GPUs are visible here; lower it, or add --emulate to "
                                     "run 2 replicas on the CPU\n"),
    ("trainer.main", "--dataset=cifar10",
     "trainer: --data_dir=data: cifar10: no file data/cifar-10-batches-bin/"
     "data_batch_1.bin; get it with: python -m input_pipeline.prepare --dataset=cifar10 --output=data (or give the "
     "trainer --download)\n"),
    ("trainer.evaluator", "--poll_secs=x", "evaluator: --poll_secs=x must be a finite number, such as 5\n"),
])
def test_as_a_process_of_its_own_it_fails_within_two_seconds(module, argument, says, tmp_path):
    seconds, (code, out, err) = _timed(module, argument, folder=tmp_path)
    assert (code, out, err) == (2, "", says)
    assert not list(tmp_path.iterdir())
    assert min(seconds) < 2, seconds


def test_help_names_every_flag_with_its_default_on_lines_of_100_characters(tmp_path):
    seconds, (code, out, err) = _timed("trainer.main", "--help", folder=tmp_path)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    for name, value in vars(recipes.digits()).items():
        default = "" if value in (None, "", ()) else f"={text_of(value)}"
        assert f"\n  --{name}{default} " in out
    assert "cifar10_tutorial" in out and "pad_crop:PADDING" in out
    assert not list(tmp_path.iterdir())
    assert min(seconds) < 2, seconds


def test_help_beside_a_wrong_flag_is_help():
    assert all(word.startswith("-") for word in command_line.HELP)
    done = subprocess.run([sys.executable, "-m", "trainer.main", "--seed=-1", "--help"], cwd=ROOT,
                          capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == flags.help_text() + "\n"


def test_of_a_flag_given_twice_the_last_counts_and_one_parse_leaves_nothing_to_the_next():
    assert flags.parse(["main", "--seed=1", "--xla", "--seed=2", "--noxla"]) == {"seed": 2, "xla": False}
    assert flags.parse(["main"]) == {}


def test_a_flag_file_stands_for_the_flags_in_it(tmp_path):
    (tmp_path / "more").write_text("# faster\n\n--xla\n--augment=\n")
    (tmp_path / "file").write_text(f"--seed=1\n--flagfile={tmp_path / 'more'}\n")
    given = flags.parse(["main", "--seed=3", f"--flagfile={tmp_path / 'file'}", "--log_steps", "5"])
    assert given == {"seed": 1, "xla": True, "augment": "", "log_steps": 5}


def test_the_home_folder_is_found_behind_a_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert flags.parse(["main", "--model_dir=~/m", "--data_dir=~"]) == {"model_dir": "/home/me/m",
                                                                        "data_dir": "/home/me"}


def _timed(module: str, argument: str, folder):
    """(seconds of each of three runs, the last one's code, stdout and stderr); the machine may be busy."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", module, argument], cwd=folder, capture_output=True,
                              text=True,
                              timeout=60, env={**environment, **ENVIRONMENT, "PYTHONPATH": str(ROOT)})
        seconds.append(time.monotonic() - begun)
    print(f"{module} {argument}: {min(seconds):.2f} s")
    return seconds, (done.returncode, done.stdout, done.stderr)
