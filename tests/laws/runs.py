"""Runs the product as a user does, in processes of its own, and reads what it left: the laws are held against that."""
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left. lines: train/metrics.jsonl."""

    code: int
    out: str
    err: str
    model_dir: pathlib.Path

    @property
    def lines(self) -> list[dict]:
        return read_lines(self.model_dir / "train" / "metrics.jsonl")

    def tensors(self, step: int) -> dict[str, np.ndarray]:
        """Every tensor of a checkpoint by name."""
        import tensorflow as tf
        reader = tf.train.load_checkpoint(str(self.model_dir / "checkpoints" / f"ckpt-{step:08d}"))
        return {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(name)
                for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")}

    def published(self) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in (self.model_dir / "checkpoints").glob("ckpt-*.json"))


def read_lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(module: str, *flags: str, **options) -> list[str]:
    return [sys.executable, "-m", module, *flags, *(f"--{name}={value}" for name, value in options.items())]


def environment(**variables: str) -> dict:
    clean = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "TPU_NAME")}
    return {**clean, **variables}


def train(model_dir: pathlib.Path, *flags: str, code: int = 0, env: dict | None = None, timeout: float = 300,
          module: str = "trainer.main") -> Outcome:
    """python -m trainer.main --model_dir=... flags; the exit code is checked. module: another program of these flags."""
    done = subprocess.run(command(module, f"--model_dir={model_dir}", "--progress=none", *flags), cwd=ROOT,
                          capture_output=True, text=True, timeout=timeout, env=environment(**(env or {})))
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Outcome(done.returncode, done.stdout, done.stderr, pathlib.Path(model_dir))


def evaluate(model_dir: pathlib.Path, *flags: str, code: int = 0, timeout: float = 300) -> Outcome:
    """python -m trainer.evaluator --model_dir=... flags."""
    done = subprocess.run(command("trainer.evaluator", f"--model_dir={model_dir}", *flags), cwd=ROOT,
                          capture_output=True, text=True, timeout=timeout, env=environment())
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Outcome(done.returncode, done.stdout, done.stderr, pathlib.Path(model_dir))


def worst_difference(run: Outcome, reference: Outcome, step: int) -> dict[str, float]:
    """The largest relative difference of the losses, and that of all weights together in the norm of all weights."""
    losses = [(a["loss"], b["loss"]) for a, b in zip(run.lines, reference.lines, strict=True)]
    ours, theirs = run.tensors(step), reference.tensors(step)
    assert ours.keys() == theirs.keys()
    found = {"loss": max(abs(a - b) / abs(b) for a, b in losses)}
    for group in ("model", "ema", "optimizer"):
        names = [name for name in theirs if name.startswith(group + "/") and theirs[name].dtype.kind == "f"]
        if names:
            distance = np.sqrt(sum(np.sum(np.square(ours[n] - theirs[n], dtype=np.float64)) for n in names))
            norm = np.sqrt(sum(np.sum(np.square(theirs[n], dtype=np.float64)) for n in names))
            found[group] = float(distance / max(norm, 1e-30))
    return found


TIMES = ("examples_per_second", "data_wait_fraction")  # of the clock, not of the run


def told(run: Outcome) -> tuple[list, dict]:
    """What a run told of itself and does not depend on the clock: the metrics lines, the scalars in TensorBoard."""
    lines = [{name: value for name, value in line.items() if name not in TIMES} for line in run.lines]
    shown = {tag: points for tag, points in scalars(run.model_dir / "train").items() if tag not in TIMES}
    return lines, shown


def scalars(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows in a folder of event files: (step, value) by tag, in the order of the files."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {tag: [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors(tag)]
            for tag in events.PluginTagToContent("scalars")}


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 240) -> None:
    """Polls until `condition()`; fails when `process` ends first, or after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended with {process.returncode} too early\n{out[-2000:]}\n{err[-2000:]}")
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.005)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal (Linux)."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
