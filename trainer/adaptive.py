"""Keras's optimizers with rates for each weight, where they go wrong: Adam's for weights that begin to learn late, Adafactor's for
gradients with a row and a column of zeros.
"""
import keras
import tensorflow as tf


class Late:
    """Mixin for an Adam: variables whose gradients are 0 before `late_steps` begin there as those of a new Adam do.

    Keras corrects the bias of all averages by the updates made since the start. Averages that were 0 for that long would give up
    to 6.5 times the update: sqrt(1 - 0.999^t) / (1 - 0.9^t) is to count t from where the variable begins.
    """

    _late, _late_steps, _step = frozenset(), 0, None

    def begin_late(self, variables, late_steps, step):
        """step: a function that gives the completed steps. To be called before `build`."""
        self._late, self._late_steps, self._step = frozenset(map(self._var_key, variables)), late_steps, step

    def late_rate(self, learning_rate, variable, beta_1, beta_2):
        """The rate that makes up for Keras's count of updates."""
        if self._var_key(variable) not in self._late:
            return learning_rate

        def correction(updates):
            updates = tf.cast(updates, tf.float32)
            return tf.sqrt(1 - beta_2 ** updates) / (1 - beta_1 ** updates)

        since = tf.maximum(tf.cast(self._step(), tf.int64) - self._late_steps, 0) + 1
        return learning_rate * correction(since) / correction(self.iterations + 1)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable by its gradient."""
        super().update_step(gradient, variable, self.late_rate(learning_rate, variable, self.beta_1, self.beta_2))


class Adafactor(keras.optimizers.Adafactor):
    """Keras's Adafactor, with a path of its own for each accumulator, and without the product of row and column averages.

    Keras gives the row and the column averages of every kernel the same path, and adds placeholders for biases. It keeps their
    product, as large as the kernel; and where a row and a column of a gradient are 0, as of a dead input and a dead unit, the
    product is 0 in float32 and the update NaN.
    """

    def build(self, variables):
        """Creates the row and column averages of variables of rank 2 or more, and a velocity for each other one."""
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)
        self._r, self._c, self._v = [], [], []
        for variable in variables:
            rows = columns = velocity = None
            if len(variable.shape) < 2:
                velocity = self.add_variable_from_reference(variable, name="velocity")
            else:
                name, shape = variable.path.replace("/", "_"), tuple(variable.shape)
                without_rows = shape[:-2] + shape[-1:]
                rows = self.add_variable(shape[:-1], dtype=variable.dtype, name=f"{name}_rows")
                columns = self.add_variable(without_rows, dtype=variable.dtype, name=f"{name}_columns")
            self._r.append(rows)
            self._c.append(columns)
            self._v.append(velocity)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable by its gradient: algorithm 4 of the paper, Keras's constants."""
        if len(variable.shape) < 2:
            return super().update_step(gradient, variable, learning_rate)
        updates, index = tf.cast(self.iterations + 1, tf.float32), self._get_variable_index(variable)
        decay, squares = 1 - updates ** self.beta_2_decay, tf.square(gradient) + self.epsilon_1
        rows, columns = (decay * average + (1 - decay) * tf.reduce_mean(squares, axis)
                         for average, axis in ((self._r[index], -1), (self._c[index], -2)))
        self.assign(self._r[index], rows)
        self.assign(self._c[index], columns)
        share = rows / tf.reduce_mean(rows, -1, keepdims=True)
        step = gradient * tf.math.rsqrt(share)[..., None] * tf.math.rsqrt(columns)[..., None, :]
        step /= tf.maximum(1.0, self._rms(step) / self.clip_threshold)
        rate = tf.minimum(learning_rate, tf.math.rsqrt(updates)) * tf.maximum(self.epsilon_2, self._rms(variable))
        self.assign_sub(variable, rate * step)
