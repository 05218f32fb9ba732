"""Who trains together: TF_CONFIG, from free ports of this machine, from what SLURM tells a task or Kubernetes a pod.

    config = cluster.tf_config(["127.0.0.1:2222", "127.0.0.1:2223"], "worker", 1)

As a command it sets TF_CONFIG from these variables and becomes the command that follows:

    srun python -m launch.cluster -- python -m trainer.main --strategy=multi_worker
"""
import json
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence

from input_pipeline.rules import UserError, shown

FIRST_PORT, PORTS = 20_000, 12_000  # of SLURM jobs: below 32768, where Linux takes ports of outgoing connections from
MOST_HOSTS = 100_000


def tf_config(workers: Sequence[str], kind: str, index: int) -> str:
    """TF_CONFIG as JSON. workers: HOST:PORT of each. kind: worker, or evaluator, which is no part of the cluster."""
    return json.dumps({"cluster": {"worker": list(workers)}, "task": {"type": kind, "index": index}})


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, on any address; all different."""
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.socket())
            sockets[-1].bind(("", 0))  # TensorFlow's server listens on all addresses
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def local(workers: int) -> list[str]:
    """An address on this machine for each worker."""
    return [f"127.0.0.1:{port}" for port in free_ports(workers)]


def expand(text: str) -> list[str]:
    """The hosts of SLURM's list, in order: "n[1-2,07],login" are n1, n2, n07 and login. UserError if it is no list."""
    hosts: list[str] = []
    if not re.fullmatch(r"(?:[^\[\],]|\[[^\[\]]*\]|,)*", text):
        raise UserError(f"SLURM's list of hosts {shown(text)} has a bracket too many or too few")
    for part in re.findall(r"(?:[^\[\],]|\[[^\[\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            ends = [plain] if plain else _range(ranges, text)
            if len(names) * len(ends) + len(hosts) > MOST_HOSTS:
                raise UserError(f"SLURM's list of hosts {shown(text)} has more than {MOST_HOSTS} hosts")
            names = [name + end for name in names for end in ends]
        hosts += names
    return hosts


def _range(ranges: str, text: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match or int(match[2] or match[1]) - int(match[1]) not in range(MOST_HOSTS):
            raise UserError(f"SLURM's list of hosts {shown(text)}: [{shown(ranges)}] is no list of numbers and ranges")
        width = len(match[1])  # n[08-10]: leading zeros are kept
        found += [f"{number:0{width}d}" for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return found


def counts(text: str) -> list[int]:
    """SLURM's tasks per node: "2(x3),1" is [2, 2, 2, 1]. UserError if it is none."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part)
        if not match:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={shown(text)} must be like 2(x3),1; start this with srun")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def from_slurm(variables: Mapping[str, str]) -> str:
    """TF_CONFIG of the task that has these variables, started by `srun --distribution=block`.

    Every task of the step is a worker, task 0 the chief. The ports follow from the job's number, so that all tasks
    know them. LAUNCH_HOST_ADDRESSES=n1=127.0.0.1,... replaces names that do not resolve. UserError outside a step.
    """
    wanted = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE")
    missing = [name for name in wanted if not variables.get(name)]
    if missing:
        raise UserError(f"{missing[0]} is not set: this is no task of SLURM; start it with srun")
    known = dict(pair.split("=", 1) for pair in variables.get("LAUNCH_HOST_ADDRESSES", "").split(",") if "=" in pair)
    hosts, tasks = expand(variables["SLURM_STEP_NODELIST"]), counts(variables["SLURM_STEP_TASKS_PER_NODE"])
    if len(hosts) != len(tasks):
        raise UserError(f"SLURM_STEP_NODELIST={shown(variables['SLURM_STEP_NODELIST'])} has {len(hosts)} hosts, "
                        f"SLURM_STEP_TASKS_PER_NODE={shown(variables['SLURM_STEP_TASKS_PER_NODE'])} {len(tasks)}")
    # Jobs that share a host have different numbers; a host name that stands for one address must not repeat a port.
    total = sum(tasks)
    first = FIRST_PORT + int(variables["SLURM_JOB_ID"]) * 64 % (PORTS - min(total, PORTS - 1))
    owners = [host for host, count in zip(hosts, tasks) for _ in range(count)]
    workers = [f"{known.get(host, host)}:{first + k}" for k, host in enumerate(owners)]
    return tf_config(workers, "worker", int(variables["SLURM_PROCID"]))


def from_kubernetes(variables: Mapping[str, str]) -> str:
    """TF_CONFIG of a pod of an indexed job. LAUNCH_WORKERS: HOST:PORT of every worker, separated by commas."""
    workers, index = variables["LAUNCH_WORKERS"].split(","), variables.get("JOB_COMPLETION_INDEX", "")
    if not re.fullmatch("[0-9]{1,9}", index) or int(index) >= len(workers):
        raise UserError(f"JOB_COMPLETION_INDEX={shown(index)} must be the number of one of the {len(workers)} addresses "
                        "in LAUNCH_WORKERS; start this with python -m launch.kubernetes")
    return tf_config(workers, "worker", int(index))


def main(argv: list[str]) -> int:
    """Becomes the command after `--`, with TF_CONFIG. Returns 2 if it cannot."""
    try:
        if argv[1:2] != ["--"] or len(argv) < 3:
            raise UserError("a command must follow: srun python -m launch.cluster -- python -m trainer.main ...")
        here = from_kubernetes if "LAUNCH_WORKERS" in os.environ else from_slurm
        os.environ["TF_CONFIG"] = here(os.environ)
        os.execvp(argv[2], argv[2:])
    except (UserError, OSError) as error:
        print(f"launch.cluster: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
