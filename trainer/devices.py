"""Which devices a run uses, decided without TensorFlow, so that a wrong --num_gpus fails at once.

    plan = devices.plan(config)     # Plan(strategy="mirrored", kind="CPU", replicas=2, note="...")
"""
import dataclasses
import json
import os
import pathlib
import re
import subprocess

from input_pipeline.rules import shown
from trainer.config import Config, UserError

DEVICE_FILES = "/dev"
TPU_VARIABLES = ("TPU_NAME", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "COLAB_TPU_ADDR", "TPU_WORKER_HOSTNAMES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """strategy: its resolved name. kind: CPU, GPU or TPU. replicas: over all workers, 0 where only the TPU knows.
    workers: processes. worker: this one's number. addresses: theirs, HOST:PORT, where there are several. tpu: the resolver's
    argument. notes: lines for the user."""

    strategy: str
    kind: str
    replicas: int
    workers: int = 1
    worker: int = 0
    addresses: tuple[str, ...] = ()
    tpu: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_chief(self) -> bool:
        return self.worker == 0


def visible_gpus() -> int:
    """The number of NVIDIA GPUs that TensorFlow would see: device files, else nvidia-smi, less CUDA_VISIBLE_DEVICES."""
    count = len([name for name in os.listdir(DEVICE_FILES) if re.fullmatch(r"nvidia[0-9]+", name)])
    if not count:
        try:
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=5).stdout
            count = len(re.findall(r"^GPU \d+", listing, re.MULTILINE))
        except (OSError, subprocess.TimeoutExpired):
            count = 0  # no driver: no GPU
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return count
    chosen = set()
    for name in (part.strip() for part in allowed.split(",")):
        number = re.match(r"[0-9]{1,9}", name)  # CUDA reads the digits, and lets the rest be
        device = int(number[0]) if number else name
        if number and device >= count or not number and not re.match(r"(GPU|MIG)-", name):
            break  # CUDA stops at the first name that it does not know
        if device in chosen:
            return 0  # and takes nothing of a list that names a device twice
        chosen.add(device)
    return min(len(chosen), count)


def find_tpu() -> str:
    """What --tpu=auto finds: a TPU's name or "local", "" where there is none."""
    for variable in TPU_VARIABLES:
        value = os.environ.get(variable)
        if value and variable == "COLAB_TPU_ADDR" and "://" not in value:  # HOST:PORT
            return f"grpc://{value}"
        if value:
            return "local" if variable == "TPU_WORKER_HOSTNAMES" else value
    return "local" if any(re.fullmatch(r"accel[0-9]+", name) for name in os.listdir(DEVICE_FILES)) else ""


def cluster(text: str) -> tuple[tuple[str, ...], int]:
    """(the workers' addresses, this worker's number) of a TF_CONFIG. UserError if it is not one for training."""
    try:
        value = json.loads(text)
        chiefs, workers = (value["cluster"].get(kind, []) for kind in ("chief", "worker"))
        kind, index = value["task"]["type"], int(value["task"]["index"])
        if not isinstance(chiefs, list) or not isinstance(workers, list) \
                or not all(re.fullmatch(r".+:[0-9]+", address) for address in chiefs + workers):
            raise ValueError("chief and worker must be lists of HOST:PORT")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"TF_CONFIG={shown(text)} must be JSON such as "
                        '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}; '
                        "python -m launch.local sets it") from None
    if kind not in ("chief", "worker"):
        raise UserError(f"TF_CONFIG's task {shown(kind)} does not train; run python -m trainer.evaluator there")
    if not 0 <= index < len(chiefs if kind == "chief" else workers):
        raise UserError(f"TF_CONFIG's task {kind} {index} is not in its cluster of {len(chiefs)} chief and "
                        f"{len(workers)} worker; give a smaller index, or more addresses")
    return tuple(chiefs + workers), index + (len(chiefs) if kind == "worker" else 0)


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of HOST:PORT."""
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def plan(config: Config) -> Plan:
    """The devices of `config`. UserError where they do not exist or the flags contradict each other."""
    notes = []
    tpu = config.tpu
    if not re.fullmatch(r"|grpc://\S+:[0-9]+|[^\s:]+", tpu):
        raise UserError(f"--tpu={shown(tpu)} must be a TPU's name, grpc://HOST:PORT, local or auto; give one of these")
    if tpu == "auto":
        tpu = find_tpu()
        notes.append(f"--tpu=auto found {tpu!r}" if tpu else "--tpu=auto found no TPU")
    if tpu:
        if config.emulate and config.tpu != "auto":  # beside auto it says what to fall back to, as --num_gpus does
            raise UserError(f"--emulate makes CPU replicas and --tpu={shown(tpu)} names a TPU; give one of them")
        if config.strategy not in ("auto", "tpu"):
            found = f", which found {shown(tpu)}" if config.tpu == "auto" else ""
            raise UserError(f"--strategy={config.strategy} does not run on --tpu={shown(config.tpu)}{found}; "
                            "leave --strategy out")
        if config.num_gpus is not None:
            notes.append(f"--num_gpus={config.num_gpus} is not used: the TPU's cores are the replicas")
        return Plan(strategy="tpu", kind="TPU", replicas=0, tpu=tpu, notes=tuple(notes))
    if config.strategy == "tpu":
        if config.tpu:
            raise UserError("--strategy=tpu, but --tpu=auto found no TPU; name one with --tpu, or leave --strategy out")
        raise UserError("--strategy=tpu needs --tpu; name a TPU, or leave --strategy out")
    if config.emulate and not config.num_gpus:
        asked = "without --num_gpus" if config.num_gpus is None else f"with --num_gpus={config.num_gpus}"
        raise UserError(f"--emulate {asked}: --num_gpus must say how many logical CPU devices, at least 1; "
                        "give --num_gpus=2, or --noemulate")
    kind, local = ("CPU", config.num_gpus) if config.emulate else _gpus(config)
    strategy, tf_config = config.strategy, os.environ.get("TF_CONFIG")
    if strategy == "multi_worker" and not tf_config:
        raise UserError("--strategy=multi_worker needs the environment variable TF_CONFIG; "
                        "start the workers with python -m launch.local, or set it")
    addresses, worker = cluster(tf_config) if tf_config and strategy in ("auto", "multi_worker") else ((), 0)
    workers = len(addresses)
    if strategy == "multi_worker" or workers > 1:
        if kind == "CPU" and local > 1:
            raise UserError(f"--strategy=multi_worker has one replica a process on CPUs, --num_gpus={local} asks for "
                            "more; start more workers instead, or take TF_CONFIG away")
        return Plan(strategy="multi_worker", kind=kind, replicas=workers * local, workers=workers, worker=worker,
                    addresses=addresses, notes=tuple(notes))
    if strategy == "one_device" and local > 1:
        if config.num_gpus is None:
            local = 1
        else:
            raise UserError(f"--strategy=one_device has one replica, --num_gpus={local} asks for more; "
                            "use --strategy=mirrored")
    if strategy == "auto":
        strategy = "one_device" if local == 1 else "mirrored"
    return Plan(strategy=strategy, kind=kind, replicas=local, notes=tuple(notes))


def _gpus(config: Config) -> tuple[str, int]:
    """(kind, replicas of this process) without --emulate and without a TPU."""
    if config.num_gpus == 0:
        return "CPU", 1
    there = visible_gpus()
    if config.num_gpus is None:
        return ("GPU", there) if there else ("CPU", 1)
    if config.num_gpus > there:
        seen = "1 GPU is" if there == 1 else f"{there} GPUs are"
        wanted = "1 replica" if config.num_gpus == 1 else f"{config.num_gpus} replicas"
        raise UserError(f"--num_gpus={config.num_gpus}, but {seen} visible here; "
                        f"lower it, or add --emulate to run {wanted} on the CPU")
    return "GPU", config.num_gpus


def has_fast_bfloat16(kind: str, cpuinfo: str | os.PathLike = "/proc/cpuinfo") -> bool:
    """Whether bfloat16 is the faster arithmetic of this machine's `kind` of device.

    Intel's processors since Sapphire Rapids (they have avx512_fp16) have it fast in AMX alone, which a virtual machine may
    hide: a product of 2048x2048 then reaches 166 GFLOP/s in bfloat16, 276 in float32 (2 cores of model 207, the one measured).
    """
    if kind == "TPU":
        return True
    if kind == "CPU":
        try:
            words = set(pathlib.Path(cpuinfo).read_text().split())
        except OSError:
            return False
        return "amx_bf16" in words or ("avx512_bf16" in words and not {"GenuineIntel", "avx512_fp16"} <= words)
    try:  # Ampere (compute capability 8.0) and later
        answer = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
                                capture_output=True, text=True, timeout=5).stdout.split()
        return bool(answer) and min(float(value) for value in answer) >= 8.0
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
