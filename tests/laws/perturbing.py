"""The trainer with first weights that are changed by 1e-7 of themselves: python -m tests.laws.perturbing <trainer flags>

What that makes of a run is what rounding alone can make of it: float32 rounds by 6e-8 of a number.
"""
import runpy
import sys

import numpy as np

from trainer import quiet

CHANGE = 1e-7


def perturbed(begin):
    """`trainer.start.begin` that changes what it begins with."""
    def begun(experiment, run):
        result = begin(experiment, run)
        random = np.random.default_rng(0)
        for variable in experiment.model.trainable_variables:
            variable.assign(variable.numpy() * (1 + CHANGE * random.choice([-1, 1], variable.shape)).astype(np.float32))
        return result
    return begun


if __name__ == "__main__":
    quiet.import_tensorflow(errors=False)
    from trainer import start
    start.begin = perturbed(start.begin)
    sys.argv[0] = "trainer.main"
    runpy.run_module("trainer.main", run_name="__main__")
