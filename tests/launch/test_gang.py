"""Processes that train together, with small shell programs in the trainers' place: the first failure ends all, they
start again together, signals are forwarded once, and nobody stays behind.

Mutations: the others are not ended; code 2 is tried again; a worker that saves is sent a second signal; SIGKILL never
comes; processes outlive a launcher that was killed.
"""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import gangs
import runs
from launch.gang import Command, Gang
from launch.logs import Logs

WAIT = "while :; do sleep 1000 & wait; done"  # sh runs a trap only between commands, or in wait
SAVES = f"trap 'echo saved; exit 143' TERM; trap 'echo saved; exit 130' INT; echo ready; {WAIT}"


def until(word: str, file: str) -> str:
    """Shell that waits until the file in the test's folder holds the word."""
    return f"until grep -qs '{word}' $FOLDER/{file}; do sleep 0.02; done"


STUBBORN = f"trap '' TERM INT; echo ready; {WAIT}"


class Run:
    """A gang of shell programs. workers: one program each; programs see $ATTEMPT (from 1) and $FOLDER."""

    def __init__(self, folder: pathlib.Path, *workers: str, evaluator: str = "", **options):
        self.folder, self.attempts = folder, 0
        self.started = time.monotonic()
        beside = Command(name="evaluator", arguments=["sh", "-c", evaluator], variables={"FOLDER": str(folder)})

        def commands():
            self.attempts += 1
            return [Command(name=f"worker-{k}", arguments=["sh", "-c", program],
                            variables={"ATTEMPT": str(self.attempts), "FOLDER": str(folder)})
                    for k, program in enumerate(workers)]

        with open(folder / "said", "w") as console:
            self.code = Gang(workers=commands, logs=Logs(folder / "logs", console), **{"grace_secs": 60, **options},
                             evaluator=beside if evaluator else None).run()
        self.seconds = time.monotonic() - self.started

    @property
    def said(self) -> list[str]:
        return (self.folder / "said").read_text().splitlines()

    def log(self, name: str) -> list[str]:
        return [line for line in (self.folder / "logs" / f"{name}.log").read_text().splitlines()
                if not line.startswith("--- started")]


def test_all_done(tmp_path):
    run = Run(tmp_path, "echo a; echo b >&2", "echo c; echo d >&2")
    assert run.code == 0 and run.attempts == 1
    assert sorted(run.said) == ["worker-0 | a", "worker-0 | b", "worker-1 | d"]
    assert run.log("worker-1") in (["c", "d"], ["d", "c"])


@pytest.mark.parametrize("code, attempts", [(2, 1), (3, 1), (1, 3), (134, 3), (128, 3)])
def test_the_first_failure_ends_the_gang_and_its_code_decides(tmp_path, code, attempts):
    """2 and 3 would come again; everything else is tried --max_restarts times."""
    run = Run(tmp_path, SAVES, f"echo lost; exit {code}", SAVES, max_restarts=2)
    assert run.code == code and run.attempts == attempts
    assert run.log("worker-0").count("ready") <= attempts
    failures = [line for line in run.said if "worker-1 failed first: " in line]
    assert len(failures) == attempts and all(f"{code}" in line for line in failures)
    if code != 2:  # a wrong command has said so itself
        assert run.said[run.said.index(failures[0]) + 1:][:2] == [
            f"launch: the last lines of {tmp_path}/logs/worker-1.log:", "    lost"]
    assert ("launch: restart 2 of 2" in run.said) == (attempts == 3)


def test_a_killed_worker_is_named_and_the_restart_may_succeed(tmp_path):
    run = Run(tmp_path, f"[ $ATTEMPT = 2 ] || {{ {SAVES}; }}", "[ $ATTEMPT = 2 ] || kill -9 $$")
    assert run.code == 0 and run.attempts == 2
    assert "launch: worker-1 failed first: killed by SIGKILL (137)" in run.said


def test_restarts_are_bounded_and_none_is_allowed(tmp_path):
    run = Run(tmp_path, "exit 1", max_restarts=0)
    assert run.code == 1 and run.attempts == 1
    assert "launch: no restart: --max_restarts=0 is used up" in run.said


