"""Laws of `trainer.optimizers`: the update is that of the plain optimizer, whatever the devices.

Gradients are multiples of 1/64, so that a sum over replicas is exact in any order and what is left to differ
is the optimizer itself.
"""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import adaptive, muon_sgd, names, optimizers

STEPS, SKIPPED = 5, 2
MOMENTUM, DECAY = 0.75, 0.125
SHAPES = {"conv_kernel": (3, 3, 2, 4), "dense_kernel": (6, 4), "bias": (4,)}
WEIGHTS = {name: np.random.default_rng(1).normal(size=shape).astype("f") for name, shape in SHAPES.items()}
GRADIENTS = {
    name: (np.random.default_rng(2).integers(-64, 64, size=(STEPS, *shape)) / 64).astype("f")
    for name, shape in SHAPES.items()
}


def make_variables(arrays=WEIGHTS):
    return [keras.Variable(array, name=name) for name, array in arrays.items()]


def build(name, variables, learning_rate=lambda: tf.constant(0.0625), decayed=(), **more):
    arguments = {"momentum": MOMENTUM, "weight_decay": DECAY, **more}
    optimizer = optimizers.build(name, learning_rate=learning_rate, decayed=decayed, **arguments)
    optimizer.build(variables)
    return optimizer


def rate_at(step):
    return 0.0625 / tf.cast(step + 1, tf.float32)


@functools.cache
def strategy_of(kind):
    # Strategies in one process share collective keys unless each starts elsewhere.
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    if kind == "one_device":
        return tf.distribute.OneDeviceStrategy("CPU:0")
    if kind == "central_storage":
        return tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(kind[-1]))])


def train(strategy, name):
    """All weights and optimizer variables after STEPS steps in the graph, one of which is skipped."""
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        variables = make_variables()
        optimizer = build(name, variables, lambda: rate_at(step), decayed=variables[:2])

    def reduced_gradients():
        context = tf.distribute.get_replica_context()
        # Every replica has a share of its own; the shares add up to the gradient.
        offset = tf.cast(2 * context.replica_id_in_sync_group - (replicas - 1), tf.float32) / 64
        own = [tf.gather(GRADIENTS[v.name], step) / replicas + offset for v in variables]
        return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

    def update(gradients):
        optimizer.apply(gradients, variables)

    @tf.function
    def loop():
        while step < STEPS:
            gradients = strategy.run(reduced_gradients)
            if step != SKIPPED:
                strategy.run(update, args=(gradients,))
            step.assign_add(1)

    loop()
    return [np.ravel(variable.numpy()) for variable in variables + optimizer.variables]


def plain_optimizer(name, learning_rate):
    decay = {"weight_decay": DECAY}
    return {
        "sgd": lambda: keras.optimizers.SGD(learning_rate, momentum=MOMENTUM),
        "adam": lambda: keras.optimizers.Adam(learning_rate),
        "adamw": lambda: keras.optimizers.AdamW(learning_rate, **decay),
        "rmsprop": lambda: keras.optimizers.RMSprop(learning_rate, momentum=MOMENTUM),
        "adafactor": lambda: adaptive.Adafactor(learning_rate),
        "lamb": lambda: keras.optimizers.Lamb(learning_rate, **decay),
        "lars": lambda: optimizers.LARS(learning_rate=learning_rate, momentum=MOMENTUM, **decay),
        "muon": lambda: keras.optimizers.Muon(
            learning_rate, momentum=MOMENTUM, nesterov=False, adam_weight_decay=DECAY, **decay
        ),
        "muon_sgd": lambda: muon_sgd.MuonSGD(learning_rate=learning_rate, momentum=MOMENTUM, **decay),
    }[name]()


@functools.cache
def train_plainly(name):
    """The same, eagerly, on one device, with the optimizer as it is without `PreReduced`."""
    arrays = dict(WEIGHTS)
    if name == "muon":
        # Keras's Muon leaves kernels of rank 4 to Adam: give it the matrix that ours makes of them.
        arrays["conv_kernel"] = arrays["conv_kernel"].reshape(18, 4)
    variables = make_variables(arrays)
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = plain_optimizer(name, lambda: rate_at(step))
    optimizer.exclude_from_weight_decay([variables[2]])
    optimizer.build(variables)
    for number in range(STEPS):
        step.assign(number)
        if number != SKIPPED:
            optimizer.apply([tf.reshape(GRADIENTS[v.name][number], v.shape) for v in variables], variables)
    return [np.ravel(variable.numpy()) for variable in variables + optimizer.variables]


