"""Tortures the installation: kill -9 at every moment, other numbers of devices, damaged checkpoints, full disks.

    python -m tests.torture --kills=200          # from the folder of the checkout; some 45 minutes on 2 CPU cores
    python -m tests.torture --kills=10           # some 5 minutes: a drawn selection of everything

Real processes of the trainer and the evaluator, on emulated devices, one trainer and one evaluator at a time. What they
leave is compared with undisturbed runs, bit for bit where --deterministic promises it: every tensor of the checkpoints,
metrics lines, order of examples, TensorBoard, evaluations. Ends with a table; the exit code is 0 if everything was equal
and 1 if anything was not. The parts:

  kills        killed with -9 at drawn moments and started again until the run ends, alone and beside an evaluator that
               is killed too: {float32, bfloat16} x {1 replica, 2 mirrored, 2 with central storage}
  operations   killed at each file operation of one save and its deletes (needs strace)
  elastic      stopped on 4 replicas, finished on 1 and on 2
  damage       each file of the newest checkpoint truncated, changed, exchanged, deleted
  disk         a disk that is full in mid-save, one that cannot be written (needs unshare and a mount)
  workers      a gang of 4 workers and an evaluator, of which one after the other is killed or stopped; only where --only
               names it

The moments are drawn from --seed; when exactly a process reaches them is up to the machine.
"""
import pathlib
import random
import shutil
import signal
import sys
import tempfile

from absl import app, flags, logging

from tests.torture import damage, disk, elastic, kills, operations, processes, settings, workers
from tests.torture.tally import Tally
from trainer import quiet

USUAL = ("kills", "operations", "elastic", "damage", "disk")
PARTS = (*USUAL, "workers")
ALL_FROM = 100  # kills from which on the other parts try everything

flags.DEFINE_integer("kills", 60, "kills of the part `kills`, over all configurations, at least; below "
                     f"{ALL_FROM} the other parts try a drawn selection", lower_bound=1)
flags.DEFINE_integer("seed", None, "of the moments and places (default: drawn, and printed)", lower_bound=0)
flags.DEFINE_list("only", list(USUAL), f"comma-separated parts of {', '.join(PARTS)}")
flags.DEFINE_list("configurations", list(settings.CONFIGURATIONS), "comma-separated configurations of the part `kills`")
flags.DEFINE_bool("keep", False, "keep the folders of what failed")
for _name, _choices in (("only", PARTS), ("configurations", settings.CONFIGURATIONS)):
    flags.register_validator(_name, lambda given, choices=_choices: bool(given) and set(given) <= set(choices),
                             f"must be some of {', '.join(_choices)}")


def main(argv: list[str]) -> int:
    """Runs the chosen parts. Returns the exit code."""
    if argv[1:]:
        raise app.UsageError(f"{argv[1]} is not a flag")
    values = flags.FLAGS
    seed = values.seed if values.seed is not None else random.SystemRandom().randrange(10**6)
    tally = Tally()
    tally.say(f"seed {seed}, {values.kills} kills, parts {', '.join(values.only)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended too
    logging.set_verbosity(logging.ERROR)  # TensorBoard's reader tells of every file and every restart
    quiet.import_tensorflow(errors=False)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-torture-"))
    selection = 10**6 if values.kills >= ALL_FROM else max(2, values.kills // 4)
    references = settings.References(scratch, tally)
    parts = {
        "kills": lambda draw: kills.run(scratch, tally, references, draw, kills=values.kills,
                                        configurations=values.configurations),
        "operations": lambda draw: operations.run(scratch, tally, references, draw, most=selection),
        "elastic": lambda draw: elastic.run(scratch, tally, draw, most=max(1, selection // 10)),
        "damage": lambda draw: damage.run(scratch, tally, draw, most=selection),
        "disk": lambda draw: disk.run(scratch, tally, draw, most=selection),
        "workers": lambda draw: workers.run(scratch, tally, draw, kills=values.kills)}
    try:
        for part in values.only:
            try:
                parts[part](random.Random(f"{seed} {part}"))
            except (RuntimeError, AssertionError) as error:  # a run failed that others were to be compared with
                tally.fail(part, str(error))
    except KeyboardInterrupt:
        tally.fail("torture", "interrupted")
    finally:
        processes.end_all()
        if tally.failures and values.keep:
            tally.say(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    print(tally.table())
    return tally.code


if __name__ == "__main__":
    app.run(main)
