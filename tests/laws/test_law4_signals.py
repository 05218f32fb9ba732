"""Law 4: SIGTERM and SIGINT save the current step and end with 143 and 130 within 25 s, whatever the process is doing; the
same command then ends bit for bit as an undisturbed run. (In the imports and in the steps: test_law2_resume.py.)

The phases are held by tests/laws/stalling.py: what does not go on there would hang for ever.

Mutations: no thread that ends the process from outside; none in an evaluation; an interrupted evaluation is not caught up; a
signal after DONE is not heard. What the thread may save: test_stopping.py, test_step.py.
"""
import dataclasses
import signal
import subprocess
import time

import numpy as np
import pytest

import runs

STEPS = 60
FLAGS = (f"--train_steps={STEPS}", "--log_steps=10", "--deterministic", "--model=digits_cnn_regularized",
         "--summary_steps=40", "--histogram_steps=40", "--checkpoint_steps=25", "--eval_steps=30", "--progress=none")
BOUND_SECS = 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Where the trainer stands still when the signal comes. saved: the newest checkpoint that it must leave, None: any.

    goes_on: it stands still for a moment only: the place goes on once the signal was sent.
    """

    place: str
    call: int
    saved: int | None
    goes_on: bool = False
    code: int = 143
    flags: tuple[str, ...] = ()


PHASES = {
    "waiting for data": Phase(place="read:train", call=35, saved=34),
    "waiting for the data of 2 replicas": Phase(place="read:train", call=35, saved=34, flags=("--num_gpus=2", "--emulate")),
    "waiting for the data of the step with summaries": Phase(place="read:train", call=40, saved=39),
    "computing a step": Phase(place="forward:", call=35, saved=34),
    "tracing the step with summaries": Phase(place="trainer.backward:micro_batch", call=2, saved=39),
    "evaluating": Phase(place="read:test", call=1, saved=30),
    "summaries": Phase(place="trainer.summaries:displayable", call=1, saved=None, goes_on=True),
    "saving": Phase(place="flush:.writing/", call=1, saved=None, goes_on=True),
    "writing DONE": Phase(place="flush:.DONE", call=1, saved=STEPS, goes_on=True, code=0),
}


class Stalled:
    """The trainer, standing still at a place."""

    def __init__(self, folder, place: str, call: int, *flags: str):
        self.folder, self.model_dir = folder, folder / "run"
        self.process = subprocess.Popen(
            runs.command("tests.laws.stalling", place, str(call), str(folder), "--", f"--model_dir={self.model_dir}", *flags),
            cwd=runs.ROOT, env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        runs.wait_for((folder / "reached").exists, self.process)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; returns when the process has got it."""
        self.process.send_signal(number)
        runs.wait_for(lambda: not pending(self.process.pid, number))

    def go_on(self) -> None:
        (self.folder / "go").touch()

    def end(self) -> runs.Outcome:
        """The end of the process, which must come within the bound."""
        start = time.monotonic()
        try:
            out, err = self.process.communicate(timeout=BOUND_SECS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"still there after {BOUND_SECS} s\n{out[-2000:]}\n{err[-2000:]}") from None
        print(f"{time.monotonic() - start:.1f} s from the signal to the end, exit code {self.process.returncode}")
        return runs.Outcome(self.process.returncode, out, err, self.model_dir)


def pending(pid: int, number: int) -> bool:
    """Whether the signal waits to be delivered (Linux)."""
    with open(f"/proc/{pid}/status") as file:
        waits = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in waits)


def assert_equal(ours: runs.Outcome, theirs: runs.Outcome) -> None:
    """Bit for bit: metrics lines, TensorBoard's scalars, evaluations, and every tensor of the last checkpoint."""
    assert runs.told(ours) == runs.told(theirs)
    ledger = "eval/test/metrics.jsonl"
    assert runs.read_lines(ours.model_dir / ledger) == runs.read_lines(theirs.model_dir / ledger)
    tensors, expected = ours.tensors(STEPS), theirs.tensors(STEPS)
    assert tensors.keys() == expected.keys()
    assert [name for name in expected if not np.array_equal(tensors[name], expected[name])] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The whole run by the number of its replicas."""
    made = {}

    def run(flags):
        if flags not in made:
            made[flags] = runs.train(tmp_path_factory.mktemp("whole"), *FLAGS, *flags)
        return made[flags]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASES)
def test_a_signal_while(name, tmp_path, undisturbed):
    phase = PHASES[name]
    stalled = Stalled(tmp_path, phase.place, phase.call, *FLAGS, *phase.flags)
    stalled.send(signal.SIGTERM)
    if phase.goes_on:
        stalled.go_on()
    ended = stalled.end()
    assert ended.code == phase.code, ended.err
    assert (tmp_path / "run" / "DONE").exists() == (phase.code == 0)
    step = ended.published()[-1]
    assert step == phase.saved or phase.saved is None
    assert phase.code == 0 or f"signal 15: saved step {step}; the same command goes on from there" in ended.out
    assert not any(line["step"] > step for line in ended.lines)
    if name == "evaluating":
        assert not (tmp_path / "run/eval/test/metrics.jsonl").exists()

    again = runs.train(tmp_path / "run", *FLAGS, *phase.flags)
    assert phase.code == 0 or f"resumed from {tmp_path}/run/checkpoints/ckpt-{step:08d}" in again.out
    assert_equal(again, undisturbed(phase.flags))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_tracing_ends_at_once(tmp_path, number):
    """The first step is not made: there is nothing to save."""
    stalled = Stalled(tmp_path, "trainer.backward:micro_batch", 1, *FLAGS)
    stalled.send(number)
    ended = stalled.end()
    assert ended.code == 128 + number and ended.published() == [], ended.err


def test_a_signal_after_the_end_changes_nothing(tmp_path):
    """DONE is there, and nobody takes the last lines: exit code 0."""
    stalled = Stalled(tmp_path, "trainer.stopwatch:Stopwatch.report", 1, "--train_steps=3", "--summary_steps=0",
                      "--histogram_steps=0")
    assert (tmp_path / "run" / "DONE").exists()
    stalled.send(signal.SIGTERM)
    ended = stalled.end()
    assert ended.code == 0 and ended.published() == [3], ended.err


@pytest.mark.slow
def test_a_second_signal_in_a_save_ends_at_once(tmp_path, undisturbed):
    """The save never ends: it is left as a kill leaves it, and the rerun makes up for it."""
    stalled = Stalled(tmp_path, "flush:.writing/", 4, *FLAGS)
    stalled.send(signal.SIGTERM)
    stalled.send(signal.SIGINT)
    ended = stalled.end()
    assert ended.code == 143, ended.err  # the first signal's
    assert ended.published() == [25] and (tmp_path / "run/checkpoints/.writing").exists()
    assert_equal(runs.train(tmp_path / "run", *FLAGS), undisturbed(()))
