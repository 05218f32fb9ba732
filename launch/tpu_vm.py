"""A run on a Cloud TPU: python -m launch.tpu_vm --name=mine --zone=us-central2-b --accelerator_type=v4-8 -- FLAGS

Runs gcloud commands, which --dry_run prints: asks for the TPU (a queued resource), waits until it is there, copies this
checkout to all of its hosts, installs TensorFlow for TPUs there, and starts the run, which from then on needs this
machine no more: launch.local on the first host restarts it after a crash, with an evaluator beside it. On a slice of
several hosts every one runs TensorFlow's TPU server, and the trainer on the first drives them all.

    --action=run       all of that; what is there already is not done again; a preempted TPU is asked for anew
    --action=follow    shows the log until the run ends
    --action=stop      SIGTERM: the current step is saved; --action=run goes on from there
    --action=status    the state of the request
    --action=delete    gives the TPU back. Until then it costs money

The disk goes with the TPU, and a spot TPU may go at any time: give a --model_dir=gs://... The hosts' TensorFlow servers
listen on all addresses, without authentication: the project's firewall must keep port 8470 shut. Needs gcloud, logged in.
Written to the documentation; never run on a TPU.
"""
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from input_pipeline.rules import UserError, one_line
from launch import spec
from trainer.config import option

FOLDER = "lockstep"  # on the hosts, in the home folder
COPIED = ("models", "input_pipeline", "trainer", "launch", "requirements.txt")
# Instead of the TensorFlow without TPU support the newest one with it, which brings its own TensorBoard.
SET_UP = fr"""set -e
mkdir -p {FOLDER} && tar -xzf {FOLDER}.tar.gz -C {FOLDER} && cd {FOLDER}
[ -e .venv/.installed ] && exit
sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv
python3.11 -m venv .venv
grep -Ev '^(tensorflow|tensorboard|pytest.*|hypothesis)==' requirements.txt > requirements-tpu.txt
.venv/bin/pip install --quiet tensorflow-tpu==2.20.0 -r requirements-tpu.txt \
    -f https://storage.googleapis.com/libtpu-tf-releases/index.html
touch .venv/.installed"""
SERVER = f"""cd {FOLDER}; pgrep -f '[s]tart_grpc_tpu_worker' > /dev/null || \
(setsid nohup .venv/bin/start_grpc_tpu_worker > server.log 2>&1 < /dev/null &)"""
FREE = "if [ -e run.pid ] && kill -0 $(cat run.pid) 2>&-; then echo 'it runs already; see --action=follow' >&2; exit 2; fi"
IDLE = f"cd {FOLDER} 2>&- || exit 0\n{FREE}"  # looked at before the code there is replaced, too
START = f"""cd {FOLDER}
{FREE}
setsid nohup {{command}} > run.log 2>&1 < /dev/null &
echo $! > run.pid"""
FOLLOW = f"cd {FOLDER} && tail -n +1 --pid=$(cat run.pid) -F run.log"
STOP = f"cd {FOLDER} && kill -TERM $(cat run.pid) && tail -n 0 --pid=$(cat run.pid) -F run.log"

ACTIVE, LOST = "ACTIVE", ("SUSPENDED", "FAILED")
POLL_SECS = 15.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuJob(spec.Job):
    """What launch.tpu_vm is told."""

    name: str = option("lockstep", "of the queued resource and of the TPU", pattern="[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
                       form="lower-case letters, digits and -, a letter first")
    zone: str = option("", "where, such as us-central2-b", pattern="[a-z0-9-]+", form="a zone's name, such as us-central2-b")
    project: str = option("", "the Google Cloud project (default: gcloud's)", pattern="[a-z0-9:.-]+",
                          form="a project's identifier, such as my-project")
    accelerator_type: str = option("", "which TPU, such as v4-8 or v5litepod-16", pattern=r"[a-z0-9]+-[0-9]+",
                                   form="like v4-8")
    runtime_version: str = option("tpu-ubuntu2204-base", "the hosts' image", pattern="[a-z0-9._-]+",
                                  form="an image's name, such as tpu-ubuntu2204-base")
    spot: bool = option(False, "a spot TPU: cheaper, and may be taken away at any time")
    action: str = option("run", "what to do", choices=("run", "follow", "stop", "status", "delete"))

    def __post_init__(self):
        super().__post_init__()
        if self.num_workers != 1:
            raise UserError(f"--num_workers={self.num_workers}: one process drives a whole TPU; leave it out")
        if not self.zone:
            raise UserError("--zone must say where the TPU is, such as --zone=us-central2-b")
        if self.action == "run" and not self.accelerator_type:
            raise UserError("--accelerator_type must say which TPU, such as --accelerator_type=v4-8")
        for name in ("tpu", "num_gpus", "emulate"):
            if name in self.trainer:
                raise UserError(f"--{name} after --: this launcher says which TPU it is; leave it out")

    @property
    def several_hosts(self) -> bool:
        """Whether it is a slice of more than one host, which has 8 cores (v2, v3, v4, v5p) or chips (v5e, v6e) at most."""
        return int(self.accelerator_type.rsplit("-", 1)[1]) > 8


def place(job: TpuJob) -> list[str]:
    """What every gcloud command ends with."""
    return [f"--zone={job.zone}", *([f"--project={job.project}"] if job.project else []), "--quiet"]


def request(job: TpuJob, verb: str, *more: str) -> list[str]:
    """A command about the queued resource."""
    return ["gcloud", "compute", "tpus", "queued-resources", verb, job.name, *more, *place(job)]


