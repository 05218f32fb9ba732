"""Where the time of a run goes: seconds by phase, rates, time left.

A rate is only worth reading if it says how fast training is, not how long the last checkpoint took. So every
second is charged to exactly one phase, the innermost one open, and rates count the seconds of training alone.

    watch = Stopwatch()
    with watch.phase("starting"):
        ...                                            # build everything, restore a checkpoint
    watch.begin(step, examples)                        # where this process starts to count
    with watch.phase("training"):
        ...
    examples_per_second, seconds_per_step = watch.rate(step, examples)
    print(duration(watch.eta(step, total)))            # duration: in writers
    print(watch.report())
"""

import collections
import contextlib
import math
import statistics
import time

PHASES = ("starting", "compiling", "training", "evaluating", "saving", "summaries")
_OTHER = "other"  # what no phase was open for
_RATED = ("training",)  # the wait for data included: a rate without it would flatter
_RECURRING = ("evaluating", "saving", "summaries")  # come again as training goes on, unlike the rest
_RECENT = 9  # intervals between calls of rate() that the time left is estimated from


class Stopwatch:
    """Charges every second since its creation to one phase. For one thread; phases may be nested.

    Args:
      clock: returns seconds as a float that never goes back.
    """

    def __init__(self, clock=time.perf_counter):
        self._clock = clock
        self._seconds = dict.fromkeys((*PHASES, _OTHER), 0.0)
        self._open = [_OTHER]
        self._mark = clock()
        self._recent = collections.deque(maxlen=_RECENT)
        self.begin(0, 0)

    @contextlib.contextmanager
    def phase(self, name):
        """Charges the time inside to `name`, one of PHASES, and not to the phase around it.

        Raises:
          ValueError: `name` is no phase.
        """
        if name not in self._seconds or name == _OTHER:
            raise ValueError(f"phase {name!r}: must be one of {', '.join(PHASES)}")
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @property
    def current(self):
        """The phase that is open now, "other" if none is. For any thread."""
        return self._open[-1]

    def begin(self, step, examples):
        """Sets where this process starts to count, after a restore: steps and examples done by earlier
        ones."""
        self._first = self._last = (step, examples, self.seconds())
        self._recent.clear()

    def rate(self, step, examples):
        """The speed of training since the last call, or since begin().

        Args:
          step: completed steps of the run.
          examples: examples of these steps, of the run as well, not of the interval.

        Returns:
          (examples a second, seconds a step) over the seconds spent training; both nan if no step was made, or
          in no time.
        """
        last_step, last_examples, before = self._last
        self._last = (step, examples, self.seconds())
        elapsed, steps = _spent(before, self._last[2], _RATED), step - last_step
        if steps <= 0 or elapsed <= 0:
            return math.nan, math.nan
        self._recent.append(elapsed / steps)
        return (examples - last_examples) / elapsed, elapsed / steps

    def eta(self, step, total):
        """Seconds that the steps from `step` to `total` will take, nan as long as no rate is known.

        The time of a step is the median of the last intervals, which one slow interval does not move.
        Evaluating, saving and summaries are added in the proportion to training that they have had so far.
        """
        if not self._recent:
            return math.nan
        before, after = self._first[2], self._last[2]
        recurring = 1 + _spent(before, after, _RECURRING) / _spent(before, after, _RATED)
        return max(total - step, 0) * statistics.median(self._recent) * recurring

    def seconds(self):
        """Seconds by phase up to now, a dict in the order of PHASES, then "other"."""
        self._charge()
        return dict(self._seconds)

    def report(self):
        """A table of where the time went: phase, seconds, share; the longest first, empty phases left out."""
        seconds = self.seconds()
        total = sum(seconds.values())
        rows = sorted(((value, name) for name, value in seconds.items() if value > 0), reverse=True)
        lines = [f"{'where the time went':<20}{'seconds':>10}{'share':>9}"]
        for value, name in [*rows, (total, "total")]:
            lines.append(f"{name:<20}{value:>10.1f}{value / total if total else 0:>9.1%}")
        return "\n".join(lines)

    def _charge(self):
        now = self._clock()
        self._seconds[self._open[-1]] += now - self._mark
        self._mark = now


def _spent(before, after, names):
    """Seconds of the phases `names` between two results of seconds()."""
    return sum(after[name] - before[name] for name in names)
