"""The real train step, lowered by a process of the trainer's: what launch.plan and launch.tpu_check look at.

    found = lowered.lower(16, folder, ["--recipe=digits"])      # what folder/lowering.json says, see trainer.lowering
"""
import json
import pathlib
import subprocess
import sys

from input_pipeline.rules import UserError, one_line
from launch import spec

ROOT = pathlib.Path(__file__).parents[1]


class DoesNotLower(RuntimeError):
    """The step cannot be lowered: the last line that was said of it."""


def lower(replicas: int, folder: str, flags: list[str]) -> dict:
    """Lowers the step of the trainer's `flags` for so many replicas into `folder`. UserError for wrong flags; DoesNotLower."""
    done = subprocess.run([sys.executable, "-m", "trainer.lowering", str(replicas), folder, *flags], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode == spec.WRONG:
        raise UserError(done.stderr.strip().removeprefix("trainer.lowering: "))
    if done.returncode:
        raise DoesNotLower(f"the step does not lower: {one_line(last_line(done.stderr))}")
    return json.loads(pathlib.Path(folder, "lowering.json").read_text())


def last_line(text: str) -> str:
    """The last line of what a process said."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason was given"
