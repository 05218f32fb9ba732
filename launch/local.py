"""Several training processes on this machine, which are one run: python -m launch.local --num_workers=2 -- FLAGS

Each worker is a process with TF_CONFIG, a share of the GPUs and a log file (MODEL_DIR/logs/worker-0.log ...); the
console shows the chief's lines, the others' errors and the evaluator's results. The first failure ends them all, and
they start again together from the last checkpoint, unless the failure is one that would come again (codes 2 and 3).
SIGTERM and SIGINT are forwarded: all workers save the same step. The exit code is the workers'.

TensorFlow's servers listen on all addresses and do what they are told. So the run gets a network namespace of its own,
where the system allows it and the run needs no network.
"""
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

from input_pipeline.rules import UserError
from launch import cluster, namespace, spec
from launch.gang import Command, Gang
from launch.logs import Logs
from trainer.config import option

DEVICE_FILES = "/dev"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalJob(spec.Job):
    """What launch.local is told."""

    log_dir: str = option("", "where the log files go (default: logs in --model_dir; logs/NAME for a run elsewhere)",
                          kind="path")
    private: bool = option(True, "keep the run's network apart, where that is possible")

    @property
    def log_folder(self) -> pathlib.Path:
        if self.log_dir:
            return pathlib.Path(self.log_dir).expanduser()
        if "://" in self.model_dir:
            return pathlib.Path("logs", self.model_dir.rstrip("/").rsplit("/", 1)[1])
        return pathlib.Path(self.model_dir).expanduser() / "logs"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; counted without TensorFlow."""
    found = [name for name in os.listdir(DEVICE_FILES) if re.fullmatch("nvidia[0-9]+", name)]
    if not found:
        try:
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=5).stdout
            found = re.findall(r"^GPU (\d+)", listing, re.MULTILINE)
        except (OSError, subprocess.TimeoutExpired):
            found = []  # no driver: no GPU
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not found:
        return [str(k) for k in range(len(found))]
    names = []
    for name in (part.strip() for part in allowed.split(",")):
        if not (name in map(str, range(len(found))) or re.match("(GPU|MIG)-", name)):
            break  # CUDA stops at the first name that it does not know
        names.append(name)
    return names


def split_gpus(job: LocalJob, names: list[str]) -> list[list[str]]:
    """Each worker's GPUs: --num_gpus of them, else an equal share. UserError where there are not enough."""
    workers, wanted = job.num_workers, job.trainer.get("num_gpus")
    if job.trainer.get("emulate"):
        wanted = 0  # emulated devices are CPUs
    if wanted is None and not names or wanted == 0:
        return [[] for _ in range(workers)]
    each = len(names) // workers if wanted is None else wanted
    if each * workers > len(names) or not each:
        there = "1 GPU is" if len(names) == 1 else f"{len(names)} GPUs are"
        asked = f"--num_workers={workers}" + (f" with --num_gpus={wanted} each" if wanted else "")
        raise UserError(f"{asked} needs {workers * (each or 1)} GPUs, {there} visible here; start fewer workers, or "
                        "give --num_gpus=0 after -- to train on the CPU")
    return [names[k * each:(k + 1) * each] for k in range(workers)]


def commands(job: LocalJob, shares: list[list[str]]) -> list[Command]:
    """The workers of one start, on ports that are free now."""
    addresses = cluster.local(job.num_workers) if job.num_workers > 1 else []
    return [Command(name=f"worker-{k}", arguments=job.worker_command(sys.executable),
                    variables={"TF_CONFIG": cluster.tf_config(addresses, "worker", k) if addresses else None,
                               "CUDA_VISIBLE_DEVICES": ",".join(share) or "-1", "PYTHONUNBUFFERED": "1"})
            for k, share in enumerate(shares)]


def evaluator(job: LocalJob) -> Command:
    """The evaluator works on the CPU, and is no part of the cluster."""
    return Command(name="evaluator", arguments=job.evaluator_command(sys.executable),
                   variables={"TF_CONFIG": None, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"})


def network_warning(job: LocalJob) -> str:
    """Gives the run a network of its own; where it cannot have one, the line that says so."""
    if job.num_workers == 1:
        return ""  # no server is started
    remote = job.remote_paths()
    problem = (f"{' and '.join(remote)} needs the network" if remote else
               namespace.isolate() if job.private else "--noprivate")
    return problem and (f"warning: the workers' gRPC servers listen on all addresses of this machine, and whoever "
                        f"reaches them can run what he likes ({problem}); keep their ports shut with a firewall")


def start(job: LocalJob) -> int:
    """Runs the job; returns its exit code."""
    shares = split_gpus(job, gpus())
    if job.dry_run:
        for each in commands(job, shares) + [evaluator(job)] * job.evaluator:
            print(spec.line_of(list(each.arguments), {k: v for k, v in each.variables.items() if v is not None}))
        return 0
    model_dir = pathlib.Path(job.model_dir).expanduser()
    at_once = bool(job.log_dir) or "://" in job.model_dir
    logs = Logs(job.log_folder, sys.stdout, ready=lambda: at_once or model_dir.is_dir())
    warning = network_warning(job)
    if warning:
        logs.say(f"launch.local: {warning}")
    return Gang(workers=lambda: commands(job, shares), evaluator=evaluator(job) if job.evaluator else None, logs=logs,
                max_restarts=job.max_restarts, grace_secs=job.grace_secs, name="launch.local").run()


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, LocalJob, start, name="launch.local", doc=__doc__))
