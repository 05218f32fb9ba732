"""Who is blamed, when, and with what words: the watchdog's judgement with a clock that stands and lines that are made up.

Mutations: the first silent worker ends all at once; a worker that waits in the all-reduce is blamed; evaluating batches is no
progress; the time in which this process was stopped counts against the others; a compiling worker has the bound of a step.
"""
import dataclasses
import math

import pytest

from input_pipeline.rules import UserError
from trainer import devices, watchdog
from trainer.watchdog import Position, Watchdog


class Lines:
    """A Links whose messages the test makes up."""

    def __init__(self):
        self.gone, self.lines, self.sent, self.coming = set(), {}, [], []

    def poll(self, seconds):
        found, self.coming = self.coming, []
        return found

    def send(self, message):
        self.sent.append(message)


class Made:
    """A Watchdog of worker `worker` of `workers`, after the meeting."""

    def __init__(self, monkeypatch, *, workers=3, worker=0, timeout=10.0):
        self.time, self.left, self.said = 1000.0, [], []
        plan = devices.Plan(strategy="multi_worker", kind="CPU", replicas=workers, workers=workers, worker=worker,
                            addresses=tuple(f"127.0.0.1:{k + 1}" for k in range(workers)))
        monkeypatch.setattr(watchdog.faulthandler, "dump_traceback", lambda **_: self.said.append("stacks"))
        monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", lambda *_, **__: None)
        self.dog = Watchdog(plan, timeout=timeout, clock=lambda: self.time, leave=self.left.append, say=self.said.append)
        self.lines = self.dog._links = Lines()
        self.here = Position(step=5, place="reducing")
        self.dog.look = lambda: self.here
        for other in ([0] if worker else range(1, workers)):
            self.hear(other, Position(step=5, place="reducing"))

    def hear(self, worker: int, position: Position | None = None, **message):
        if position:
            message |= {"at": dataclasses.asdict(position), "own": 0.0}
        self.lines.coming.append((worker, message))

    def go(self, seconds: float, *, alive=(1, 2), step: float = 0.5):
        """Time passes; the workers `alive` are heard of, and do not move."""
        end = self.time + seconds
        while self.time < end and not self.left:
            self.time += step
            for worker in alive:
                self.hear(worker, None, own=0.0, still=True)
            self.dog.turn()


@pytest.fixture
def made(monkeypatch):
    return lambda **options: Made(monkeypatch, **options)


def test_who_waits_for_data_is_named_and_who_waits_because_of_that(made):
    run = made()
    run.hear(1, Position(step=5, place="data"))
    run.go(30)
    assert run.left == [75] and run.said[0] == "stacks"  # the line is the last one in the log
    assert run.said[1] == ("no progress for 10 s: worker 1 is waiting for data at step 6, for 10 s; because of that worker 0 is "
                           "waiting in the all-reduce at step 6, for 10 s, worker 2 is waiting in the all-reduce at step 6, for "
                           "10 s (--hang_timeout_secs=10); exit code 75, the same command goes on from the last checkpoint")
    assert run.lines.sent[-1] == {"verdict": run.said[1].split("; exit code")[0], "code": 75}


def test_who_is_a_step_behind_is_named(made):
    run = made()
    run.hear(2, Position(step=4, place="updating"))
    run.go(30)
    assert run.said[1].startswith("no progress for 10 s: worker 2 is updating at step 5, for 10 s; because of that worker 0")


def test_no_progress_only_if_nobody_has_any(made):
    """The chief evaluates, batch by batch, for longer than the timeout; then it saves."""
    run = made()
    for count in range(8):
        run.here = Position(step=5, place="evaluating", count=count)
        run.go(8)
    run.here = Position(step=5, place="saving")
    run.go(8)
    assert run.left == []
    run.go(20)
    assert run.left == [75] and "worker 0 is saving at step 5" in run.said[1]


def test_a_silent_worker(made):
    run = made()
    run.go(30, alive=(1,))
    assert run.left == [75] and run.time - 1000 < 11.1
    assert run.said[1].startswith("nothing has been heard of worker 2 for 10.5 s: it or its machine is stopped, or the network "
                                  "is down; it was waiting in the all-reduce at step 6")


def test_a_worker_whose_connection_ended(made):
    """A second later, without the timeout, also where that is off; not one that said goodbye."""
    run = made(timeout=0)
    run.lines.gone = {1, 2}
    run.hear(2, None, bye=0, why="")
    run.go(30, alive=())
    assert run.left == [75] and run.time - 1000 <= 2
    assert run.said[1].startswith("worker 1 died, or its machine: the connection to it ended while it was waiting in the ")


@pytest.mark.parametrize("code", watchdog.ORDERLY)
def test_an_orderly_end_of_another_is_no_failure(made, code):
    run = made(timeout=100)
    run.hear(1, None, bye=code, why="")
    run.lines.gone = {1}
    run.go(50, alive=(2,))
    assert run.left == []


def test_an_error_of_another_is_told_and_its_code_taken(made):
    """Code 2 would come again: no launcher tries it again."""
    run = made()
    run.hear(1, None, bye=2, why="--data_dir=x: it is not there")
    run.go(1)
    assert run.left == [2] and run.said == ["worker 1 ended with code 2: --data_dir=x: it is not there"]
    assert {"verdict": run.said[0], "code": 2} in run.lines.sent


