"""A strategy of any number of replicas that runs nothing: every `strategy.run` becomes one program of its replicas.

    strategy = ReplicaPrograms(16)
    with strategy.scope(): ...                   # network, optimizer, state, step, loop: the real ones
    loop.trace(batches)                          # traces the loop, and with it one program a strategy.run
    strategy.programs[0].stablehlo()             # bytes for XLA's compilers

What a replica does is traced once, as under tf.distribute's TPUStrategy, and sums over replicas are XLA's all-reduce.
"""
import dataclasses
import math

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute.one_device_strategy import OneDeviceExtended
from tensorflow.python.eager.polymorphic_function import compiler_ir

from input_pipeline.datasets import Info

# What a TPU program may not hold: no kernel there, or a size that depends on the data.
HOST_OPERATIONS = ("PyFunc", "EagerPyFunc", "NumpyFunction", "PyFuncStateless", "Print", "PrintV2", "Timestamp",
                   "IteratorGetNext", "Where", "Unique", "UniqueV2", "DynamicPartition", "BooleanMask", "DecodeJpeg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What one `strategy.run` does on each replica. Its arguments are `inputs`, by name, and then `variables`.
    collectives: bytes of each all-reduce that it asks for, before the compiler merges any."""

    concrete: object
    specs: list
    inputs: list[str]
    variables: list[tf.Variable]
    collectives: list[int]

    def stablehlo(self) -> bytes:
        """The program, serialized as portable StableHLO. ValueError or tf.errors.OpError where XLA cannot have it."""
        return compiler_ir.from_concrete_function(self.concrete, self.specs)(stage="stablehlo_serialized")

    def flops(self) -> int:
        """Floating-point operations of products, convolutions and elementwise arithmetic, by TensorFlow's own count."""
        return _flops(self.concrete.graph)

    def problems(self) -> list[str]:
        """What keeps it from a TPU: operations of the host, strings, shapes that are not known. [] if nothing does."""
        found = []
        for graph in graphs(self.concrete.graph):
            for operation in graph.get_operations():
                if operation.type in HOST_OPERATIONS:
                    found.append(f"{operation.type} {operation.name}")
                for tensor in () if operation.inputs and _is_scratch(operation.inputs[0]) else operation.outputs:
                    if _is_scratch(tensor):
                        continue
                    if tensor.dtype == tf.string:
                        found.append(f"string {tensor.name}")
                    elif tensor.dtype not in (tf.resource, tf.variant) and not tensor.shape.is_fully_defined():
                        found.append(f"shape {tensor.shape} of {tensor.name}")
        return found


def _flops(graph) -> int:
    """A graph's own, and those of the functions that it calls; of two branches the larger."""
    profiler = tf.compat.v1.profiler
    options = {**profiler.ProfileOptionBuilder.float_operation(), "output": "none"}
    total = profiler.profile(graph=graph, cmd="scope", options=options).total_float_ops
    for operation in graph.get_operations():
        total += max(map(_flops, _called(graph, operation)), default=0)
    return total


def _is_scratch(tensor) -> bool:
    """Batch normalisation's sixth output: scratch of GPUs, of a size that TensorFlow does not know, and of which its gradient
    makes zeros that nobody reads."""
    return tensor.op.type == "FusedBatchNormV3" and tensor.value_index == 5


def graphs(graph):
    """A function's graph and those of the functions that it calls."""
    yield graph
    for called in {inner for operation in graph.get_operations() for inner in _called(graph, operation)}:
        yield from graphs(called)


def _called(graph, operation):
    """The graphs of the functions that an operation of `graph` calls."""
    return [graph._get_function(attr.func.name).graph for attr in operation.node_def.attr.values() if attr.func.name]


class ReplicaPrograms(tf.distribute.Strategy):
    """See the module. programs: those that were traced since it was last cleared."""

    def __init__(self, replicas: int):
        self.programs, self.replicas = [], replicas
        super().__init__(_Extended(self, "/cpu:0"))


class _Extended(OneDeviceExtended):
    """One device's variables and contexts, many replicas' sums."""

    collectives = None  # of the program that is being traced
    worker_devices = ("/device:TPU:0",)  # what the programs are for; layers that take other ways on a CPU ask

    @property
    def _num_replicas_in_sync(self):
        return self._container_strategy().replicas

    def _reduce_to(self, reduce_op, value, destinations, options):
        assert reduce_op == tf.distribute.ReduceOp.SUM, reduce_op
        self.collectives.append(math.prod(value.shape) * value.dtype.size)
        groups = tf.constant([list(range(self._num_replicas_in_sync))], tf.int32)
        return gen_xla_ops.xla_all_reduce(input=value, group_assignment=groups, reduce_op="Add", mode="CrossReplica")

    def _call_for_each_replica(self, fn, args, kwargs):
        inside = super()._call_for_each_replica
        self.collectives = collectives = []

        @tf.function(jit_compile=True, autograph=False)
        def program(*flat):
            return inside(fn, tf.nest.pack_sequence_as(args, flat), kwargs)

        flat = [tf.convert_to_tensor(value) for value in tf.nest.flatten(args)]
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in flat]
        concrete = program.get_concrete_function(*specs)
        names = ["/".join(map(str, path)) for path in _paths(args)]
        variables = {id(v.handle): v for v in concrete.graph.variables}
        captured = [variables.get(id(tensor)) for tensor in concrete.captured_inputs]
        assert all(v is not None for v in captured), "the replicas' function takes a tensor from outside that is no argument"
        self._container_strategy().programs.append(Program(
            concrete=concrete, specs=specs, inputs=names, variables=captured, collectives=collectives))
        return concrete(*flat)


def _paths(value, before=()):
    """The keys that lead to each leaf, in the order of tf.nest.flatten."""
    if isinstance(value, dict):
        return [path for key in sorted(value) for path in _paths(value[key], (*before, key))]
    if isinstance(value, (list, tuple)):
        return [path for k, part in enumerate(value) for path in _paths(part, (*before, k))]
    return [before]


class Shapes:
    """A source that knows what its examples look like, and holds none: zeros."""

    def __init__(self, info: Info):
        self.info, self.input_shape, self.classes = info, info.input_shape, info.classes

    def __len__(self) -> int:
        return self.info.train_examples

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Zeros for `indices`, [b]."""
        rows = indices.shape[0]
        examples = {"input": tf.zeros([rows, *self.input_shape],
                                      tf.float32 if self.info.target_shape else tf.uint8)}
        if self.info.target_shape:
            return {**examples, "target": tf.zeros([rows, *self.info.target_shape])}
        return {**examples, "label": tf.zeros([rows], tf.int32)}