def test_sigkill_for_who_does_not_end_within_the_grace_period(tmp_path):
    run = Run(tmp_path, STUBBORN, f"{until('ready', 'logs/worker-0.log')}; exit 3", grace_secs=0.2)
    assert run.code == 3 and 0.2 < run.seconds < 30
    assert "launch: worker-0 has not ended within --grace_secs=0.2: SIGKILL" in run.said


def test_a_stopped_worker_is_woken_to_hear_that_it_is_over(tmp_path):
    """Not only when the grace period is over. Mutation: no SIGCONT."""
    run = Run(tmp_path, f"trap 'echo heard; exit 143' TERM; echo ready; kill -STOP $$; {WAIT}",
              f"{until('ready', 'logs/worker-0.log')}; sleep 0.2; exit 75", max_restarts=0)
    assert run.code == 75 and run.seconds < 30 and "heard" in run.log("worker-0")
    assert "launch: worker-1 failed first: exit code 75 (a hang was ended: its log says whose)" in run.said


def test_who_saves_after_a_stop_from_outside_is_not_disturbed(tmp_path):
    """worker-1 was sent SIGTERM, so all stop at that step; a signal to the chief now could be its second."""
    chief = f"trap 'echo disturbed' TERM; {until('worker-1 ended first', 'said')}; exit 143"
    run = Run(tmp_path, chief, "exit 143", max_restarts=0)
    assert run.code == 143 and run.log("worker-0") == []
    assert "launch: worker-1 ended first: exit code 143 (stopped by SIGTERM)" in run.said


def test_a_stop_from_outside_is_followed_by_a_restart(tmp_path):
    run = Run(tmp_path, "[ $ATTEMPT = 2 ] || exit 143", f"[ $ATTEMPT = 2 ] || {{ {SAVES}; }}")
    assert run.code == 0 and run.attempts == 2


READY = f"{until('ready', 'logs/worker-0.log')}; {until('ready', 'logs/worker-1.log')}"


@pytest.mark.parametrize("name, code", [("TERM", 143), ("INT", 130)])
def test_a_signal_is_forwarded_once_and_nothing_starts_again(tmp_path, name, code):
    run = Run(tmp_path, SAVES, SAVES, f"{READY}; kill -{name} $PPID; {SAVES}",
              evaluator=f"trap 'exit 143' TERM INT; {WAIT}")
    assert run.code == code and run.attempts == 1
    assert run.log("worker-0") == run.log("worker-1") == ["ready", "saved"]
    assert sum(f"SIG{name}" in line for line in run.said) == 1
    assert not any("failed" in line or "restart" in line for line in run.said)


def test_the_second_signal_ends_everything_now(tmp_path):
    again = f"trap 'kill -TERM $PPID' TERM; {READY}; kill -TERM $PPID; {WAIT}"
    run = Run(tmp_path, STUBBORN, STUBBORN, again, grace_secs=600)
    assert run.code == 143 and run.seconds < 60
    assert "launch: SIGTERM again: everything ends now" in run.said


def test_a_crash_while_stopping_is_what_the_code_says(tmp_path):
    """And who saves meanwhile is not told a second time."""
    saves = f"trap 'echo told' TERM; echo ready; {until('worker-1 failed first', 'said')}; exit 143"
    crashes = f"told() {{ {until('told', 'logs/worker-0.log')}; exit 9; }}; trap told TERM; echo ready; {READY}"
    run = Run(tmp_path, saves, f"{crashes}; kill -TERM $PPID; {WAIT}")
    assert run.code == 9 and run.attempts == 1
    assert run.log("worker-0") == ["ready", "told"]


def test_the_step_that_completes_the_run_wins_against_the_signal(tmp_path):
    completes = "trap 'exit 0' TERM; echo ready;"
    run = Run(tmp_path, f"{completes} {WAIT}", f"{completes} {READY}; kill -TERM $PPID; {WAIT}")
    assert run.code == 0


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    Run(tmp_path, "exit 0")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


# The worker's number is in DONE; it stands for DONE and the worker's end.
UNTIL_DONE = ("echo started; until [ -s $FOLDER/DONE ]; do sleep 0.02; done; "
              "while kill -0 $(cat $FOLDER/DONE) 2>&-; do sleep 0.02; done; echo evaluated")


