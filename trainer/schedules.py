"""Learning rates as pure functions of the step.

A rate depends on the number of completed steps and on nothing else: no state, nothing to save, the same on
every replica and after every resume. Steps are compared and divided as int64 and the rate is computed in
float64 and rounded to float32 once, at the end: float32 cannot tell step 16,777,217 from its neighbour, and a
last bit that differs between two devices' float64 `pow` or `cos` is rounded away (all but about once in 2^28
values).

    rate = schedules.build(name="cosine", learning_rate=0.1, decay_steps=10_000, warmup_steps=500)
    rate(0)       # float32 tensor 0.0002
    rate(step)    # step: int64 tensor or variable, in a graph too, also compiled by XLA
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer import names


def build(
    *,
    name: str,
    learning_rate: float,
    decay_steps: int = 0,
    decay_rate: float = 1.0,
    staircase: bool = False,
    warmup_steps: int = 0,
    boundaries: Sequence[int] = (),
) -> Callable[[int | tf.Tensor], tf.Tensor]:
    """Returns `rate(step)`: the float32 scalar tensor with which the update after `step` steps is made.

    With s the step, D = decay_steps, W = warmup_steps, the rate is learning_rate times

        constant      1
        exponential   decay_rate ** (s / D); with `staircase` decay_rate ** floor(s / D)
        cosine        (1 + cos(pi p)) / 2, p = (s - W) / (D - W): 0 at step D, and from there on
        linear        1 - p, the same p: 0 at step D, and from there on
        piecewise     decay_rate ** (number of boundaries <= s): the new rate holds at the boundary already

    and, in the first W steps, times (s + 1) / W: step 0 has learning_rate / W, and from step W on the
    schedule stands alone. Exponential and piecewise count from step 0, as if there were no warm-up; cosine
    and linear count from its end (p = 0 until then), so that they still end at D.

    Args:
        name: one of `names.SCHEDULES`.
        learning_rate: the rate before any decay.
        decay_steps: D, in steps; only exponential, cosine and linear use it.
        decay_rate: factor of exponential and piecewise.
        staircase: whether exponential decays in steps; the others have no use for it.
        warmup_steps: W, in steps; 0: no warm-up.
        boundaries: increasing steps, for piecewise.

    Returns:
        A function of a Python int or an int64 scalar tensor or variable.

    Raises:
        ValueError: a value breaks its rule; the message names it.
    """
    _check(name, learning_rate, decay_steps, decay_rate, warmup_steps, tuple(boundaries))
    # Cosine and linear decay over these steps.
    span = decay_steps - warmup_steps

    def progress(step):
        return tf.cast(tf.clip_by_value(step - warmup_steps, 0, span), tf.float64) / span

    def constant(step):
        return tf.ones([], tf.float64)

    def exponential(step):
        # An int64 division: a float quotient could round up to the next stair.
        if staircase:
            exponent = tf.cast(step // decay_steps, tf.float64)
        else:
            exponent = tf.cast(step, tf.float64) / decay_steps
        return tf.constant(decay_rate, tf.float64) ** exponent

    def cosine(step):
        return 0.5 * (1.0 + tf.cos(math.pi * progress(step)))

    def linear(step):
        return 1.0 - progress(step)

    def piecewise(step):
        passed = tf.math.count_nonzero(step >= tf.constant(boundaries, tf.int64))
        return tf.constant(decay_rate, tf.float64) ** tf.cast(passed, tf.float64)

    factor = {
        "constant": constant,
        "exponential": exponential,
        "cosine": cosine,
        "linear": linear,
        "piecewise": piecewise,
    }[name]

    def rate(step):
        step = tf.convert_to_tensor(step, tf.int64)
        value = learning_rate * factor(step)
        if warmup_steps:
            value *= tf.cast(tf.minimum(step + 1, warmup_steps), tf.float64) / warmup_steps
        return tf.cast(value, tf.float32)

    return rate


def _check(name, learning_rate, decay_steps, decay_rate, warmup_steps, boundaries):
    if name not in names.SCHEDULES:
        raise ValueError(f"lr_schedule {name!r} is unknown: use one of {', '.join(names.SCHEDULES)}")
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise ValueError(f"learning_rate {learning_rate!r} must be finite and not negative: use 0.1, say")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps {warmup_steps!r} must not be negative: use 0 for no warm-up")
    if name in ("exponential", "piecewise") and not (math.isfinite(decay_rate) and decay_rate > 0):
        raise ValueError(f"decay_rate {decay_rate!r} must be finite and positive: use 0.1, say")
    if name == "exponential" and decay_steps < 1:
        raise ValueError(f"decay_steps {decay_steps!r} must be at least 1 with lr_schedule exponential")
    if name in ("cosine", "linear") and decay_steps <= warmup_steps:
        raise ValueError(
            f"decay_steps {decay_steps!r} must be greater than warmup_steps {warmup_steps!r} with lr_schedule"
            f" {name}: give the step at which the rate reaches 0"
        )
    if name == "piecewise":
        increasing = all(a < b for a, b in zip(boundaries, boundaries[1:]))
        if not boundaries or boundaries[0] < 1 or not increasing:
            raise ValueError(f"boundaries {boundaries!r} must be increasing steps from 1 on: use (100, 200)")
