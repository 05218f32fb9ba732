"""The runs that are tortured: their flags, and the undisturbed runs that they are compared with.

    references = References(scratch, tally)
    reference = references.get("float32-mirrored")
    reference.left.lines, reference.separate().evaluations
"""
import dataclasses
import functools
import pathlib
import shutil

from tests.laws import runs
from tests.torture import compare
from tests.torture.processes import Process
from tests.torture.tally import Tally

STEPS, CHECKPOINT_STEPS, EVAL_STEPS, KEEP = 180, 12, 60, 2
BOUND = 600  # seconds after which a process that should have ended is taken for hanging

# Dropout, synchronised batch normalisation, moving averages, decay, clipping; every step told.
FLAGS = ("--model=digits_cnn_regularized", "--deterministic", "--optimizer=adamw", "--weight_decay=0.05", "--clip_norm=1",
         "--label_smoothing=0.1", "--ema_decay=0.99", "--log_steps=1", "--progress=none")
# Summaries soon after a checkpoint, so that most kills leave some beyond the step that the next process resumes from.
CADENCE = (f"--train_steps={STEPS}", f"--checkpoint_steps={CHECKPOINT_STEPS}", "--summary_steps=10",
           "--histogram_steps=20")
_DEVICES = {"1": ("--num_gpus=0",), "mirrored": ("--num_gpus=2", "--emulate", "--strategy=mirrored"),
            "central_storage": ("--num_gpus=2", "--emulate", "--strategy=central_storage")}
CONFIGURATIONS = {f"{precision}-{devices}": (*FLAGS, f"--precision={precision}", *flags)
                  for precision in ("float32", "bfloat16") for devices, flags in _DEVICES.items()}


def trainer(model_dir: pathlib.Path, *flags: str) -> list[str]:
    """The training command."""
    return runs.command("trainer.main", f"--model_dir={model_dir}", *flags)


def evaluator(model_dir: pathlib.Path, *flags: str) -> list[str]:
    """The evaluation command."""
    return runs.command("trainer.evaluator", f"--model_dir={model_dir}", "--poll_secs=0.05", *flags)


def to_the_end(process: Process) -> Process:
    """Waits for its end. RuntimeError if it fails: what is compared with it would mean nothing."""
    code = process.wait(BOUND)
    if code != 0:
        raise RuntimeError(f"{' '.join(process.arguments)} ended with {code}\n{process.told()}")
    return process


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """An undisturbed run that keeps every checkpoint. left: what it left, with its inline evaluations. pace: seconds from
    its start to its first step."""

    model_dir: pathlib.Path
    left: compare.Left
    pace: float

    @functools.cached_property
    def separate(self) -> compare.Left:
        """The same run as a separate evaluator sees it: every checkpoint evaluated, in order."""
        copy = self.model_dir.with_name(self.model_dir.name + "-separate")
        shutil.copytree(self.model_dir, copy, ignore=shutil.ignore_patterns("eval"))
        to_the_end(Process(evaluator(copy, "--run_once"), copy.with_name(copy.name + "-evaluator")))
        left = compare.read(copy)
        shutil.rmtree(copy)
        return left


class References:
    """Makes the undisturbed run of a configuration when it is first asked for."""

    def __init__(self, scratch: pathlib.Path, tally: Tally):
        self._scratch, self._tally, self._made = scratch, tally, {}

    def get(self, name: str) -> Reference:
        if name not in self._made:
            self._tally.say(f"{name}: undisturbed run")
            folder = self._scratch / f"reference-{name}"
            process = Process(trainer(folder, *CONFIGURATIONS[name], *CADENCE, "--keep_checkpoints=1000",
                                      f"--eval_steps={EVAL_STEPS}"), folder.with_name(folder.name + "-trainer"))
            runs.wait_for(lambda: process.poll() is not None or (folder / "train" / "metrics.jsonl").exists(), seconds=BOUND)
            pace = process.age
            to_the_end(process)
            left = compare.read(folder)
            assert left.published == list(range(CHECKPOINT_STEPS, STEPS + 1, CHECKPOINT_STEPS)), left.published
            assert not compare.zigzags(left) and left.lines[-1]["step"] == STEPS
            self._made[name] = Reference(folder, left, pace)
        return self._made[name]