def test_the_evaluator_is_waited_for(tmp_path):
    run = Run(tmp_path, "echo $$ > $FOLDER/DONE", evaluator=UNTIL_DONE)
    assert run.code == 0 and run.log("evaluator") == ["started", "evaluated"]


def test_the_evaluator_stays_while_the_workers_start_again(tmp_path):
    run = Run(tmp_path, "[ $ATTEMPT = 3 ] || exit 1; echo $$ > $FOLDER/DONE", evaluator=UNTIL_DONE)
    assert run.code == 0 and run.attempts == 3 and run.log("evaluator") == ["started", "evaluated"]


def test_a_crashed_evaluator_starts_again_and_training_goes_on(tmp_path):
    run = Run(tmp_path, "until [ -e $FOLDER/second ]; do sleep 0.02; done; echo $$ > $FOLDER/DONE",
              evaluator=f"mkdir $FOLDER/first 2>&- && kill -9 $$; touch $FOLDER/second; {UNTIL_DONE}")
    assert run.code == 0 and run.attempts == 1 and run.log("evaluator") == ["started", "evaluated"]
    assert "launch: evaluator ended: killed by SIGKILL (137); training goes on" in run.said


@pytest.mark.parametrize("code, starts", [(1, 3), (2, 1)])
def test_an_evaluator_that_cannot_work_is_given_up_and_its_code_reported(tmp_path, code, starts):
    run = Run(tmp_path, until("not started again", "said"), max_restarts=2,
              evaluator=f"echo once; exit {code}")
    assert run.code == code and run.attempts == 1 and run.log("evaluator") == ["once"] * starts


def test_an_evaluator_that_ended_before_the_training_looks_once_more(tmp_path):
    """DONE was there, of an earlier and shorter run."""
    run = Run(tmp_path, f"{until('once', 'logs/evaluator.log')}; sleep 0.1", evaluator="echo once")
    assert run.code == 0 and run.log("evaluator") == ["once", "once"]


def test_a_failed_run_ends_its_evaluator(tmp_path):
    run = Run(tmp_path, f"{until('started', 'logs/evaluator.log')}; exit 3", evaluator=UNTIL_DONE)
    assert run.code == 3 and run.log("evaluator") == ["started"]


def test_what_a_worker_started_itself_ends_with_it(tmp_path):
    run = Run(tmp_path, "sleep 1000 & echo $!")
    child = int(run.log("worker-0")[0])
    runs.wait_for(lambda: gangs.gone(child), seconds=30)
    assert run.code == 0 and run.seconds < 60


def test_much_output_is_neither_lost_nor_stuck(tmp_path):
    run = Run(tmp_path, "seq 1 50000", "seq 1 50000 >&2")
    numbers = [str(k) for k in range(1, 50001)]
    assert run.log("worker-0") == run.log("worker-1") == numbers
    assert [line for line in run.said if line.startswith("worker-1")] == [f"worker-1 | {k}" for k in numbers]


DRIVER = """
import os, pathlib, signal, sys
from launch.gang import Command, Gang
from launch.logs import Logs
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests themselves run under nohup
program = "trap '' TERM INT HUP; sleep 1000 & echo pid $$ $!; wait; while :; do sleep 1000; done"
worker = lambda k: Command(name=f"worker-{k}", arguments=["sh", "-c", program])
logs = Logs(pathlib.Path(sys.argv[1]), sys.stdout)
Gang(workers=lambda: [worker(0), worker(1)], evaluator=worker(2), logs=logs).run()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
def test_no_process_outlives_a_killed_launcher(tmp_path, number):
    """Those that ignore every signal they can ignore do not, either."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=runs.ROOT, stdout=subprocess.DEVNULL)

    def processes() -> list[int]:
        return [int(pid) for path in tmp_path.glob("*.log")
                for pid in re.findall(r"^pid (\d+) \d+$", path.read_text(), re.MULTILINE)]

    runs.wait_for(lambda: len(processes()) == 3, driver)
    assert not any(gangs.gone(pid) for pid in processes())
    os.kill(driver.pid, number)
    assert driver.wait(30) == -number
    runs.wait_for(lambda: all(gangs.gone(pid) for pid in processes()), seconds=30)
    for path in tmp_path.glob("*.log"):  # the programs' own children are theirs; here they are ended by the test
        os.kill(int(path.read_text().split()[-1]), signal.SIGKILL)
