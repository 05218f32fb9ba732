"""A training run as a SLURM job: python -m launch.slurm --num_workers=4 --partition=gpu --time=4:00:00 -- FLAGS

Writes an sbatch script (--dry_run prints it) and submits it. Each task of the job's one step is a worker and builds
TF_CONFIG from SLURM's variables (launch.cluster); the first failure ends the step, and the script starts it again, up to
--max_restarts times. Before the time limit all workers save the current step, and the job goes back into the queue; so
it does after a node failure and after preemption. An evaluator runs beside the workers, on the job's first node.

The folder that this command is started in, its Python and --model_dir must be there on every node. TensorFlow's servers
listen on all addresses of the nodes: the cluster's network must be closed to others.
"""
import dataclasses
import os
import shlex
import subprocess
import sys

from input_pipeline.rules import UserError
from launch import spec
from trainer.config import option

WORD = r"[A-Za-z0-9][A-Za-z0-9._,-]*"
LATEST_SIGNAL = 60  # seconds by which SLURM may send a signal earlier than asked, see sbatch --signal

SCRIPT = r"""#!/bin/bash
{directives}
cd {folder} || exit 2
export PYTHONUNBUFFERED=1  # srun --unbuffered would be a terminal: progress bars, and stacks in pieces
limit= cancelled= first=$(mktemp)
trap 'rm -f "$first"' EXIT
# The time limit is near: every worker is told, or the evaluator that works alone, and not this script.
trap 'limit=1; scancel --signal=TERM "$SLURM_JOB_ID"; [ -z "$evaluating" ] || kill "$evaluator"' USR1
trap 'cancelled=1' TERM  # scancel or preemption: SLURM tells the workers itself, and requeues after the latter

ended() {{  # waits for a process, also when a trap interrupts that, and returns its exit code
    while wait "$1"; kill -0 "$1" 2>&-; do :; done
    wait "$1"
}}

{evaluator}
for start in $(seq 1 {starts}); do
    : > "$first"
    (trap '' TERM; set -o pipefail
     {srun} \
        {worker} 2>&1 |
        sed -un "p; s/^srun: error: .*: Exited with exit code \([0-9]*\)$/\1/w $first") &
    ended $!; code=$?
    [ ! -s "$first" ] || read -r code < "$first"  # srun's own code is the largest, so that of a worker which it ended
    case $code in 0|2|3) break;; esac  # complete, wrong, diverged: never tried again
    [ -z "$limit$cancelled" ] || break
    echo "launch.slurm: the workers ended with code $code (start $start of {starts})"
done

{ending}case $code in
    0|2|3) ;;
    *) if [ -n "$limit" ]; then
           echo "launch.slurm: the time limit is near: requeued"
           scontrol requeue "$SLURM_JOB_ID"
       fi;;
esac
exit "$code"
"""

EVALUATOR = """evaluate() {{
    CUDA_VISIBLE_DEVICES=-1 {command} &  # on the CPU
    evaluator=$!
}}
evaluate
"""
EVALUATED = """# Training is done: the rest is evaluated, by an evaluator that crashed once more.
if [ "$code" = 0 ] && [ -z "$cancelled" ]; then
    evaluating=1
    for start in 1 2; do
        [ -z "$limit" ] || kill "$evaluator" 2>&-
        ended "$evaluator"; code=$?
        [ "$code" != 0 ] && [ $start = 1 ] && [ -z "$limit$cancelled" ] || break
        evaluate
    done
else
    kill "$evaluator" 2>&-
fi

"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmJob(spec.Job):
    """What launch.slurm is told."""

    name: str = option("lockstep", "the job's name", pattern=WORD, form="letters, digits and . _ -")
    partition: str = option("", "where it runs (default: the cluster's)", pattern=WORD, form="a partition's name, such as gpu")
    time: str = option("", "the time limit of one stay on the nodes (default: the partition's)",
                       pattern=r"([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,2}){0,2}", form="like 90 (minutes), 4:00:00 or 2-00")
    gpus_per_worker: int = option(0, "GPUs of each worker (0: none are asked for)", at_least=0, at_most=1024)
    cpus_per_worker: int = option(0, "CPU cores of each worker (0: the cluster's default)", at_least=0, at_most=4096)
    nodes: int = option(0, "nodes to spread the workers over (0: as SLURM likes)", at_least=0, at_most=100_000)

    def __post_init__(self):
        super().__post_init__()
        earliest = self.warning_secs + LATEST_SIGNAL
        if 0 < limit_secs(self.time) <= earliest:
            raise UserError(f"--time={self.time} leaves no time to train: the workers are told to stop up to {earliest} s before "
                            "the limit, and the job goes back into the queue; give more")

    @property
    def warning_secs(self) -> int:
        """Before the time limit, when SLURM is asked to tell the script."""
        return round(self.grace_secs) + LATEST_SIGNAL


def limit_secs(time: str) -> int:
    """Seconds of a time as sbatch writes it: MINUTES[:SECONDS], HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]];
    0: no limit, or the partition's."""
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":") if part]
    if not days and len(parts) < 3:
        parts.insert(0, 0)
    hours, minutes, seconds = (parts + [0, 0, 0])[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def script(job: SlurmJob, *, python: str, folder: str) -> str:
    """The sbatch script. python: the interpreter on the nodes; folder: the checkout there."""
    asked = {"job-name": job.name, "ntasks": job.num_workers, "partition": job.partition, "time": job.time,
             "nodes": job.nodes, "gpus-per-task": job.gpus_per_worker, "cpus-per-task": job.cpus_per_worker}
    fixed = ["--requeue", "--open-mode=append", "--output=%x-%j.log",
             f"--signal=B:USR1@{job.warning_secs}"]
    lines = [*(f"--{name}={value}" for name, value in asked.items() if value), *fixed]
    srun = ["srun", "--kill-on-bad-exit=1", "--distribution=block", "--label"]
    if job.cpus_per_worker:
        srun.append(f"--cpus-per-task={job.cpus_per_worker}")  # since 22.05 a step does not take it from its job
    worker = job.worker_command(python)
    if job.num_workers > 1:
        worker = [python, "-m", "launch.cluster", "--", *worker]
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in lines), folder=shlex.quote(folder),
        starts=job.max_restarts + 1, srun=shlex.join(srun), worker=shlex.join(worker),
        evaluator=EVALUATOR.format(command=shlex.join(job.evaluator_command(python))) if job.evaluator else "",
        ending=EVALUATED if job.evaluator else "")


def start(job: SlurmJob) -> int:
    """Submits the job; says its number and how to follow it. Returns 0. UserError where there is no SLURM."""
    text = script(job, python=sys.executable, folder=os.getcwd())
    if job.dry_run:
        print(text, end="")
        return 0
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("sbatch is not in PATH; run this where jobs are submitted, or give --dry_run") from None
    if done.returncode:
        raise UserError(f"sbatch refused the job (code {done.returncode}): {done.stderr}")
    number = done.stdout.strip().split(";")[0]
    print(f"job {number}; follow: tail -F {job.name}-{number}.log; state: squeue --job={number}; end: scancel {number}")
    return 0


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, SlurmJob, start, name="launch.slurm", doc=__doc__))
