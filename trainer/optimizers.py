"""Optimizers by name, in the form that takes gradients which are already summed over the replicas.

The train step all-reduces once, then clips and judges the gradient, then applies it. Keras's optimizers sum
over replicas inside `apply`, after decay and clipping, which would count every gradient once more for each
replica; here `apply` takes the gradients as they come. Nothing else of Keras's arithmetic is changed; the
classes below say where a little is added. The learning rate comes from the trainer's own step, so an update
that was skipped does not shift the schedule (an optimizer's `iterations` counts the updates made, which is
what Adam's bias correction needs).

    with strategy.scope():
        optimizer = optimizers.build(
            "adamw", learning_rate=lambda: rate(step), momentum=0.0, weight_decay=0.05, decayed=kernels
        )
        optimizer.build(model.trainable_variables)
    strategy.run(lambda gradients: optimizer.apply(gradients, model.trainable_variables), args=(gradients,))

All state is in `optimizer.variables`; their paths are unique, and the same in every process.
"""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer import adaptive, muon_sgd, names
from trainer import momentum as momentum_lib


def build(
    name: str,
    *,
    learning_rate: Callable[[], tf.Tensor],
    momentum: float,
    weight_decay: float,
    decayed: Sequence[keras.Variable],
    nesterov: bool = False,
    head: Sequence[keras.Variable] = (),
    rates: muon_sgd.Rates = muon_sgd.Rates(),
    late: Sequence[keras.Variable] = (),
    late_steps: int = 0,
    step: Callable[[], tf.Tensor] | None = None,
) -> keras.optimizers.Optimizer:
    """Returns the named optimizer. This, and then its `build(trainable_variables)`, in the strategy's scope.

    | name | update | weight decay |
    |---|---|---|
    | sgd | v = momentum v - rate g, w += v; Nesterov: w += momentum v - rate g; momentum 0: no slots | loss |
    | adam | Kingma and Ba 2014, arXiv:1412.6980; 0.9, 0.999 | loss |
    | adamw | adam | w -= rate weight_decay w, before the update (arXiv:1711.05101) |
    | rmsprop | rho 0.9, the rate inside the momentum | loss |
    | adafactor | Shazeer and Stern 2018, arXiv:1804.04235; see below | loss |
    | lamb | You et al. 2019, arXiv:1904.00962; see below | as adamw |
    | lars | `LARS`, below | inside the trust ratio |
    | muon | `Muon`, below | as adamw |
    | muon_sgd | see the module of that name | inside the momentum |

    "loss": the trainer adds weight_decay w to the gradient, this optimizer is given none (see `decoupled`).

    Keras's Adafactor uses min(rate, 1 / sqrt(t)) x max(0.001, rms(w)), t the updates made: rates above 1 /
    sqrt(t) have no effect. Keras's Lamb decays as adamw does, before the update, where the paper has
    weight_decay w inside the trust ratio: phi(|w|) (r + weight_decay w) / |r + weight_decay w|. So here the
    decay is not rescaled by the trust ratio and does not enter its denominator. All variables, biases too,
    have a trust ratio (1 where |w| is 0).

    Args:
        name: one of `names.OPTIMIZERS`.
        learning_rate: a function without arguments that returns the rate, a float32 scalar tensor. It should
            read the trainer's step variable: it is called in the graph, in replica context and in updates.
        momentum: in [0, 1), for `names.MOMENTUM`; the others ignore it.
        weight_decay: for `names.DECOUPLED`; the others ignore it.
        decayed: the variables that decay; all others never do.
        nesterov: for sgd and muon.
        head: output layer, which muon leaves to Adam and muon_sgd to SGD; the others ignore it.
        rates: of muon_sgd's groups; the others ignore it.
        late: variables whose gradients are 0 before `late_steps`, of the completed steps that `step` gives: see `adaptive.Late`.

    Raises:
        ValueError: a value breaks its rule; the message names it.
    """
    decays = decoupled(name)
    if not callable(learning_rate):
        raise ValueError(f"learning_rate {learning_rate!r} must be a function: use lambda: rate(step)")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum {momentum!r} must be at least 0 and below 1: use 0.9, say")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay {weight_decay!r} must be finite and not negative: use 0 for none")
    if nesterov and name not in ("sgd", "muon"):
        raise ValueError(f"nesterov {nesterov!r} is for optimizer sgd or muon, not for {name}: leave it out")

    # The name is given so that paths are the same in every process: Keras numbers unnamed optimizers.
    arguments = {"name": name, "learning_rate": learning_rate}
    if name in names.MOMENTUM:
        arguments["momentum"] = float(momentum)
    if decays:
        arguments["weight_decay"] = float(weight_decay)
    if name in ("sgd", "muon"):
        arguments["nesterov"] = nesterov
    if name in ("muon", "muon_sgd"):
        arguments["head"] = head
    if name == "muon_sgd":
        arguments["rates"] = rates
    optimizer = _CLASSES[name](**arguments)
    optimizer.decay_only(decayed if weight_decay else ())
    if late and isinstance(optimizer, adaptive.Late):
        optimizer.begin_late(late, late_steps, step)
    return optimizer


