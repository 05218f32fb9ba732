"""What a process that is ended from outside may save: a step of which all is told, while the variables stand still."""
import types

import pytest

from trainer import signals, stopping


class Keeper:
    """A Checkpointer that only notes what it is asked for."""

    def __init__(self, last_saved=None):
        self.last_saved, self.asked = last_saved, []

    def save(self, step, *, still):
        self.asked.append(step)
        return still()

    def wait(self):
        self.asked.append("wait")


@pytest.fixture
def made(monkeypatch):
    """A Stopping from step 10 on, at step 14, and what it works with."""
    monkeypatch.setattr(signals, "_callback", None)
    loop = types.SimpleNamespace(diverged=False, still=lambda step: True)
    experiment = types.SimpleNamespace(state=types.SimpleNamespace(step=14), loop=loop)
    keeper = Keeper(last_saved=12)
    return types.SimpleNamespace(
        experiment=experiment, loop=loop, keeper=keeper,
        stopping=stopping.Stopping(experiment, keeper, start=10, alone=True, say=None))


def test_a_step_between_two_events_is_saved(made):
    with made.stopping.allowed(below=20):
        assert made.stopping._saved()
    assert made.keeper.asked == [14, "wait"]


@pytest.mark.parametrize("below", [14, 12])
def test_a_step_that_has_lines_to_write_is_left_to_the_main_thread(made, below):
    """Mutation: what a step has to tell does not count."""
    with made.stopping.allowed(below=below):
        assert not made.stopping._saved()
    assert made.keeper.asked == []


def test_variables_that_move_are_not_saved(made):
    made.loop.still = lambda step: False
    with made.stopping.allowed(below=20):
        assert not made.stopping._saved()


def test_a_diverged_state_is_not_saved(made):
    made.loop.diverged = True
    with made.stopping.allowed(below=20):
        assert not made.stopping._saved()
    assert made.keeper.asked == []


@pytest.mark.parametrize("step", [10, 12])
def test_nothing_new_only_waits_for_the_save_in_progress(made, step):
    """The step of the start or of the last checkpoint."""
    made.experiment.state.step = step
    with made.stopping.allowed(below=step + 1):
        assert made.stopping._saved()
    assert made.keeper.asked == ["wait"]


def test_the_main_threads_turn_is_respected(made):
    """Outside `allowed` the other thread waits, also after an error inside."""
    assert made.stopping._turn.locked()
    with pytest.raises(OSError), made.stopping.allowed(below=20):
        assert not made.stopping._turn.locked()
        raise OSError
    assert made.stopping._turn.locked()


def test_a_save_that_fails_is_a_crash(made, monkeypatch, capsys):
    """The disk is full: no code that says that the step was saved, and no thread that just ends."""
    def full(step, *, still):
        raise OSError(28, "No space left on device")

    codes = []
    made.keeper.save = full
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    monkeypatch.setattr(stopping, "GRACE_SECS", 0)
    with made.stopping.allowed(below=20):
        made.stopping._end(15)
    assert codes == [1] and "No space left on device" in capsys.readouterr().err