def create(job: TpuJob) -> list[str]:
    """Asks for the TPU."""
    return request(job, "create", f"--node-id={job.name}", f"--accelerator-type={job.accelerator_type}",
                   f"--runtime-version={job.runtime_version}", *(["--spot"] if job.spot else []))


def ssh(job: TpuJob, worker: str, text: str) -> list[str]:
    """A shell command on one host, or on all."""
    return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", job.name, f"--worker={worker}", f"--command={text}",
            *place(job)]


def starting(job: TpuJob, archive: str) -> list[tuple[str, list[str]]]:
    """(what it does, command) of everything between the TPU's arrival and the first step."""
    tpu = ["--tpu=local"]
    if job.several_hosts:
        tpu = [f"--tpu={job.name}", f"--tpu_zone={job.zone}",
               *([f"--gcp_project={job.project}"] if job.project else [])]
    own = [*(["--evaluator"] if job.evaluator else []), f"--max_restarts={job.max_restarts}",
           f"--grace_secs={job.grace_secs:g}",
           *([f"--hang_timeout_secs={job.hang_timeout_secs:g}"] if job.hang_timeout_secs is not None else [])]
    run = [".venv/bin/python", "-m", "launch.local", *own, "--", *job.trainer_flags, *tpu]
    servers = [("start the TPU server on all hosts", ssh(job, "all", SERVER))] if job.several_hosts else []
    return [("see that nothing runs", ssh(job, "0", IDLE)), ("pack", ["tar", "-czf", archive, "--exclude=__pycache__", *COPIED]),
            ("copy to all hosts", ["gcloud", "compute", "tpus", "tpu-vm", "scp", archive, f"{job.name}:{FOLDER}.tar.gz",
                                   "--worker=all", *place(job)]),
            ("set up all hosts", ssh(job, "all", SET_UP)), *servers,
            ("start the run", ssh(job, "0", START.format(command=shlex.join(run))))]


def plan(job: TpuJob, archive: str) -> list[tuple[str, list[str]]]:
    """(what it does, command) of an action, in order."""
    if job.action == "run":
        return [("ask for the TPU", create(job)), ("wait until it is ACTIVE", describe(job)), *starting(job, archive)]
    return [{"follow": ("follow", ssh(job, "0", FOLLOW)), "stop": ("stop", ssh(job, "0", STOP)),
             "status": ("status", describe(job)), "delete": ("delete", request(job, "delete", "--force"))}[job.action]]


def describe(job: TpuJob) -> list[str]:
    """Prints the state of the request."""
    return request(job, "describe", "--format=value(state.state)")


class Failed(Exception):
    """A command failed: what it was for, its exit code."""


def do(what: str, command: list[str]) -> None:
    """Runs one command, whose own words go to the user. Failed if it fails."""
    print(f"launch.tpu_vm: {what}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise Failed(f"{what} failed with code {code}: {one_line(shlex.join(command))}")


def state(job: TpuJob) -> str:
    """The state of the request; "" if there is none."""
    done = subprocess.run(describe(job), capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip()
    if re.search(r"NOT_FOUND|not found", done.stderr):
        return ""
    raise Failed(f"asking for the state failed with code {done.returncode}: {one_line(done.stderr)}")


def obtain(job: TpuJob, sleep: Callable[[float], None]) -> None:
    """Asks for the TPU unless it is there, and waits for it. Failed if it will not come."""
    now = state(job)
    if now in LOST:
        do(f"delete what is left of the TPU ({now})", request(job, "delete", "--force"))
        now = ""
    if not now:
        do("ask for the TPU", create(job))
    said = None
    while (now := state(job)) != ACTIVE:
        if now in LOST or not now:
            raise Failed(f"the TPU does not come: its request is {now or 'gone'}; see --action=status and gcloud")
        if now != said:
            print(f"launch.tpu_vm: {now}", flush=True)
        said = now
        sleep(POLL_SECS)


def start(job: TpuJob, sleep: Callable[[float], None] = time.sleep) -> int:
    """Does what --action says. Returns 0, or 1 if a command failed. UserError where there is no gcloud."""
    if job.dry_run:
        for what, command in plan(job, f"{FOLDER}.tar.gz"):
            print(f"# {what}\n{shlex.join(command)}")
        return 0
    if not shutil.which("gcloud"):
        raise UserError("gcloud is not in PATH; install the Google Cloud SDK, or give --dry_run")
    try:
        if job.action == "run":
            run(job, sleep)
        else:
            for what, command in plan(job, ""):
                do(what, command)
    except Failed as error:
        print(f"launch.tpu_vm: {error}", file=sys.stderr)
        return 1
    return 0


def run(job: TpuJob, sleep: Callable[[float], None]) -> None:
    """--action=run. Failed at the first command that fails."""
    if "://" not in job.model_dir:
        print(f"launch.tpu_vm: warning: --model_dir={job.model_dir} is on the TPU's disk, which goes with it; give a "
              "--model_dir=gs://...", file=sys.stderr)
    missing = [name for name in COPIED if not os.path.exists(name)]
    if missing:
        raise UserError(f"{missing[0]} is not in {os.getcwd()}; start this in the checkout")
    same = f"--name={job.name} --zone={job.zone}" + (f" --project={job.project}" if job.project else "")
    print(f"launch.tpu_vm: from now on it may cost money, until: python -m launch.tpu_vm --action=delete {same}",
          flush=True)
    obtain(job, sleep)
    with tempfile.TemporaryDirectory() as folder:
        for what, command in starting(job, os.path.join(folder, f"{FOLDER}.tar.gz")):
            do(what, command)
    print(f"launch.tpu_vm: it runs; follow: python -m launch.tpu_vm --action=follow {same}")


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, TpuJob, start, name="launch.tpu_vm", doc=__doc__))
