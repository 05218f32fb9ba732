"""Laws 2 and 4 across processes, and what a gang keeps to itself. Two workers, started by launch.local.

Mutations: a worker that was not sent the signal goes on; the restart uses another batch order; the launcher leaves
workers behind; no namespace.
"""
import json
import os
import random
import re
import signal
import socket

import numpy as np
import pytest

import gangs
import runs

STEPS = 200
FLAGS = (f"--train_steps={STEPS}", "--log_steps=1", "--deterministic", "--model=digits_cnn_regularized",
         "--summary_steps=60", "--histogram_steps=60", "--checkpoint_steps=20", "--keep_checkpoints=20")
ENDLESS = ("--train_steps=1000000", "--log_steps=1", "--summary_steps=0", "--histogram_steps=0", "--checkpoint_steps=0")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Whole run of two workers, with an evaluator beside them."""
    folder = tmp_path_factory.mktemp("whole") / "m"
    return gangs.train(folder, *FLAGS, launcher=("--evaluator",))


def assert_bit_for_bit(run: runs.Outcome, other: runs.Outcome) -> None:
    assert runs.told(run) == runs.told(other)
    assert [line["step"] for line in run.lines] == list(range(1, STEPS + 1))
    ours, theirs = run.tensors(STEPS), other.tensors(STEPS)
    assert ours.keys() == theirs.keys()
    assert {name.split("/")[0] for name in theirs} == {"model", "ema", "optimizer", "trainer"}
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []


def saved_steps(folder) -> list[int]:
    """The steps that the workers' logs say they stopped at."""
    return [int(step) for path in sorted((folder / "logs").glob("worker-*.log"))
            for step in re.findall(r": saved step (\d+)", path.read_text())]


def test_the_evaluator_beside_them_evaluates_every_checkpoint_and_ends(undisturbed):
    lines = runs.read_lines(undisturbed.model_dir / "eval" / "test" / "metrics.jsonl")
    assert sorted({line["step"] for line in lines}) == list(range(20, STEPS + 1, 20))
    assert len(lines) == 2 * STEPS // 20
    assert "evaluator | evaluator: training is done" in undisturbed.out


@pytest.mark.parametrize("victim, number", [("worker-0", signal.SIGKILL), ("worker-1", signal.SIGKILL),
                                            ("worker-1", signal.SIGSTOP)])
def test_killed_workers_are_started_again_and_nothing_is_lost_but_time(tmp_path, undisturbed, victim, number):
    """A stopped one is noticed by the others, who end with code 75."""
    folder = tmp_path / "m"
    launcher = gangs.start(folder, *FLAGS)
    at = random.Random(victim).randint(30, STEPS - 60)
    runs.wait_for(lambda: gangs.lines_written(folder) >= at, launcher)
    before = gangs.children(launcher)
    os.kill(before[victim], number)
    run = gangs.finish(launcher, folder)
    assert (f"launch.local: {victim} failed first: killed by SIGKILL (137)" if number == signal.SIGKILL else
            "launch.local: worker-0 failed first: exit code 75 (a hang was ended: its log says whose)") in run.out
    if number == signal.SIGSTOP:
        assert f"nothing has been heard of {victim.replace('-', ' ')} for " in run.out
    assert run.out.count("launch.local: restart 1 of 3") == 1 and "restart 2" not in run.out
    assert all(gangs.gone(pid) for pid in before.values())
    assert_bit_for_bit(run, undisturbed)


@pytest.mark.parametrize("told", ["worker-0", "worker-1", "launcher"])
def test_whoever_is_told_all_stop_at_the_same_step(tmp_path, undisturbed, told):
    """Exit code 143, the same step saved; the same command goes on from there and ends as an undisturbed run."""
    folder = tmp_path / "m"
    launcher = gangs.start(folder, *FLAGS, launcher=("--max_restarts=0",))
    runs.wait_for(lambda: gangs.lines_written(folder) >= 50, launcher)
    os.kill(launcher.pid if told == "launcher" else gangs.children(launcher)[told], signal.SIGTERM)
    stopped = gangs.finish(launcher, folder, code=143)
    assert "failed" not in stopped.out and "SIGKILL" not in stopped.out
    steps = saved_steps(folder)
    assert len(steps) == 2 and len(set(steps)) == 1 and 50 <= steps[0] < STEPS
    assert stopped.published()[-1] == stopped.lines[-1]["step"] == steps[0]

    if told == "launcher":  # what it leaves is what a worker that was told leaves
        return
    again = gangs.train(folder, *FLAGS)
    assert f"ckpt-{steps[0]:08d}" in again.out
    assert_bit_for_bit(again, undisturbed)


def test_a_killed_launcher_leaves_nobody_and_the_network_is_the_runs_own(tmp_path):
    """The workers' servers listen, on all addresses, where nobody outside can reach them; kill -9 ends everything."""
    folder = tmp_path / "m"
    launcher = gangs.start(folder, *ENDLESS, launcher=("--evaluator",))
    runs.wait_for(lambda: gangs.lines_written(folder) >= 1, launcher)
    workers = gangs.children(launcher)
    everybody = {int(pid) for pid in open(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read().split()}
    assert len(workers) == 2 and len(everybody) == 3
    cluster = json.loads(gangs.environment(workers["worker-0"])["TF_CONFIG"])["cluster"]["worker"]
    ports = [int(address.rsplit(":", 1)[1]) for address in cluster]
    if "warning" not in open(f"{folder}.out").read():
        assert [listens_on_all(workers["worker-0"], port) for port in ports] == [True, True]
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=10)
    launcher.kill()
    launcher.wait()
    runs.wait_for(lambda: all(gangs.gone(pid) for pid in everybody), seconds=30)


def listens_on_all(pid: int, port: int) -> bool:
    """Whether in the process's network somebody listens on the port of every address."""
    tables = [open(f"/proc/{pid}/net/{name}").read() for name in ("tcp", "tcp6")]
    return any(re.search(rf"^\s*\d+: 0+:{port:04X} 0+:0000 0A ", table, re.MULTILINE) for table in tables)


def test_what_the_trainer_finds_wrong_is_not_tried_again(tmp_path):
    """Code 2: one attempt, the trainer's line, the code."""
    done = gangs.train(tmp_path / "m", "--train_steps=2", "--early_stop_evals=3", code=2)
    assert "restart" not in done.out and "failed first: exit code 2" in done.out
