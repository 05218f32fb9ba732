"""What optimizers with one slot a variable, their momentum, have in common.

    class Mine(OneSlot):
        def update_step(self, gradient, variable, learning_rate): ...     # with self.momentum, self.slot(variable)
"""
import keras


class OneSlot(keras.optimizers.Optimizer):
    """learning_rate: a function. momentum: a number. weight_decay: of what `decay_only` names, a part of `update_step`."""

    def __init__(self, *, learning_rate, momentum, weight_decay, name):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name=name)
        self.momentum = momentum

    def build(self, variables):
        """Creates one slot a variable."""
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def slot(self, variable):
        """The variable's slot."""
        return self._momentums[self._get_variable_index(variable)]

    def _apply_weight_decay(self, variables):
        """Does nothing: the decay is part of `update_step`."""