def decoupled(name: str) -> bool:
    """Whether the optimizer decays weights itself; if not, the L2 term belongs to the loss."""
    if name not in names.OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown: use one of {', '.join(names.OPTIMIZERS)}")
    return name in names.DECOUPLED


class PreReduced:
    """Mixin for a Keras optimizer: `apply` takes gradients that are summed over the replicas already."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars

    def decay_only(self, variables):
        """Lets only these variables decay. To be called before `build`."""
        # Keys, not variables: Keras would take variables in an attribute for state of the optimizer.
        self._decayed = frozenset(self._var_key(variable) for variable in variables)

    def build(self, variables):
        """Creates the slots. Inside the strategy's scope, before the first `apply` and before a
        checkpoint."""
        if self.built:
            return
        self.exclude_from_weight_decay([v for v in variables if self._var_key(v) not in self._decayed])
        super().build(variables)
        paths = [variable.path for variable in self.variables]
        assert len(paths) == len(set(paths)), f"optimizer paths are not unique: {sorted(paths)}"


class LARS(momentum_lib.OneSlot):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, arXiv:1708.03888, algorithm 1).

    For each variable w of rank 2 or more, with gradient g, decay b and trust coefficient 0.001:

        trust = 0.001 |w| / (|g| + b |w|)        1 where that is 0 / 0 or |w| is 0
        v     = momentum v + rate trust (g + b w)
        w     = w - v

    Biases and scales (rank below 2) have trust 1 and b 0. Norms are Euclidean, over the whole variable.
    """

    def __init__(self, *, learning_rate, momentum, weight_decay, trust_coefficient=0.001, name="lars"):
        super().__init__(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay, name=name)
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable by its gradient."""
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        if len(variable.shape) >= 2:
            decay = self.weight_decay if self._use_weight_decay(variable) else 0.0
            weight_norm = tf.norm(variable)
            scale = tf.math.divide_no_nan(weight_norm, tf.norm(gradient) + decay * weight_norm)
            rate *= tf.where(scale > 0, self.trust_coefficient * scale, 1.0)
            gradient += decay * variable
        slot = self.slot(variable)
        self.assign(slot, self.momentum * slot + rate * gradient)
        self.assign_sub(variable, slot)


class Muon(adaptive.Late, keras.optimizers.Muon):
    """Keras's Muon (Jordan 2024; scaled as in Liu et al. 2025, arXiv:2502.16982), which knows convolutions.

    Matrices of dense layers, and convolution kernels [h, w, in, out] taken as matrices [h w in, out] as in
    Jordan's implementation (Keras's leaves them to Adam), move by the orthogonalised momentum. Adam, at the
    same rate (the 0.2 sqrt(max(rows, columns)) of Liu et al. makes the rates comparable), moves the rest:
    ranks other than 2 and 4, one row or column alone (depthwise kernels among them), embeddings, and the
    variables in `head`.
    """

    def __init__(self, *, learning_rate, momentum, nesterov, weight_decay, head=(), name="muon"):
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            name=name,
        )
        self._head = frozenset(self._var_key(variable) for variable in head)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable by its gradient."""
        if self.adam_velocities[self._get_variable_index(variable)] is not None:
            learning_rate = self.late_rate(learning_rate, variable, self.adam_beta_1, self.adam_beta_2)
        keras.optimizers.Muon.update_step(self, gradient, variable, learning_rate)

    def _should_use_adamw(self, variable):
        if self._var_key(variable) in self._head or len(variable.shape) not in (2, 4):
            return True
        if 1 in _matrix_shape(variable):
            return True
        return self.exclude_embeddings and "embedding" in variable.path.lower()

    def _apply_weight_decay(self, variables):
        # Keras's Muon assigns in replica context, which central storage refuses for lack of an aggregation,
        # and has a second decay for the variables that are Adam's.
        keras.optimizers.Optimizer._apply_weight_decay(self, variables)

    def zeropower_via_newtonschulz5(self, x, steps):
        """Orthogonalises x, [rows, columns] or [h, w, in, out], by Newton-Schulz iterations. Same shape."""
        matrix = tf.reshape(x, _matrix_shape(x))
        return tf.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x):
        """Scales an orthogonal update to a root mean square of about 0.2, as Adam's has."""
        return x * (self.rms_rate * math.sqrt(max(_matrix_shape(x))))


def _matrix_shape(x):
    """(rows, columns) of a kernel as a matrix: its last dimension is the columns."""
    return math.prod(x.shape[:-1]), x.shape[-1]


def _pre_reduced(optimizer_class, *mixins):
    return type(optimizer_class.__name__, (PreReduced, *mixins, optimizer_class), {})


_CLASSES = {
    "sgd": _pre_reduced(keras.optimizers.SGD),
    "adam": _pre_reduced(keras.optimizers.Adam, adaptive.Late),
    "adamw": _pre_reduced(keras.optimizers.AdamW, adaptive.Late),
    "rmsprop": _pre_reduced(keras.optimizers.RMSprop),
    "adafactor": _pre_reduced(adaptive.Adafactor),
    "lamb": _pre_reduced(keras.optimizers.Lamb),
    "lars": _pre_reduced(LARS),
    "muon": _pre_reduced(Muon),
    "muon_sgd": _pre_reduced(muon_sgd.MuonSGD),
}
assert tuple(_CLASSES) == names.OPTIMIZERS
