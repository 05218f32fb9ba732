"""`trainer.muon_sgd` against its formulas in NumPy, float64."""
import keras
import numpy as np
import tensorflow as tf

from trainer import muon_sgd, optimizers

SHAPES = {"conv": (3, 3, 2, 4), "wide": (1, 1, 3, 8), "head": (5, 3), "bias": (4,), "whiten": (6,)}
DECAYED = ("head", "bias", "whiten")
RATES = {"head": 8.0, "bias": 2.0, "whiten": 2.0}  # first ones; the filters' is 0.25
DECAY, FILTER_MOMENTUM, BRIEF_STEPS, STEPS = 0.01, 0.6, 2, 4


def polynomial(x):
    """Newton-Schulz on the singular values, which is what it does."""
    u, s, v = np.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return ((u * s) @ v).reshape(x.shape)


def test_it_is_its_formula():
    """Mutations: the norm held of all but the last step; the momentum without Nesterov's form; the decay times the
    rate of another group; the brief rate by the schedule; the decay on filters; one momentum for all."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    gradients = [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(STEPS)]
    variables = {name: keras.Variable(value.astype("f"), name=name) for name, value in weights.items()}
    rate, step = tf.Variable(0.0), tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.build(
        "muon_sgd", learning_rate=lambda: rate.read_value(), momentum=FILTER_MOMENTUM, weight_decay=DECAY,
        decayed=[variables[name] for name in DECAYED], head=[variables["head"]],
        rates=muon_sgd.Rates(filters=0.25, head=8.0, rest=2.0, brief=[variables["whiten"]], brief_steps=BRIEF_STEPS,
                             step=lambda: step.read_value()))
    optimizer.build(list(variables.values()))
    slots = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for number, gradient in enumerate(gradients):
        fraction = 1 - number / STEPS
        rate.assign(0.25 * fraction)
        step.assign(number)
        optimizer.apply([tf.constant(gradient[name], tf.float32) for name in SHAPES], list(variables.values()))
        for name, w in weights.items():
            g = gradient[name]
            if w.ndim == 4:
                slots[name] = FILTER_MOMENTUM * slots[name] + g
                held = w * np.sqrt(w.shape[-1]) / np.linalg.norm(w)
                weights[name] = held - 0.25 * fraction * polynomial(g + FILTER_MOMENTUM * slots[name])
                continue
            now = max(0, 1 - number / BRIEF_STEPS) if name == "whiten" else fraction
            g = g + DECAY / RATES[name] * w
            slots[name] = 0.85 * slots[name] + g
            weights[name] = w - now * RATES[name] * (g + 0.85 * slots[name])
        for name, variable in variables.items():
            np.testing.assert_allclose(variable.numpy(), weights[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_orthogonal_lifts_every_singular_value():
    """Mutation: a transposed product for tall matrices."""
    for shape in (3, 3, 16, 8), (1, 1, 8, 32):
        x = np.random.default_rng(1).normal(size=shape).astype("f")
        found = np.linalg.svd(muon_sgd.orthogonal(tf.constant(x)).numpy().reshape(-1, shape[-1]), compute_uv=False)
        assert found.min() > 0.5 and found.max() < 1.3, found


def test_what_decays():
    """Mutation: biases left out."""
    variables = [keras.Variable(np.zeros(shape, "f"), name=name) for name, shape in SHAPES.items()]
    assert [variable.name for variable in muon_sgd.decayed(variables)] == list(DECAYED)
