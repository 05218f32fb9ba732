"""Law 2 across a change of devices: stopped or killed on 4 replicas, gone on with on 1 and on 2, the same run goes on.

The same examples in the same order; losses, weights, slots, moving averages and batch statistics within law 1's tolerance.
"""
import pathlib
import random
import shutil
import time

import numpy as np

from tests.laws import runs
from tests.torture import folder, settings
from tests.torture.processes import Process
from tests.torture.settings import BOUND
from tests.torture.tally import Tally

STEPS, CHECKPOINT_STEPS = 40, 4
STOPS = (12, 26)  # steps after which a process is ended
TOLERANCE = 1e-5
FLAGS = (*settings.FLAGS, "--precision=float32", f"--train_steps={STEPS}", f"--checkpoint_steps={CHECKPOINT_STEPS}",
         "--keep_checkpoints=3", "--summary_steps=0", "--histogram_steps=0")
REPLICAS = {1: ("--num_gpus=0", "--noemulate"), 2: ("--num_gpus=2", "--emulate"), 4: ("--num_gpus=4", "--emulate")}
# Replicas of the first, the second and the last process; how the first and the second are ended.
PATHS = (((4, 1, 2), ("SIGTERM", "kill -9")), ((4, 2, 1), ("kill -9", "SIGTERM")))


def run(scratch: pathlib.Path, tally: Tally, draw: random.Random, *, most: int) -> None:
    """Up to `most` of the paths, drawn."""
    tally.say("elastic: undisturbed run on 4 replicas")
    whole = scratch / "elastic-whole"
    settings.to_the_end(Process(settings.trainer(whole, *FLAGS, *REPLICAS[4]), scratch / "elastic-logs" / "whole"))
    for path, ways in draw.sample(PATHS, min(most, len(PATHS))):
        where = f"elastic, {path[0]} replicas, {ways[0]}, {path[1]}, {ways[1]}, {path[2]}"
        failures, model_dir = len(tally.failures), scratch / where.replace(", ", "-").replace(" ", "_")
        if _go(model_dir, tally, where, path, ways):
            _compare(tally, where, runs.Outcome(0, "", "", model_dir), runs.Outcome(0, "", "", whole))
        if len(tally.failures) == failures:
            shutil.rmtree(model_dir)


def _go(model_dir: pathlib.Path, tally: Tally, where: str, path: tuple, ways: tuple) -> bool:
    """The three processes; whether they ended as they should."""
    for k, replicas in enumerate(path):
        before = folder.look(model_dir).newest
        process = Process(settings.trainer(model_dir, *FLAGS, *REPLICAS[replicas]),
                          model_dir.with_name(model_dir.name + "-logs") / f"{k}")
        tally.count("starts of the trainer")
        if k == len(path) - 1:
            code = process.wait(BOUND)
            return tally.check("exit code", where, code == 0, f"the last process ended with {code}\n{process.told()}")
        while process.poll() is None and process.age < BOUND and folder.look(model_dir).line < STOPS[k]:
            time.sleep(0.0005)
        if ways[k] == "SIGTERM":
            process.terminate()
            code = process.wait(BOUND)
            if not tally.check("exit code", where, code == 143, f"after SIGTERM it ended with {code}\n{process.told()}"):
                return False
            look = folder.look(model_dir)
            tally.check("SIGTERM saves the current step", where, look.newest == look.line,
                        f"saved is step {look.newest}, told is step {look.line}")
        else:
            if not tally.check("exit code", where, process.kill(), f"it ended too early\n{process.told()}"):
                return False
            tally.kill("trainer: stepping, before a change of devices")
        newest = folder.look(model_dir).newest
        tally.say(f"{where}: {replicas} replicas ended by {ways[k]}, newest checkpoint {newest}")
        if not tally.check("stopped between the ends", where, before < newest < STEPS, f"from {before} to {newest}"):
            return False
    raise AssertionError("the last process is waited for")


def _compare(tally: Tally, where: str, ours: runs.Outcome, whole: runs.Outcome) -> None:
    digests = [[line["batch_digest"] for line in run.lines] for run in (ours, whole)]
    steps = [line["step"] for line in ours.lines]
    if not tally.check("metrics lines, each step once", where, steps == list(range(1, STEPS + 1)), f"steps {steps}"):
        return
    tally.compare(where, {"batch digest": STEPS}, {"batch digest": [
        f"step {k}: {a}, undisturbed {b}" for k, (a, b) in enumerate(zip(*digests), start=1) if a != b]})
    found = runs.worst_difference(ours, whole, STEPS)
    for name, value in found.items():
        tally.check("within law 1's tolerance", where, value < TOLERANCE, f"{name} differs by {value:.1e} (relative)")
    counters = [{name: value for name, value in run.tensors(STEPS).items() if value.dtype.kind in "iu"} for run in (ours, whole)]
    for name, value in counters[1].items():
        tally.check("counters in the checkpoint", where, np.array_equal(counters[0][name], value),
                    f"{name} is {counters[0][name]}, undisturbed {value}")
    tally.say(f"{where}: largest differences {', '.join(f'{name} {value:.1e}' for name, value in found.items())}")