def test_where_tensorflow_gave_up_the_silent_one_is_named_soon(made):
    """It notices a stopped worker after some 7 s, and does not say which."""
    run = made(timeout=300)
    run.go(7, alive=(2,))
    run.hear(2, None, failed="worker 2: UnavailableError: aborted")
    run.go(20, alive=(2,))
    assert run.left == [75] and run.time - 1000 < 9 and "nothing has been heard of worker 1" in run.said[1]


def test_where_tensorflow_gave_up_and_all_are_there_its_reason_is_told(made):
    run = made(timeout=300)
    run.hear(2, None, failed="worker 2: InternalError: broken")
    run.go(60)
    assert run.left == [75] and run.said[1].startswith("TensorFlow gave up: worker 2: InternalError: broken; exit code 75")


def test_what_the_chief_says_is_done(made):
    run = made(worker=1)
    run.hear(0, None, verdict="worker 2 died", code=75)
    run.go(1, alive=(0,))
    assert run.left[0] == 75 and run.said[:2] == [
        "stacks", "worker 2 died; exit code 75, the same command goes on from the last checkpoint"]


def test_a_worker_judges_the_chief_alone(made):
    """Standing still together is the chief's to tell; a silent chief is told by everybody."""
    run = made(worker=1)
    run.go(60, alive=(0,))
    assert run.left == []
    run.go(60, alive=())
    assert run.left == [75] and "nothing has been heard of worker 0" in run.said[1]


def test_the_first_call_may_take_longer_and_a_slow_step_twice_as_long_as_the_slowest(made):
    run = made()
    run.here = Position(step=0, place="computing", compiling=True)
    run.go(watchdog.FIRST_STEP_SECS - 5)
    run.here = Position(step=5, place="computing")
    run.go(9)
    run.here = Position(step=6, place="computing")
    run.go(9)
    run.here = Position(step=7, place="computing")
    run.go(17)
    assert run.left == []
    run.go(4)
    assert run.left == [75]


def test_a_process_that_was_stopped_itself_blames_nobody_for_that_time(made):
    """A laptop that slept, a debugger: the first turn afterwards comes late, and what the others sent comes with it."""
    run = made()
    run.go(5)
    run.time += 500
    run.go(4)
    assert run.left == []


def test_one_process_only_says_so_unless_it_is_asked_to_end(made):
    run = made(workers=1, timeout=None)
    run.here = Position(step=5, place="data")
    run.go(watchdog.DEFAULT_SECS * 2, alive=())
    assert run.left == [] and run.said == [
        "no progress for 300 s: waiting for data at step 6, for 300 s. It goes on waiting; --hang_timeout_secs=300 would end it, "
        "with code 75"]
    asked = made(workers=1, timeout=7)
    asked.here = Position(step=5, place="data")
    asked.go(30, alive=())
    assert asked.left == [75] and "waiting for data at step 6" in asked.said[1]


def test_off(made):
    run = made(timeout=0)
    assert run.dog._timeout == math.inf
    run.go(100_000, alive=(), step=4)
    assert run.left == []


def test_what_differs_is_named(made):
    run = made()
    run.dog._facts = {"--learning_rate": "0.1", "Keras": "3.15", "--seed": "0"}
    run.hear(1, None, facts={"--learning_rate": "0.1", "Keras": "3.16", "--seed": "1"})
    run.go(1)
    with pytest.raises(UserError, match="worker 1 has --seed 1, worker 0 has 0 .2 things differ.; give all workers the same"):
        run.dog.join(0, [])
    assert run.lines.sent[0]["code"] == 2


def test_variables_that_cannot_be_read_any_more_are_no_progress(made):
    """After a failure TensorFlow raises wherever it is touched."""
    run = made()

    def broken():
        raise RuntimeError("the error could be from a previous operation")

    run.go(1)
    run.dog.look = broken
    run.go(20)
    assert run.left == [75] and "no progress for 10 s" in run.said[1]


def test_the_slowest_worker(made):
    """Seconds of its own a step: not those in which it waits for the others. Mutation: all seconds of the step."""
    run = made(workers=3, timeout=1000)
    for step in range(6, 30):
        run.here = Position(step=step, place="reducing")
        run.lines.coming += [(k, {"at": dataclasses.asdict(Position(step=step, place="reducing")), "own": step * own})
                             for k, own in ((1, 0.05), (2, 0.09))]
        run.go(0.5, alive=())
        run.dog._seen[0].own = step * 0.04
        said = run.dog.slowest()
        if said:
            break
    run.here = Position(step=60, place="reducing")
    run.lines.coming += [(k, {"at": dataclasses.asdict(Position(step=60, place="reducing")), "own": 60 * own})
                         for k, own in ((1, 0.05), (2, 0.09))]
    run.go(6, alive=())
    run.dog._seen[0].own = 60 * 0.04
    assert run.dog.slowest() == "slowest worker 2: 90 ms a step of its own, others 50"
    assert run.dog.slowest() == ""
