"""What a step costs on this machine, from short runs of the trainer; and what several replicas on the same cores cost then.

    cost = local_cost.measure("digits", (), facts, steps=60)
    local_cost.predicted(cost, facts)          # emulated replicas 1, 2, 4, 8 and processes 1, 2, 4, one batch spread over them

Replicas of one machine share its cores, so arithmetic does not get less: a step of one batch on n of them is

    emulated:   row_seconds x batch + n x fixed_seconds + (n > 1) x n x sum_seconds
    processes:  process_row_seconds x batch + n x process_fixed_seconds + (n - 1) x exchange_seconds      (n > 1)

row_seconds, of a row, and fixed_seconds, of a step whatever its rows (update, averages, operations' own time): a line through
one replica's steps with the batch and with an eighth of it. sum_seconds: a replica's gradients added in memory, measured with
plain arrays. The processes' figures come from a line through two processes' steps with a half and an eighth of the batch (two
processes may use two cores better than one's threads do): of what it leaves at no rows each takes fixed_seconds at most, the
rest is the exchange between them; a ring of n on shared cores sends n - 1 times as much as one of 2.
"""
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from input_pipeline.rules import UserError

ROOT = pathlib.Path(__file__).parents[1]
LOG_STEPS = 10
TOLERANCE = 0.25
REPEATS = 2  # of each run, of which the fastest counts
EMULATED, PROCESSES = (1, 2, 4, 8), (1, 2, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds, see the module; flops: operations a second that one replica's step reached on all cores."""

    row_seconds: float
    fixed_seconds: float
    sum_seconds: float
    process_row_seconds: float
    process_fixed_seconds: float
    exchange_seconds: float
    flops: float


def step_seconds(recipe: str, flags: tuple[str, ...], **what) -> float:
    """The time of a step in REPEATS runs of the trainer, in the fastest of their lines: what else the machine does only adds
    to it. what: as of `_one_run`. UserError where a run fails."""
    return min(_one_run(recipe, flags, **what) for _ in range(REPEATS))


def _one_run(recipe: str, flags: tuple[str, ...], *, batch: int, steps: int, emulated: int = 0, processes: int = 0) -> float:
    """A run of one replica, of `emulated` ones, or of so many processes."""
    own = [f"--recipe={recipe}", *flags, f"--global_batch_size={batch}", f"--train_steps={steps}", f"--log_steps={LOG_STEPS}",
           "--summary_steps=0", "--histogram_steps=0", "--checkpoint_steps=0", "--eval_steps=0", "--progress=none"]
    with tempfile.TemporaryDirectory() as folder:
        own.append(f"--model_dir={folder}/run")
        if processes:
            command = ["launch.local", f"--num_workers={processes}", "--max_restarts=0", "--", *own, "--num_gpus=0"]
        else:
            command = ["trainer.main", *own, *([f"--num_gpus={emulated}", "--emulate"] if emulated else ["--num_gpus=0"])]
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the run to be measured ended with code {done.returncode}: {done.stderr[-400:]}")
        lines = [json.loads(line) for line in pathlib.Path(folder, "run/train/metrics.jsonl").read_text().splitlines()]
    return batch / max(line["examples_per_second"] for line in lines)


def sum_seconds(size: int) -> float:
    """Seconds to add one array of `size` bytes of float32 to another, and to copy the sum: the median of 9."""
    import numpy as np
    first, second = np.ones(max(1, size // 4), np.float32), np.ones(max(1, size // 4), np.float32)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        np.add(first, second, out=first)
        np.copyto(second, first)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(recipe: str, flags: tuple[str, ...], found: dict, steps: int) -> Cost:
    """Four short runs: one replica with the batch and an eighth of it, two processes with a half and an eighth of it."""
    batch = found["global_batch_size"]
    if batch % 8:
        raise UserError(f"--global_batch_size={batch} must divide by 8 to be spread over 8 replicas; give one that does, "
                        "after --")
    eighth, half = batch // 8, batch // 2
    whole = step_seconds(recipe, flags, batch=batch, steps=steps)
    part = step_seconds(recipe, flags, batch=eighth, steps=steps)
    row, fixed = line(eighth, part, batch, whole)
    two = [step_seconds(recipe, flags, batch=rows, steps=steps, processes=2) for rows in (eighth, half)]
    process_row, left = line(eighth, two[0], half, two[1])
    each = min(fixed, left / 2)
    size = sum(sum(program["collectives"]) for program in found["programs"])
    operations = sum(program["flops"] for program in found["programs"]) * batch / found["rows"]
    return Cost(row_seconds=row, fixed_seconds=fixed, sum_seconds=sum_seconds(size),
                process_row_seconds=process_row, process_fixed_seconds=each, exchange_seconds=left - 2 * each,
                flops=operations / whole)


def line(x: float, y: float, x2: float, y2: float) -> tuple[float, float]:
    """(slope, height at 0) of the line through two points, neither negative: noise may make one so."""
    slope = min(max((y2 - y) / (x2 - x), 0.0), y2 / x2)
    return slope, y2 - slope * x2


def emulated_seconds(cost: Cost, batch: int, n: int) -> float:
    """A step of n emulated replicas, see the module."""
    return cost.row_seconds * batch + n * cost.fixed_seconds + (n * cost.sum_seconds if n > 1 else 0.0)


def process_seconds(cost: Cost, batch: int, n: int) -> float:
    """A step of n processes, see the module."""
    if n == 1:
        return cost.row_seconds * batch + cost.fixed_seconds
    return cost.process_row_seconds * batch + n * cost.process_fixed_seconds + (n - 1) * cost.exchange_seconds


def predicted(cost: Cost, found: dict) -> list[dict]:
    """One entry for each number of replicas, emulated and in processes; the batch is the recipe's for all."""
    batch = found["global_batch_size"]
    entries = [{"kind": "emulated", "replicas": n, "step_seconds": emulated_seconds(cost, batch, n)} for n in EMULATED]
    entries += [{"kind": "processes", "replicas": n, "step_seconds": process_seconds(cost, batch, n)} for n in PROCESSES]
    alone = entries[0]["step_seconds"]
    # Of shared cores: 1 where replicas cost nothing beyond one replica's step.
    return [{**one, "global_batch_size": batch, "examples_per_second": batch / one["step_seconds"],
             "efficiency": alone / one["step_seconds"]} for one in entries]


def checked(recipe: str, flags: tuple[str, ...], entries: list[dict], steps: int) -> list[dict]:
    """`entries` with what was measured, and the error of the prediction in parts of that."""
    done = []
    for one in entries:
        kind = {"emulated": one["replicas"]} if one["kind"] == "emulated" else {"processes": one["replicas"]}
        seconds = step_seconds(recipe, flags, batch=one["global_batch_size"], steps=steps, **kind)
        done.append({**one, "measured_seconds": seconds, "error": one["step_seconds"] / seconds - 1})
    return done


def text(result: dict) -> str:
    """The prediction, and where it was checked the measurements, as a table."""
    cost = result["measured"]
    lines = [f"{result['recipe']} on this machine's cores, one batch of {result['plan'][0]['global_batch_size']} spread over "
             f"the replicas; measured: {cost['row_seconds'] * 1e6:.3g} us a row, {cost['fixed_seconds'] * 1e3:.3g} ms a replica "
             f"and step, {cost['sum_seconds'] * 1e3:.3g} ms a sum in memory, {cost['exchange_seconds'] * 1e3:.3g} ms between "
             f"processes; {cost['flops'] / 1e9:.3g} GFLOP/s", "kind        replicas  step ms  efficiency  measured ms    error"]
    for one in result["plan"]:
        measured = f"{one['measured_seconds'] * 1e3:13.2f}{one['error']:+9.1%}" if "error" in one else ""
        lines.append(f"{one['kind']:12}{one['replicas']:8}{one['step_seconds'] * 1e3:9.2f}{one['efficiency']:12.1%}{measured}")
    return "\n".join(lines)
