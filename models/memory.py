"""What a network takes of memory in training, for the message that says it does not fit.

    memory = estimate(model)
    memory.parameters, memory.activations      # bytes of the variables; bytes a row of the batch
    print(advice(model, rows=128, replicas=2))
    # about 1.9 GiB on each device: 64 rows x 28.1 MiB of activations, 128.0 MiB of weights, ...

An estimate from below: what every layer gives is kept for the backward pass, work space and fragments are not
counted.
"""

import dataclasses
import math

import keras

STATES = 4  # float32 numbers of a weight that learns: itself, its gradient and two moments (Adam's)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. parameters: of all variables, trainable: of those that learn. activations: of the outputs of all
    layers, for one row of the batch."""

    parameters: int
    trainable: int
    activations: int

    @property
    def weights(self) -> int:
        """Of the variables with their gradients and the optimizer's moments."""
        return self.parameters + (STATES - 1) * self.trainable

    def total(self, *, rows) -> int:
        """Of a training step with `rows` rows on a device."""
        return self.weights + self.activations * rows


def estimate(model) -> Memory:
    """What `model`, a built Functional network, takes."""
    def size(variables):
        return sum(math.prod(v.shape) * _bytes(v.dtype) for v in variables)

    activations = 0
    for layer in model.layers:
        outputs = layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]
        activations += sum(math.prod(output.shape[1:]) * _bytes(output.dtype) for output in outputs)
    return Memory(parameters=size(model.variables), trainable=size(model.trainable_variables),
                  activations=activations)


def advice(model, *, rows, replicas=1, grad_accum_steps=1) -> str:
    """One line for a user whose device ran out of memory. rows: of the global batch, which divides evenly."""
    memory, here = estimate(model), rows // replicas // grad_accum_steps
    half = here // 2
    largest = max(model.layers, key=_bytes_a_row)
    parts = f", or --grad_accum_steps={2 * grad_accum_steps}" * (here % 2 == 0)
    smaller = (f"; with {half} rows (--global_batch_size={half * replicas * grad_accum_steps}{parts}) "
               f"{text(memory.total(rows=half))}") * (half > 0)
    return (f"the network takes at least {text(memory.total(rows=here))} on each device: {here} rows x "
            f"{text(memory.activations)} of activations and {text(memory.weights)} of weights, gradients and "
            f"optimizer{smaller}; the largest layer is {largest.name!r} with {text(_bytes_a_row(largest))} a row, so that "
            "smaller images, fewer blocks or a smaller --model help too")


def _bytes_a_row(layer):
    output = layer.output
    return math.prod(output.shape[1:]) * _bytes(output.dtype) if isinstance(output, keras.KerasTensor) else 0


def _bytes(dtype):
    return {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "bool": 1}.get(str(dtype), 4)


def text(count) -> str:
    """A number of bytes for a user."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1024
    return f"{count:.1f} GiB"
