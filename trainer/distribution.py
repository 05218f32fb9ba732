"""The tf.distribute strategy of a plan, and what must be set before anything else touches TensorFlow.

    strategy = distribution.build(config, plan)
    with strategy.scope(): ...
"""
import ctypes
import dataclasses
import os

import keras
import tensorflow as tf

from trainer import devices, signals, tpu
from trainer.config import Config, UserError

# For glibc's mallopt(3): its parameters' numbers in malloc.h, and bytes. What a step frees goes back to the system, and every page of
# it comes again with a fault (500 a step of cifar10_tutorial, 17,000 of cifar10_resnet18): some is kept. Measured in WORKSPACE.md.
MALLOC = {"M_MMAP_THRESHOLD": (-3, 32 << 20), "M_TRIM_THRESHOLD": (-1, 512 << 20), "M_TOP_PAD": (-2, 64 << 20)}
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def build(config: Config, plan: devices.Plan) -> tf.distribute.Strategy:
    """Sets up memory, devices, threads, numerics and seeds; returns the strategy. Call it once, first of all.

    UserError where TensorFlow does not see the devices that the plan counts on.
    """
    _keep_memory()
    numerics(dataclasses.replace(config, intra_op_threads=intra_op_threads(config, plan)))
    if plan.strategy == "tpu":
        return _tpu(config, plan)
    found = _local_devices(config, plan)
    if plan.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy(found[0])
    if plan.strategy == "mirrored":
        return tf.distribute.MirroredStrategy(found, cross_device_ops=_cross_device_ops(config, plan))
    if plan.strategy == "central_storage":
        return tf.distribute.experimental.CentralStorageStrategy(found, parameter_device="/cpu:0")
    implementation = {"ring": "RING", "nccl": "NCCL"}.get(config.all_reduce, "AUTO")
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=getattr(tf.distribute.experimental.CommunicationImplementation, implementation)))
    signals.take_back()
    return strategy


def intra_op_threads(config: Config, plan: devices.Plan) -> int:
    """Threads inside an operation, 0 for TensorFlow's choice: 1 where this machine's replicas alone keep every core busy, so
    that none waits for parts of another's operations (2, 4, 8 emulated replicas on 2 cores: 5 to 15 % less a step)."""
    hosts = [address.rsplit(":", 1)[0] for address in plan.addresses]
    here = plan.replicas // plan.workers * (hosts.count(hosts[plan.worker]) if hosts else 1)
    crowded = plan.kind == "CPU" and here > 1 and here >= len(os.sched_getaffinity(0))
    return config.intra_op_threads or int(crowded)


def _keep_memory() -> None:
    """Sets MALLOC, where the C library is glibc and the user has not told it otherwise."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)


def numerics(config: Config) -> None:
    """Threads, precision, seeds and determinism, before anything else touches TensorFlow."""
    if config.intra_op_threads:  # 0 is what TensorFlow does unasked
        tf.config.threading.set_intra_op_parallelism_threads(config.intra_op_threads)
    if config.inter_op_threads:
        tf.config.threading.set_inter_op_parallelism_threads(config.inter_op_threads)
    keras.mixed_precision.set_global_policy(POLICIES[config.precision])
    # Or NVIDIA's GPUs since Ampere would round the inputs of products to 10 bits and call it float32.
    tf.config.experimental.enable_tensor_float_32_execution(config.precision != "float32")
    keras.utils.set_random_seed(config.seed % 2**32)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def _local_devices(config: Config, plan: devices.Plan) -> list[str]:
    """The names of this process's replicas' devices; hides what is not used."""
    gpus = tf.config.list_physical_devices("GPU")
    local = plan.replicas // plan.workers
    if plan.kind == "GPU":
        if len(gpus) < local:
            asked = f"--num_gpus={local}" if config.num_gpus else f"this machine has {local} GPU{'s' * (local > 1)}"
            raise UserError(f"{asked}, but TensorFlow sees {len(gpus)}; install its CUDA libraries (pip install "
                            f"'tensorflow[and-cuda]=={tf.__version__}'), or give --num_gpus={len(gpus)}")
        tf.config.set_visible_devices(gpus[:local], "GPU")
        for gpu in gpus[:local]:
            tf.config.experimental.set_memory_growth(gpu, True)
        return [f"/gpu:{k}" for k in range(local)]
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * local)
    return [f"/cpu:{k}" for k in range(local)]


def _cross_device_ops(config: Config, plan: devices.Plan) -> tf.distribute.CrossDeviceOps | None:
    name = config.all_reduce
    if name == "auto":  # on emulated devices, one sum in memory is faster than a ring through it
        name = "reduction_to_one_device" if plan.kind == "CPU" else "nccl"
    return {"nccl": tf.distribute.NcclAllReduce, "hierarchical_copy": tf.distribute.HierarchicalCopyAllReduce,
            "reduction_to_one_device": tf.distribute.ReductionToOneDevice}[name]()


def _tpu(config: Config, plan: devices.Plan) -> tf.distribute.Strategy:
    """Waits for the TPU, connects to it and initialises it. UserError with the reason where that fails."""
    tpu.ready(plan.tpu, zone=config.tpu_zone, project=config.gcp_project, version=tf.__version__,
              say=lambda line: print(f"trainer: {line}", flush=True))
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=plan.tpu, zone=config.tpu_zone or None, project=config.gcp_project or None)
        if plan.tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # the resolver raises what its HTTP, gRPC and credential libraries raise
        reason = " ".join(str(error).split())[:300]
        if "ConfigureDistributedTPU" in reason:
            reason = "this TensorFlow has no TPU support; on a TPU VM install tensorflow-tpu"
        raise UserError(f"--tpu={config.tpu} cannot be used: {type(error).__name__}: {reason}") from error


def describe(strategy: tf.distribute.Strategy, config: Config, plan: devices.Plan) -> list[str]:
    """Lines for the user: devices used and not used, replicas, batch arithmetic."""
    replicas = strategy.num_replicas_in_sync
    used = sorted({name for name in strategy.extended.worker_devices})
    unused = [d.name for d in tf.config.list_physical_devices()
              if d.device_type == "GPU" and plan.kind != "GPU"]
    rows = config.global_batch_size // replicas
    lines = [*plan.notes,
             f"strategy {plan.strategy}: {replicas} replica{'s' * (replicas > 1)} on "
             + ", ".join(tf.DeviceSpec.from_string(name).to_string().split("/device:")[-1] for name in used)
             + (f"; not used: {', '.join(unused)}" if unused else "")
             + (f"; worker {plan.worker} of {plan.workers}" if plan.workers > 1 else "")]
    parts = f"{replicas} x {rows}" + (f" ({config.grad_accum_steps} micro-batches of {rows // config.grad_accum_steps})"
                                      if config.grad_accum_steps > 1 else "")
    return lines + [f"global batch {config.global_batch_size} = {parts}; {config.precision} arithmetic, float32 weights"
                    + ("; XLA" if config.xla else "") + ("; deterministic" if config.deterministic else "")]