def test_adafactor_is_kerass():
    """Mutations: another order of rows and columns; the decay of another step."""
    ours, theirs = make_variables(), make_variables()
    for optimizer, variables in (build("adafactor", ours), ours), (keras.optimizers.Adafactor(lambda: tf.constant(0.0625)), theirs):
        for number in range(STEPS):
            optimizer.apply([tf.constant(GRADIENTS[name][number]) for name in SHAPES], variables)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_adafactor_leaves_a_dead_unit_of_a_dead_input_as_it_is():
    """As of black pixels and a ReLU that is never on. Mutation: Keras's product of both averages, 0 in float32: NaN."""
    variables = make_variables()
    gradients = {name: GRADIENTS[name][0].copy() for name in SHAPES}
    gradients["dense_kernel"][2], gradients["dense_kernel"][:, 1] = 0, 0
    build("adafactor", variables).apply([tf.constant(g) for g in gradients.values()], variables)
    found = variables[1].numpy()
    assert np.isfinite(found).all() and (found[0] != WEIGHTS["dense_kernel"][0])[[0, 2, 3]].all()
    np.testing.assert_array_equal(found[2, 1], WEIGHTS["dense_kernel"][2, 1])


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_weights_that_begin_late_begin_as_those_of_a_new_optimizer(name):
    """Mutation: the bias of their averages is corrected as if they had learned from the start."""
    late, new, frozen = make_variables(), make_variables(), 300
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.build(name, learning_rate=lambda: tf.constant(0.0625), momentum=MOMENTUM, weight_decay=0.0, decayed=(),
                                 late=late, late_steps=frozen, step=step.read_value)
    optimizer.build(late)

    @tf.function
    def nothing():
        for _ in tf.range(frozen):
            optimizer.apply([tf.zeros_like(v.value) for v in late], late)

    nothing()
    fresh = build(name, new, weight_decay=0.0)
    for number in range(STEPS):
        step.assign(frozen + number)
        for one, variables in (optimizer, late), (fresh, new):
            one.apply([tf.constant(GRADIENTS[key][number]) for key in SHAPES], variables)
    for a, b, key in zip(late, new, SHAPES):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert np.abs(a.numpy() - WEIGHTS[key]).max() > 0.01


