"""Muon for the filters of convolutions, stochastic gradient descent with Nesterov's momentum for all other weights.

    MuonSGD(learning_rate=rate, momentum=0.6, weight_decay=0.004, head=[head_kernel],
            rates=Rates(filters=0.24, head=1340.0, rest=77.0, brief=[whitening_bias], brief_steps=75, step=step))

The optimizer of the CIFAR-10 speed runs (Jordan 2024, github.com/KellerJordan/cifar10-airbench, airbench94_muon), with
gradients of the mean where those are of the sum over a batch. Every rate follows the run's schedule.

A filter bank w [h, w, in, out], gradient g, momentum m, as a matrix [h w in, out]:

    v = m v + g
    w = sqrt(out) w / |w| - rate orthogonal(g + m v)          three Newton-Schulz iterations, float32

Every other weight, with its own first rate r0, its rate now r, and the decay d a step:

    v = 0.85 v + g + d / r0 w
    w = w - r (g + d / r0 w + 0.85 v)

Filters do not decay: their norm is held. The weights in `brief` (the whitening's bias) learn in the first steps alone, at
a rate that falls linearly to 0 there, whatever the schedule.
"""
import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer import momentum as momentum_lib

MOMENTUM = 0.85  # of all but the filters
ITERATIONS = 3
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024, kellerjordan.github.io/posts/muon: steepest at 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The first rates of the filters, of the head and of the rest: learning_rate() is the filters' rate now.

    step: a function that gives the completed steps; only `brief`, with `brief_steps` > 0, needs it.
    """

    filters: float = 1.0
    head: float = 1.0
    rest: float = 1.0
    brief: Sequence[keras.Variable] = ()
    brief_steps: float = 0
    step: Callable[[], tf.Tensor] | None = None


class MuonSGD(momentum_lib.OneSlot):
    """See the module. learning_rate: a function. weight_decay: d, of what `decay_only` names."""

    def __init__(self, *, learning_rate, momentum, weight_decay, head=(), rates=Rates(), name="muon_sgd"):
        super().__init__(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay, name=name)
        # Keys, not variables: Keras would take variables in an attribute for state of the optimizer.
        self._head = frozenset(self._var_key(variable) for variable in head)
        self._brief = frozenset(self._var_key(variable) for variable in rates.brief)
        self._rates = dataclasses.replace(rates, brief=())

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable by its gradient."""
        slot, key, rates = self.slot(variable), self._var_key(variable), self._rates
        if len(variable.shape) == 4 and key not in self._head:
            self.assign(slot, self.momentum * slot + gradient)
            held = variable * (math.sqrt(variable.shape[-1]) / tf.norm(variable))
            # A rate of 0 leaves every weight as it is.
            held = tf.where(learning_rate > 0, held, tf.convert_to_tensor(variable))
            self.assign(variable, held - learning_rate * orthogonal(gradient + self.momentum * slot))
            return
        first = rates.head if key in self._head else rates.rest
        rate = learning_rate * (first / rates.filters)
        if key in self._brief and rates.brief_steps:
            rate = first * tf.maximum(0.0, 1 - tf.cast(rates.step(), tf.float32) / rates.brief_steps)
        if self._use_weight_decay(variable):
            gradient += (self.weight_decay / first) * variable
        self.assign(slot, MOMENTUM * slot + gradient)
        self.assign_sub(variable, rate * (gradient + MOMENTUM * slot))


def decayed(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    """What decays under this optimizer: all but the filters, whose norm is held, biases too."""
    return [variable for variable in variables if len(variable.shape) != 4]


def orthogonal(x: tf.Tensor) -> tf.Tensor:
    """x [..., columns] as a matrix, its singular values moved towards 1 (to 0.7 to 1.2 where they were not tiny)."""
    a, b, c = QUINTIC
    matrix = tf.reshape(x, [-1, x.shape[-1]])
    wide = matrix.shape[0] > matrix.shape[1]
    matrix = tf.transpose(matrix) if wide else matrix
    matrix /= tf.norm(matrix) + 1e-7
    for _ in range(ITERATIONS):
        gram = tf.matmul(matrix, matrix, transpose_b=True)
        matrix = a * matrix + tf.matmul(b * gram + c * tf.matmul(gram, gram), matrix)
    return tf.reshape(tf.transpose(matrix) if wide else matrix, x.shape)
