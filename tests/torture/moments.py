"""When to kill: a condition on what can be seen of the run, and then a short drawn time.

    moment = of_trainer(draw, look(model_dir), eval_steps=60, pace=8)
    while not moment.due(look(model_dir), trainer): ...

Saves, deletes and the end last milliseconds in a run of seconds, so moments that wait for one of them are drawn more
often than their share of the time. What the process was really doing is found out afterwards, from what it left.
"""
import random
import time
from collections.abc import Callable

from tests.torture import settings
from tests.torture.folder import Look
from tests.torture.processes import Process


class Moment:
    """Comes `delay` seconds after the first look for which `condition(look, process)` holds. clock: seconds."""

    def __init__(self, name: str, condition: Callable[[Look, Process], bool], delay: float = 0, clock=time.monotonic):
        self.name, self._condition, self._delay, self._clock, self._since = name, condition, delay, clock, None

    def due(self, look: Look, process: Process) -> bool:
        """Whether it has come."""
        if self._since is None and self._condition(look, process):
            self._since = self._clock()
        return self._since is not None and self._clock() - self._since >= self._delay


def published(before: Look, saves: int, delay: float = 0) -> Moment:
    """When so many checkpoints more than `before` are published."""
    step = before.newest + saves * settings.CHECKPOINT_STEPS
    return Moment("published", lambda look, process: look.newest >= step, delay)


def of_trainer(draw: random.Random, before: Look, *, eval_steps: int, pace: float) -> Moment:
    """A moment in the life of a trainer. before: a look at its start. eval_steps: of its inline evaluations, 0 if it has
    none. pace: seconds from its start to its first step, about."""
    resumed = before.newest
    saves = draw.choice((1, 1, 2))  # which save of this process it is about

    def line(look: Look, process: Process) -> int:
        return look.line if str(process.pid) in look.writers else 0

    def saved(look: Look, number: int) -> bool:
        return look.newest >= resumed + number * settings.CHECKPOINT_STEPS

    def evaluating(look: Look, process: Process) -> bool:
        return line(look, process) > resumed and line(look, process) % eval_steps == 0

    after, short = draw.uniform(0, 0.05), draw.choice((0, 0, draw.uniform(0, 0.015)))
    steps = resumed + draw.randint(1, 2 * settings.CHECKPOINT_STEPS)
    moments = [
        (2, Moment("time", lambda look, process: True, draw.uniform(0, pace))),
        (2, Moment("building", lambda look, process: look.trainer == str(process.pid), draw.uniform(0, pace / 2))),
        (1, Moment("opening files", lambda look, process: str(process.pid) in look.writers, short)),
        (2, Moment("stepping", lambda look, process: line(look, process) >= steps, after)),
        (3, Moment("saving", lambda look, process: saved(look, saves - 1) and look.begins_to_save(before), short)),
        (3, Moment("in place", lambda look, process: saved(look, saves - 1) and look.in_place(before))),
        (3, Moment("deleting", lambda look, process: look.deleting(before))),
        (2, published(before, saves, after))]
    if eval_steps:
        moments += [(3, Moment("evaluating", evaluating, draw.uniform(0, 1))),
                    (1, Moment("evaluated", lambda look, process: look.evaluations > before.evaluations, short))]
    if resumed >= settings.STEPS - settings.EVAL_STEPS:
        moments += [(3, Moment("ending", lambda look, process: line(look, process) == settings.STEPS,
                               draw.uniform(0, 0.3))),
                    (3, Moment("DONE", lambda look, process: look.writes("DONE", before) or "DONE" in look.small))]
    return _drawn(draw, moments)


def of_evaluator(draw: random.Random, before: Look, *, pace: float) -> Moment:
    """A moment in the life of an evaluator. before: a look at its start."""
    short = draw.choice((0, draw.uniform(0, 0.02)))
    return _drawn(draw, [
        (1, Moment("time", lambda look, process: True, draw.uniform(0, 2 * pace))),
        (2, Moment("building", lambda look, process: look.evaluator == str(process.pid), draw.uniform(0, pace / 2))),
        (2, Moment("shown", lambda look, process: look.shown > before.shown + 2000, short)),
        (2, Moment("evaluated", lambda look, process: look.evaluations > before.evaluations, short)),
        (2, Moment("small file", lambda look, process: look.writes("best.json", before)))])


def _drawn(draw: random.Random, moments: list[tuple[int, Moment]]) -> Moment:
    weights, choices = zip(*moments)
    return draw.choices(choices, weights)[0]