@pytest.mark.parametrize("kind", ["one_device", "mirrored_2", "mirrored_4", "central_storage"])
@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_any_devices_give_the_plain_update(name, kind):
    """Weights and slots. Mutations: `_all_reduce_sum_gradients` not overridden; Keras's own
    `_apply_weight_decay` in Muon; the rate of `iterations`; a convolution flattened the other way round in
    Muon, or left to Adam."""
    found, wanted = train(strategy_of(kind), name), train_plainly(name)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_lars_is_the_papers_formula():
    """Six steps in float64 NumPy. Mutations: trust coefficient outside the rate's product; decay left out of
    the denominator or of the momentum; trust or decay on biases; trust 0 where the weights are 0; momentum of
    the bare gradient (the rate applied after it)."""
    rng = np.random.default_rng(3)
    arrays = {
        "decayed_kernel": rng.normal(size=(3, 3, 2, 4)),
        "kernel": rng.normal(size=(6, 4)),
        "zero_kernel": np.zeros((5, 2)),
        "unused_kernel": rng.normal(size=(2, 2)),
        "bias": rng.normal(size=4),
    }
    gradients = [{name: rng.normal(size=array.shape) for name, array in arrays.items()} for _ in range(6)]
    for gradient in gradients:
        gradient["unused_kernel"][:] = 0
    rate = tf.Variable(0.0)
    variables = make_variables({name: array.astype("f") for name, array in arrays.items()})
    chosen = {"momentum": 0.9, "weight_decay": 0.05, "decayed": [variables[0], variables[4]]}
    optimizer = build("lars", variables, lambda: rate.read_value(), **chosen)

    slots = {name: np.zeros_like(array) for name, array in arrays.items()}
    for number, gradient in enumerate(gradients):
        rate.assign(8.0 / (number + 1))
        optimizer.apply([tf.constant(gradient[v.name], tf.float32) for v in variables], variables)
        for name, w in arrays.items():
            g, decay, trust = gradient[name], 0.05 if name == "decayed_kernel" else 0.0, 1.0
            if w.ndim >= 2 and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                trust = 0.001 * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w))
            slots[name] = 0.9 * slots[name] + 8.0 / (number + 1) * trust * (g + decay * w)
            arrays[name] = w - slots[name]
        for variable in variables:
            np.testing.assert_allclose(variable.numpy(), arrays[variable.name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_decay_touches_only_the_decayed_kernels(name):
    """With gradients of 0 only decay moves a weight. Also what Keras's Lamb does: inside the trust ratio it
    would shrink by the whole rate. Mutations: nothing excluded from decay; decay given to an optimizer whose
    L2 term belongs to the loss; Keras's own `_apply_weight_decay` in Muon (Adam's variables would have
    another decay); LARS's decay applied twice."""
    kernels = dict.fromkeys(("kernel", "head", "other"), WEIGHTS["dense_kernel"])
    variables = make_variables({**kernels, "bias": WEIGHTS["bias"]})
    optimizer = build(name, variables, decayed=variables[:2], head=variables[1:2])
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    # LARS with g = 0: rate 0.001 |w| / (decay |w|) decay w.
    shrink = 1 - 0.0625 * DECAY
    # muon_sgd with g = 0: Nesterov's first step is 1.85 of it.
    factor = {"adamw": shrink, "lamb": shrink, "muon": shrink, "lars": 1 - 0.0625 * 0.001,
              "muon_sgd": 1 - 1.85 * 0.0625 * DECAY}.get(name, 1.0)
    assert (factor != 1.0) == optimizers.decoupled(name)
    for variable in variables[:2]:
        np.testing.assert_allclose(variable.numpy(), factor * WEIGHTS["dense_kernel"], rtol=3e-7)
    np.testing.assert_array_equal(variables[2].numpy(), WEIGHTS["dense_kernel"])
    np.testing.assert_array_equal(variables[3].numpy(), WEIGHTS["bias"])


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_the_rate_is_the_callables(name):
    """Mutations: `learning_rate()` called once, when building; a rate that depends on `iterations`; a
    variable of the rate among the optimizer's."""
    rate = tf.Variable(0.0)
    variables = make_variables()
    optimizer = build(name, variables, lambda: rate.read_value(), decayed=variables[:2])
    gradients = [tf.constant(GRADIENTS[v.name][0]) for v in variables]
    optimizer.apply(gradients, variables)
    for variable in variables:
        np.testing.assert_array_equal(variable.numpy(), WEIGHTS[variable.name])
    assert optimizer.iterations == 1
    rate.assign(0.25)
    optimizer.iterations.assign(1000)
    assert float(optimizer.learning_rate) == 0.25
    optimizer.apply(gradients, variables)
    for variable in variables:
        assert np.abs(variable.numpy() - WEIGHTS[variable.name]).max() > 1e-5
    assert not [v.path for v in optimizer.variables if "rate" in v.path]


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_all_state_is_in_the_variables(name):
    """A second optimizer given weights and variables by path goes on bit for bit. Mutations: the names given
    to Keras left out (then the second's paths are numbered); Keras's own build in Adafactor (paths
    repeat)."""

    def new():
        variables = make_variables()
        return variables, build(name, variables, decayed=variables[:2])

    def update(variables, optimizer, number):
        optimizer.apply([tf.constant(GRADIENTS[v.name][number]) for v in variables], variables)

    def state(variables, optimizer):
        return {v.path: v.numpy() for v in variables + optimizer.variables}

    first, second = new(), new()
    for number in range(3):
        update(*first, number)
    saved = state(*first)
    assert len(saved) == len(first[0]) + len(first[1].variables)
    assert all(v.path.startswith(f"{name}/") for v in first[1].variables)
    for variable in second[0] + second[1].variables:
        variable.assign(saved[variable.path])
    for pair in (first, second):
        update(*pair, 3)
    for path, value in state(*first).items():
        np.testing.assert_array_equal(value, state(*second)[path], err_msg=path)


def test_plain_sgd_has_no_slots():
    """Mutation: momentum replaced by a default where it is 0."""
    variables = make_variables()
    optimizer = build("sgd", variables, momentum=0.0)
    assert [v.path for v in optimizer.variables] == ["sgd/iteration"]
    optimizer.apply([tf.constant(GRADIENTS[v.name][0]) for v in variables], variables)
    for v in variables:
        np.testing.assert_array_equal(v.numpy(), WEIGHTS[v.name] - np.float32(0.0625) * GRADIENTS[v.name][0])


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_nesterov_is_by_the_flag(name):
    """Mutation: `nesterov` not passed on."""
    results = []
    for nesterov in (False, True):
        variables = make_variables()
        optimizer = build(name, variables, nesterov=nesterov)
        for number in range(2):
            optimizer.apply([tf.constant(GRADIENTS[v.name][number]) for v in variables], variables)
        results.append(variables[1].numpy())
    assert np.abs(results[0] - results[1]).max() > 1e-3


def test_muon_leaves_the_head_and_what_is_no_matrix_to_adam():
    """Mutations: `head` ignored; one column treated as a matrix; convolutions left to Adam."""
    shapes = {
        "conv": (3, 3, 2, 4),
        "dense": (6, 4),
        "head": (4, 3),
        "depthwise": (3, 3, 4, 1),
        "column": (5, 1),
        "embedding": (9, 4),
        "local": (5, 6, 4),
        "bias": (4,),
    }
    variables = make_variables({name: np.ones(shape, "f") for name, shape in shapes.items()})
    optimizer = build("muon", variables, head=[variables[2]])
    paths = {v.path for v in optimizer.variables if v.path.endswith("_velocity")}
    assert paths == {f"muon/{name}_velocity" for name in shapes if name not in ("conv", "dense")}


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"name": "sdg"}, "sdg"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"nesterov": True}, "nesterov"),
    ],
)
def test_a_wrong_value_is_named(arguments, named):
    """Mutation: any one check left out."""
    valid = {"name": "adam", "learning_rate": lambda: 0.1, "momentum": 0.9, "weight_decay": 0.1}
    optimizers.build(**valid, decayed=[])
    with pytest.raises(ValueError, match=named) as error:
        optimizers.build(**{**valid, **arguments}, decayed=[])
    assert "\n" not in str(error.value)


def test_the_names_need_no_tensorflow():
    """Mutation: `import tensorflow` in `trainer.names`."""
    code = "import sys, trainer.names; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
