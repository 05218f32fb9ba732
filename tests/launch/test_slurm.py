"""launch.slurm: the rendered script; its logic on a real SLURM of two nodes with small programs in the trainer's place;
and one run of the real trainer there.

Mutations: no --kill-on-bad-exit; the signal goes to the workers and not to the script; a complete run is requeued; srun
--unbuffered, which is a terminal.
"""
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

import runs
import slurm_cluster
from input_pipeline.rules import UserError
from launch import slurm, spec


def job(*argv: str) -> slurm.SlurmJob:
    return spec.parse(["launch.slurm", *argv], slurm.SlurmJob)


def script(*argv: str, python: str = "/v/bin/python", folder="/my checkout") -> str:
    return slurm.script(job(*argv), python=python, folder=str(folder))


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_what_slurm_is_asked_for():
    text = script("--num_workers=4", "--name=fast", "--partition=gpu", "--time=4:00:00", "--gpus_per_worker=2",
                  "--cpus_per_worker=8", "--nodes=2", "--grace_secs=60", "--", "--recipe=digits")
    assert directives(text) == [
        "--job-name=fast", "--ntasks=4", "--partition=gpu", "--time=4:00:00", "--nodes=2", "--gpus-per-task=2",
        "--cpus-per-task=8", "--requeue", "--open-mode=append", "--output=%x-%j.log", "--signal=B:USR1@120"]
    assert "srun --kill-on-bad-exit=1 --distribution=block --label --cpus-per-task=8 " in text
    assert ("/v/bin/python -m launch.cluster -- /v/bin/python -m trainer.main --recipe=digits --model_dir=runs/digits "
            "--strategy=multi_worker 2>&1 |") in text
    assert "cd '/my checkout' || exit 2" in text and "trainer.evaluator" not in text
    assert directives(script()) == ["--job-name=lockstep", "--ntasks=1", "--requeue", "--open-mode=append",
                                    "--output=%x-%j.log", "--signal=B:USR1@90"]
    assert "launch.cluster" not in script(), "one worker is an ordinary process"


@pytest.mark.parametrize("evaluator", ["--evaluator", "--noevaluator"])
def test_any_trainer_flag_is_one_word_and_the_script_is_bash(evaluator):
    nasty = ("--model_dir=a b/$(touch x)`id`\"'", "--augment=;rm -rf {folder} {{}}", "--data_dir=%s\\", "--init_from=\n3")
    text = script(evaluator, "--num_workers=2", "--", *nasty)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    joined = text.replace("\\\n", " ")
    words = shlex.split(joined[joined.index("srun --kill"):].split(" 2>&1 |")[0])
    assert words[words.index("trainer.main") + 1:][:4] == list(nasty)


@pytest.mark.parametrize("flags, said", [
    ("--name=a b", "--name=a b must be letters"), ("--partition=x\n#SBATCH --uid=0", "must be a partition's name"),
    ("--time=tomorrow", "--time=tomorrow must be like 90"), ("--time=1:00;id", "must be like"), (f"--time={'9' * 5000}", "must be like"),
    ("--nodes=-1", "--nodes=-1 must be at least 0"), ("--gpus_per_worker=two", "must be a whole number")])
def test_wrong_values_do_not_reach_the_script(flags, said):
    with pytest.raises(UserError, match=said):
        job(flags)


@pytest.mark.parametrize("time", ["1", "2:30", "0:02:30", "0-0:2"])
def test_a_limit_that_would_requeue_the_job_for_ever_is_refused(time):
    """SLURM tells the script to stop 90 to 150 s before the limit: no step would be trained."""
    with pytest.raises(UserError, match=f"--time={time} leaves no time to train.*150 s.*give more"):
        job(f"--time={time}")


@pytest.mark.parametrize("time", ["3", "2:31", "0:02:31", "0-0:3", "1-00", "2-4:00:00", "100:00:00", "0"])
def test_limits_as_slurm_reads_them(time):
    """0 is none."""
    assert f"--time={time}" in directives(script(f"--time={time}"))
    if time in ("3", "2:31"):
        with pytest.raises(UserError, match="180 s"):
            job(f"--time={time}", "--grace_secs=60")


def test_dry_run_prints_the_script_and_needs_no_slurm():
    done = subprocess.run(runs.command("launch.slurm", "--dry_run", "--num_workers=2"), cwd=runs.ROOT, text=True,
                          capture_output=True, env=runs.environment(PATH=""))
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == script("--num_workers=2", python=sys.executable, folder=runs.ROOT)


@pytest.mark.parametrize("program, said", [
    (None, "sbatch is not in PATH"),
    ("echo 'bad partition' >&2; exit 1", "sbatch refused the job (code 1): bad partition")])
