"""A real SLURM of two nodes on this machine: its own daemons, without munge, systemd and cgroups."""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

import pytest

import runs
from launch import cluster

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=10
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd-%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,requeue_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A cluster that runs, and its commands."""

    def __init__(self, state: pathlib.Path):
        self.variables = runs.environment(SLURM_CONF=str(state / "slurm.conf"),
                                          LAUNCH_HOST_ADDRESSES="n1=127.0.0.1,n2=127.0.0.1")

    def __call__(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, env=self.variables, timeout=60)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, ExitCode, Restarts ..."""
        words = self("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 300, **wanted: str) -> dict[str, str]:
        """Until the job is in one of the states, and the rest as wanted."""
        end = time.monotonic() + seconds
        while True:
            now = self.state(job)
            if now["JobState"] in states and all(now[name] == value for name, value in wanted.items()):
                return now
            assert time.monotonic() < end, now
            time.sleep(0.1)


@contextlib.contextmanager
def running(state: pathlib.Path):
    """Starts the daemons; skips where they are not installed."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.getuid():
        pytest.skip("needs root" if not missing else f"needs SLURM, {missing[0]} is not in PATH; "
                    "Debian: apt-get install slurmctld slurmd slurm-client slurm-wlm-basic-plugins")
    for name in ("ctld", "n1", "n2"):
        (state / name).mkdir()
    host = socket.gethostname().split(".")[0]
    (state / "slurm.conf").write_text(CONFIGURATION.format(host=host, ports=cluster.free_ports(3), state=state))
    daemons = []
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            with open(state / f"{'-'.join(command)}.out", "w") as out:
                daemons.append(subprocess.Popen([*command, "-D", "-f", str(state / "slurm.conf")], stdout=out, stderr=out,
                                                cwd=state))
        slurm = Slurm(state)

        def ready() -> bool:
            found = subprocess.run(["sinfo", "--noheader", "--format=%T %D"], capture_output=True, text=True,
                                   env=slurm.variables)
            return found.stdout.split() == ["idle", "2"]

        runs.wait_for(ready, daemons[0], 60)
        yield slurm
        slurm("scancel", "--user=root")
        runs.wait_for(lambda: not slurm("squeue", "--noheader"), seconds=60)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
