"""Laws of `trainer.schedules`: each rate is the formula of its docstring, exact to the last bit of float32.

Expected rates are worked out here with NumPy in float64, from the formulas, and rounded once.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer import names, schedules

RATE = 0.3
# One valid set of arguments a schedule; the warm-up is off.
ARGUMENTS = {
    "constant": {},
    "exponential": {"decay_steps": 350, "decay_rate": 0.1},
    "cosine": {"decay_steps": 1000},
    "linear": {"decay_steps": 1000},
    "piecewise": {"boundaries": (100, 250, 600), "decay_rate": 0.5},
}


def expected(name, step, warmup=0, staircase=False):
    span = 1000 - warmup
    progress = min(max(step - warmup, 0), span) / span
    factor = {
        "constant": lambda: 1.0,
        "exponential": lambda: 0.1 ** (math.floor(step / 350) if staircase else step / 350),
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": lambda: 1 - progress,
        "piecewise": lambda: 0.5 ** sum(step >= boundary for boundary in (100, 250, 600)),
    }[name]()
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return np.float32(RATE * factor * ramp)


def build(name, **more):
    return schedules.build(name=name, learning_rate=RATE, **ARGUMENTS[name], **more)


@pytest.mark.parametrize("warmup", [0, 1, 70])
@pytest.mark.parametrize("name", names.SCHEDULES)
def test_every_schedule_is_its_formula(name, warmup):
    """Mutations: cosine without the half; progress not clipped at 1; cosine or linear that counts from step 0
    under a warm-up; exponential that counts from its end; a ramp of step / W (0 at step 0) or one that ends
    at W + 1."""
    rate = build(name, warmup_steps=warmup)
    steps = [0, 1, 68, 69, 70, 71, 99, 100, 249, 250, 349, 350, 500, 600, 999, 1000, 1001, 50_000]
    for step in steps:
        assert rate(step).numpy() == expected(name, step, warmup), f"step {step}"
    assert rate(0).dtype == tf.float32 and rate(0).shape == ()


def test_the_staircase_falls_at_the_multiple_and_not_before():
    """Mutations: round for floor; the boundary step keeps the old rate."""
    rate = build("exponential", staircase=True)
    for step in (0, 349, 350, 351, 699, 700, 1049, 1050):
        assert rate(step).numpy() == expected("exponential", step, staircase=True), f"step {step}"
    assert rate(0).numpy() == rate(349).numpy() > rate(350).numpy() == rate(699).numpy() > rate(700).numpy()


def test_piecewise_changes_at_its_boundaries():
    """Mutations: step > boundary; one factor for all boundaries."""
    rate = build("piecewise")
    rates = [float(rate(step)) for step in (99, 100, 249, 250, 599, 600)]
    assert rates == [np.float32(RATE * factor) for factor in (1, 0.5, 0.5, 0.25, 0.25, 0.125)]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_they_end_at_zero_and_stay_there(name):
    """Mutations: progress not clipped; a span of decay_steps instead of decay_steps - warmup_steps."""
    rate = build(name, warmup_steps=300)
    assert rate(999) > 0
    assert [float(rate(step)) for step in (1000, 1001, 10**9)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", names.SCHEDULES)
def test_the_warm_up_rises_from_one_part_to_the_whole(name):
    """Mutations: ramp of step / W; no ramp for one of the schedules; a ramp that goes on after W."""
    plain, warm = build(name), build(name, warmup_steps=50)
    assert warm(0).numpy() == np.float32(RATE / 50)
    if name in ("constant", "exponential", "piecewise"):
        assert [float(warm(step)) for step in (50, 51, 400)] == [float(plain(step)) for step in (50, 51, 400)]
    else:
        assert warm(50).numpy() == np.float32(RATE) and warm(51) < warm(50)


def test_large_steps_keep_their_precision():
    """float32 holds no odd number above 2^24. Mutations: the step, or the ratio, in float32."""
    odd = 2**24 + 1
    linear = schedules.build(name="linear", learning_rate=1.0, decay_steps=2**24 + 2)
    assert linear(odd).numpy() == np.float32(1 / (2**24 + 2))
    edge = schedules.build(name="piecewise", learning_rate=1.0, decay_rate=0.5, boundaries=(odd,))
    assert (float(edge(odd - 1)), float(edge(odd))) == (1.0, 0.5)
    slow = schedules.build(name="exponential", learning_rate=1.0, decay_steps=1_000, decay_rate=0.999)
    for step in (10**6 + 1, 10**7 + 1):
        assert slow(step).numpy() == np.float32(0.999 ** (step / 1_000)), f"step {step}"
    halves = {"learning_rate": 1.0, "decay_steps": 3, "decay_rate": 0.5}
    stairs = schedules.build(name="exponential", staircase=True, **halves)
    assert [float(stairs(step)) for step in (26, 27, 29, 30)] == [0.5**8, 0.5**9, 0.5**9, 0.5**10]
    assert schedules.build(name="constant", learning_rate=0.1)(5 * 10**9) == np.float32(0.1)


@pytest.mark.parametrize("name", names.SCHEDULES)
def test_python_ints_variables_graphs_and_xla_agree(name):
    """Mutation: `int(step)` or another conversion of the step in Python."""
    rate = build(name, warmup_steps=30)
    graph = tf.function(rate, input_signature=[tf.TensorSpec([], tf.int64)])
    compiled = tf.function(rate, input_signature=[tf.TensorSpec([], tf.int64)], jit_compile=True)
    step = tf.Variable(0, dtype=tf.int64)
    for number in (0, 29, 30, 350, 777):
        step.assign(number)
        plain = rate(number).numpy()
        assert plain == rate(step).numpy() == graph(step).numpy() == compiled(step).numpy(), f"step {number}"


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"name": "cosin"}, "cosin"),
        ({"name": "constant", "learning_rate": math.nan}, "learning_rate"),
        ({"name": "constant", "learning_rate": math.inf}, "learning_rate"),
        ({"name": "constant", "learning_rate": -0.1}, "learning_rate"),
        ({"name": "constant", "warmup_steps": -1}, "warmup_steps"),
        ({"name": "exponential", "decay_steps": 0, "decay_rate": 0.1}, "decay_steps"),
        ({"name": "exponential", "decay_steps": 10, "decay_rate": 0.0}, "decay_rate"),
        ({"name": "exponential", "decay_steps": 10, "decay_rate": math.inf}, "decay_rate"),
        ({"name": "cosine", "decay_steps": 10, "warmup_steps": 10}, "warmup_steps"),
        ({"name": "linear", "decay_steps": 0}, "decay_steps"),
        ({"name": "piecewise", "decay_rate": 0.1}, "boundaries"),
        ({"name": "piecewise", "decay_rate": 0.1, "boundaries": (20, 10)}, "boundaries"),
        ({"name": "piecewise", "decay_rate": 0.1, "boundaries": (0, 10)}, "boundaries"),
    ],
)
def test_a_wrong_value_is_named(arguments, named):
    """Mutation: any one check left out."""
    with pytest.raises(ValueError, match=named) as error:
        schedules.build(**{"learning_rate": 0.1, **arguments})
    assert "\n" not in str(error.value)