def test_no_slurm_and_a_refused_job_are_one_line(tmp_path, monkeypatch, capsys, program, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "sbatch").chmod(0o755)
    assert spec.command(["x"], slurm.SlurmJob, slurm.start, name="launch.slurm", doc="") == 2
    assert capsys.readouterr().err.startswith(f"launch.slurm: {said}")


# A trainer and an evaluator for the script's logic: what a task does at which start stands in $FOLDER/plan.
TRAINER = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["FOLDER"])
task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
start = len(list(folder.glob(f"start-{task}-*")))
(folder / f"start-{task}-{start}").write_text(os.environ["TF_CONFIG"])
print("terminal:", sys.stdout.isatty())
plan = json.loads((folder / "plan").read_text())
what = plan[min(start, len(plan) - 1)][task]
def stop(number, frame):
    (folder / f"stopped-{task}-{start}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / f"ready-{task}-{start}").write_text(str(os.getpid()))
while what == "wait":
    time.sleep(0.05)
if what == 0 and task == 0:
    (folder / "DONE").touch()
sys.exit(what)
"""
EVALUATOR = """
import os, pathlib, time
folder = pathlib.Path(os.environ["FOLDER"])
print("evaluator: watches", flush=True)
while not (folder / "DONE").exists():
    time.sleep(0.05)
print("evaluator: done", flush=True)
"""


# In place of SLURM's commands and of Python: the workers are done at once, evaluators wait for a signal.
STUBS = {
    "srun": "exit 0",
    "scancel": "echo scancel $* >> $FOLDER/calls",
    "scontrol": "echo scontrol $* >> $FOLDER/calls",
    "python": "trap 'echo ended >> $FOLDER/calls; exit 143' TERM; echo evaluates >> $FOLDER/calls; [ ! -e $FOLDER/crash ] || "
              "{ rm $FOLDER/crash; exit 1; }; sleep 600 & wait",
}


@pytest.mark.parametrize("crash", [False, True])
def test_near_the_time_limit_the_last_evaluation_stops_and_the_job_is_requeued(crash, tmp_path):
    """Also of a second evaluator, after one that crashed. Mutations: only the workers are told; another one is started then."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").touch()
    if crash:
        (tmp_path / "crash").touch()
    process = subprocess.Popen(["bash", "-c", script("--evaluator", python=str(tmp_path / "python"), folder=tmp_path)], env={
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDER": str(tmp_path), "SLURM_JOB_ID": "7"})
    begun = 1 + crash
    runs.wait_for(lambda: (tmp_path / "calls").read_text().count("evaluates") == begun, process, seconds=30)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(30) == 143
    assert (tmp_path / "calls").read_text().splitlines() == [
        *["evaluates"] * begun, "scancel --signal=TERM 7", "ended", "scontrol requeue 7"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def submit(cluster, tmp_path):
    """submit(plan, *flags): a job whose tasks end as planned, start by start. Returns its number."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "main.py").write_text(TRAINER)
    (tmp_path / "trainer" / "evaluator.py").write_text(EVALUATOR)
    (tmp_path / "launch").symlink_to(runs.ROOT / "launch")

    def call(plan: str, *flags: str) -> str:
        (tmp_path / "plan").write_text(plan)
        text = script("--num_workers=2", "--nodes=2", *flags, python=sys.executable, folder=tmp_path)
        cluster.variables["FOLDER"] = str(tmp_path)
        return cluster("sbatch", "--parsable", f"--chdir={tmp_path}", text=text)

    return call


def log(folder: pathlib.Path, number: str) -> str:
    return (folder / f"lockstep-{number}.log").read_text()


@pytest.mark.slow
def test_two_nodes_agree_on_tf_config_and_the_evaluator_ends_after_them(cluster, submit, tmp_path):
    number = submit("[[0, 0]]", "--evaluator")
    cluster.wait(number, "COMPLETED")
    first, second = ((tmp_path / f"start-{k}-0").read_text() for k in range(2))
    assert '"index": 0' in first and first.replace('"index": 0', '"index": 1') == second
    assert "evaluator: watches" in log(tmp_path, number) and "evaluator: done" in log(tmp_path, number)


@pytest.mark.slow
@pytest.mark.parametrize("code", [2, 3])
def test_what_would_fail_again_is_not_tried_again(cluster, submit, tmp_path, code):
    """Also where SLURM ends the others, whose codes are larger."""
    number = submit(f'[["wait", {code}]]', "--evaluator")
    state = cluster.wait(number, "FAILED")
    assert state["ExitCode"] == f"{code}:0" and state["Restarts"] == "0"
    assert "launch.slurm: the workers ended" not in log(tmp_path, number)


@pytest.mark.slow
def test_a_crash_ends_the_step_and_the_script_starts_it_again(cluster, submit, tmp_path):
    number = submit('[["wait", 1], [0, 0]]')
    cluster.wait(number, "COMPLETED")
    assert len(list(tmp_path.glob("start-1-*"))) == 2
    assert "(start 1 of 4)" in log(tmp_path, number)


@pytest.mark.slow
def test_crashes_are_bounded(cluster, submit, tmp_path):
    number = submit("[[1, 1]]", "--max_restarts=1")
    assert cluster.wait(number, "FAILED")["ExitCode"] == "1:0"
    assert [f"(start {k} of 2)" in log(tmp_path, number) for k in (1, 2, 3)] == [True, True, False]


@pytest.mark.slow
def test_the_log_has_what_workers_say_at_once_and_no_progress_bars(cluster, submit, tmp_path):
    number = submit('[["wait", "wait"]]')
    runs.wait_for(lambda: all((tmp_path / f"ready-{k}-0").exists() for k in range(2)), seconds=60)
    runs.wait_for(lambda: log(tmp_path, number).count("terminal:") == 2, seconds=30)
    assert sorted(log(tmp_path, number).splitlines()) == ["0: terminal: False", "1: terminal: False"]
    cluster("scancel", number)


@pytest.mark.slow
def test_near_the_time_limit_all_stop_once_and_the_job_is_requeued(cluster, submit, tmp_path):
    """SLURM's signal before the limit goes to the script alone; so does the test's."""
    number = submit('[["wait", "wait"], [0, 0]]', "--evaluator")
    runs.wait_for(lambda: all((tmp_path / f"ready-{k}-0").exists() for k in range(2)), seconds=60)
    cluster("scancel", "--batch", "--signal=USR1", number)
    state = cluster.wait(number, "COMPLETED")
    assert state["Restarts"] == "1"
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-0-0", "stopped-1-0"]
    assert "the time limit is near: requeued" in log(tmp_path, number)


@pytest.mark.slow
def test_a_cancelled_job_stops_and_is_not_requeued(cluster, submit, tmp_path):
    number = submit('[["wait", "wait"]]', "--evaluator")
    runs.wait_for(lambda: all((tmp_path / f"ready-{k}-0").exists() for k in range(2)), seconds=60)
    cluster("scancel", number)
    state = cluster.wait(number, "CANCELLED")
    assert state["Restarts"] == "0" and len(list(tmp_path.glob("start-*"))) == 2
    runs.wait_for(lambda: len(list(tmp_path.glob("stopped-*"))) == 2, seconds=30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_trainer_killed_and_requeued_ends_as_an_undisturbed_run(cluster, tmp_path):
    """Two nodes; one worker is killed, then the job is requeued as after a preemption. Law 2, with the tolerance of law
    1: the other run is one process with two devices."""
    flags = ("--train_steps=60", "--log_steps=1", "--checkpoint_steps=5", "--summary_steps=0", "--histogram_steps=0",
             "--model=digits_cnn_regularized", "--precision=float32", "--deterministic")
    folder = tmp_path / "m"
    text = script("--num_workers=2", "--nodes=2", "--evaluator", "--", f"--model_dir={folder}", *flags,
                  python=sys.executable, folder=runs.ROOT)
    number = cluster("sbatch", "--parsable", f"--chdir={tmp_path}", text=text)
    cluster.wait(number, "RUNNING", seconds=60)

    def published() -> list:
        return list((folder / "checkpoints").glob("*.json")) if folder.exists() else []

    runs.wait_for(published)
    for pid in filter(str.isdigit, os.listdir("/proc")):  # the worker of task 1
        words = read(pathlib.Path("/proc", pid, "cmdline"))
        if b"trainer.main" in words and str(folder).encode() in words and b"srun" not in words \
                and b"SLURM_PROCID=1\0" in read(pathlib.Path("/proc", pid, "environ")):
            os.kill(int(pid), 9)
    before = len(published())
    runs.wait_for(lambda: len(published()) > before or (folder / "DONE").exists())
    cluster("scontrol", "requeue", number)
    state = cluster.wait(number, "COMPLETED", seconds=400)
    assert state["Restarts"] == "1" and "(start 1 of 4)" in log(tmp_path, number)
    run = runs.Outcome(0, log(tmp_path, number), "", folder)
    reference = runs.train(tmp_path / "one", *flags, "--num_gpus=2", "--emulate")
    assert [line["batch_digest"] for line in run.lines] == [line["batch_digest"] for line in reference.lines]
    found = runs.worst_difference(run, reference, 60)
    assert max(found["loss"], found["model"], found["ema"]) < 1e-5, found
    assert "evaluator: training is done at step 60" in run.out


def read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ProcessLookupError):
        return b""
