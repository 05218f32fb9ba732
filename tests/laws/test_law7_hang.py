"""Law 7: no silent hang. A worker that dies, is stopped, stalls or never comes: the others say which one, at which step and
where it stood, and end with code 75 within the bound, so that a launcher starts all of them again.

The workers here have no launcher that would end them. The judge alone, with a clock that stands: tests/trainer/test_watchdog.py.

Mutations: a worker whose connection ended is waited for; the silence of a stopped one is not counted; waiting for data counts as
progress; the chief's facts are not compared; the start has no bound.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

import runs
from launch import cluster

FLAGS = ("--train_steps=100000", "--log_steps=1", "--summary_steps=0", "--histogram_steps=0", "--checkpoint_steps=0",
         "--strategy=multi_worker", "--num_gpus=0")
pytestmark = pytest.mark.slow


class Worker:
    """One worker's process, with no launcher. stall: PLACE and CALL of tests/laws/stalling.py."""

    def __init__(self, folder: pathlib.Path, addresses: list[str], number: int, *flags: str, stall: tuple[str, int] | None = None):
        self.out, self.err = folder / f"{number}.out", folder / f"{number}.err"
        arguments = ["trainer.main"] if stall is None else ["tests.laws.stalling", stall[0], str(stall[1]), str(folder), "--"]
        variables = {"TF_CONFIG": cluster.tf_config(addresses, "worker", number)} if addresses else {}
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(
                runs.command(*arguments, f"--model_dir={folder / 'run'}", "--progress=none", *flags), cwd=runs.ROOT,
                env=runs.environment(**variables), stdout=out, stderr=err)

    def ended(self, bound: float) -> tuple[int, str]:
        """(exit code, last line on stderr), which must be there within the bound."""
        code = self.process.wait(bound)
        return code, self.err.read_text().strip().rsplit("\n", 1)[-1]


@pytest.fixture
def start(tmp_path):
    """start(number, *flags, stall=None): one of two workers. What still runs at the end is killed."""
    started, addresses = [], cluster.local(2)

    def begin(number: int, *flags: str, **options) -> Worker:
        started.append(Worker(tmp_path, addresses, number, *FLAGS, *flags, **options))
        return started[-1]

    begin.addresses = addresses
    yield begin
    for worker in started:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()
        worker.process.wait()


def until(condition, *workers: Worker) -> None:
    """Waits; nobody must end before."""
    def now():
        for worker in workers:
            assert worker.process.poll() is None, worker.err.read_text()[-3000:]
        return condition()

    runs.wait_for(now, seconds=200)


def trains(folder: pathlib.Path, *workers: Worker, lines: int = 20) -> None:
    """Waits until so many steps are told."""
    path = folder / "run" / "train" / "metrics.jsonl"
    until(lambda: path.exists() and path.read_text().count("\n") >= lines, *workers)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_stops_is_named(tmp_path, start, victim, number):
    """The other one knows of a death at once, and of a stop as soon as TensorFlow gives up on it (some 7 s)."""
    workers = [start(0), start(1)]
    trains(tmp_path, *workers)
    began = time.monotonic()
    workers[victim].process.send_signal(number)
    code, said = workers[1 - victim].ended(60)
    print(f"{time.monotonic() - began:.1f} s after {number.name} to worker {victim}: {said}")
    assert code == 75, workers[1 - victim].err.read_text()[-3000:]
    wanted = "the connection to it ended" if number == signal.SIGKILL else "nothing has been heard of worker"
    assert wanted in said and re.search(rf"worker {victim}\b.* at step \d+", said), said
    assert "Thread 0x" in workers[1 - victim].err.read_text()  # the stacks


@pytest.mark.parametrize("victim", [0, 1])
def test_data_that_do_not_come_to_one_worker(tmp_path, start, victim):
    """Both end, with the same line: who waits for data, and who waits because of that."""
    workers = [start(k, "--hang_timeout_secs=20", stall=("read:train", 35) if k == victim else None) for k in range(2)]
    until((tmp_path / "reached").exists, *workers)
    ends = [worker.ended(20 + 30) for worker in workers]
    print(ends[0][1])
    assert [code for code, _ in ends] == [75, 75]
    assert ends[0][1] == ends[1][1] and (
        f"worker {victim} is waiting for data at step 35" in ends[0][1]
        and f"because of that worker {1 - victim} is waiting in the all-reduce at step 35" in ends[0][1]), ends


@pytest.mark.parametrize("there", [0, 1])
def test_a_worker_that_never_comes(tmp_path, start, there):
    began = time.monotonic()
    code, said = start(there, "--hang_timeout_secs=20").ended(100)
    print(f"{time.monotonic() - began:.1f} s: {said}")
    assert code == 75 and f"nobody answered for worker {1 - there} at {start.addresses[1 - there]}" in said, said


def test_another_configuration_on_one_worker(tmp_path, start):
    """Code 2 on both, which no launcher tries again; nothing is written."""
    workers = [start(0), start(1, "--learning_rate=0.5", "--seed=3")]
    ends = [worker.ended(200) for worker in workers]
    assert [code for code, _ in ends] == [2, 2], ends
    assert all(re.search("worker 1 has --learning_rate 0.5, worker 0 has 0.00[0-9]+ .2 things differ", said) for _, said in ends)
    assert not (tmp_path / "run" / "config.json").exists()


def test_folders_that_are_not_shared(tmp_path, start):
    """Worker 1 sees no checkpoint: code 2, before it would train on other weights."""
    first = runs.train(tmp_path / "run", "--train_steps=3", "--summary_steps=0", "--histogram_steps=0",
                       "--num_gpus=0")
    assert first.published() == [3]
    workers = [start(0), start(1, f"--model_dir={tmp_path / 'other'}", "--precision=" + json.loads(
        (tmp_path / "run" / "config.json").read_text())["config"]["precision"])]
    ends = [worker.ended(200) for worker in workers]
    assert [code for code, _ in ends] == [2, 2], ends


def test_a_worker_waits_for_the_chiefs_last_checkpoint(tmp_path, start):
    """TensorFlow takes a worker that ends for one that failed, after some 10 s: the chief's save takes longer here."""
    flags = ("--train_steps=5",)
    workers = [start(0, *flags, stall=("flush:.writing/", 1)), start(1, *flags)]
    until((tmp_path / "reached").exists, workers[0])
    with pytest.raises(subprocess.TimeoutExpired):
        workers[1].process.wait(15)
    assert workers[0].process.poll() is None
    (tmp_path / "go").touch()
    assert [worker.ended(60)[0] for worker in workers] == [0, 0]
    assert (tmp_path / "run" / "DONE").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_one_process_whose_data_do_not_come(tmp_path, asked):
    """It ends if that is asked for."""
    flags = [flag for flag in FLAGS if "multi_worker" not in flag] + ["--hang_timeout_secs=3"] * asked
    alone = Worker(tmp_path, [], 0, *flags, stall=("read:train", 35))
    try:
        until((tmp_path / "reached").exists, alone)
        if asked:
            code, said = alone.ended(3 + 30)
            assert code == 75 and "no progress for 3 s: waiting for data at step 35" in said, said
        else:
            (tmp_path / "go").touch()
            trains(tmp_path, alone, lines=40)
    finally:
        alone.process.kill()
        alone.process.wait()
