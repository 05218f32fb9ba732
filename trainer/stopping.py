"""SIGTERM and SIGINT while training: the current step is saved, whatever the main thread is doing.

    stopping = Stopping(experiment, keeper, start=step, alone=True, say=print)
    with stopping.allowed(below=until):      # around whatever may take long: steps up to `until`, or an evaluation
        ...

Most ends are ordinary ones: the signal sets a variable, the loop inside the graph reads it with every step (with several workers
it travels with the gradients, so that all end at the same step), and the main thread saves and leaves. What takes longer than
GRACE_SECS (data that do not come, a trace, an evaluation) a thread ends from outside. The variables stand still except in a
step's last part, where it updates them: it copies them, looks whether they did stand still, publishes the copy, and leaves.

So the bounds are the update of one step (no other part of a call into TensorFlow, however long its first execution takes),
lines and summaries, and the writing of one checkpoint. Nobody but a process that trains alone is ended from outside: other
workers would wait for it.
"""
import contextlib
import os
import sys
import threading
import time
import traceback

from trainer import signals
from trainer.checkpoint import Checkpointer
from trainer.config import UserError
from trainer.experiment import Experiment

GRACE_SECS = 2  # for the ordinary end
AGAIN_SECS = 0.02  # between two looks whether the variables stand still
SWITCH_SECS = 1e-4  # a main thread that traces must not keep the interpreter for 5 ms after each of a thousand operations


class Stopping:
    """Hears signals from its creation on. start: the step this process begins with. say: takes a line for the user."""

    def __init__(self, experiment: Experiment, keeper: Checkpointer | None, *, start: int, alone: bool, say):
        self._experiment, self._keeper, self._start, self._alone, self._say = experiment, keeper, start, alone, say
        self._below = start
        self._turn = threading.Lock()  # whose turn it is: the main thread's, but where it allows the other one
        self._turn.acquire()
        signals.on_signal(self._begin)

    @contextlib.contextmanager
    def allowed(self, *, below: int):
        """In here the process may be ended from outside at any step lower than `below`, of which all is told that must be."""
        self._below = below
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()  # for ever, where the other thread is about to leave

    def over(self) -> None:
        """From now on a signal ends the process with code 0: DONE is written."""
        signals.on_signal(lambda _: os._exit(0))

    def _begin(self, number: int) -> None:
        """In the thread that watches the signals, which must stay free for a second one."""
        self._experiment.stop.assign(True)
        if self._alone:
            threading.Thread(target=self._end, args=(number,), name="stopping", daemon=True).start()
        elif self._step() == self._start:
            signals.leave(number)
        # else: a worker that cannot go on because another one does not is a watchdog's business.

    def _end(self, number: int) -> None:
        """Ends the process as soon as that is possible, if the main thread has not done so before."""
        try:
            if self._step() > self._start:
                time.sleep(GRACE_SECS)
            sys.setswitchinterval(SWITCH_SECS)
            while True:
                with self._turn:
                    if self._saved():
                        if self._keeper.last_saved is not None:
                            with contextlib.suppress(OSError):  # nobody reads it any more: saved it is all the same
                                self._say(message(self._keeper.last_saved))
                        signals.leave(number)
                time.sleep(AGAIN_SECS)
        except UserError as error:  # the save failed: a full disk, say
            print(f"trainer: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)
        except Exception:
            traceback.print_exc()
            os._exit(1)  # the code of a crash

    def _saved(self) -> bool:
        """Whether the current step is published, and if need be publishes it. False: not possible at this moment."""
        step, loop = self._step(), self._experiment.loop
        if step not in (self._start, self._keeper.last_saved) and (
                step >= self._below or loop.diverged or not self._keeper.save(step, still=lambda: loop.still(step))):
            return False
        self._keeper.wait()
        return True

    def _step(self) -> int:
        return int(self._experiment.state.step)


def message(step: int) -> str:
    """What the user is told at the end."""
    return f"signal {signals.number()}: saved step {step}; the same command goes on from there"
