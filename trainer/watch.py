"""Which checkpoints were evaluated: the ledger of a split, its lock, its best, and the loop of the separate evaluator.

    eval/<split>/metrics.jsonl     the ledger: a line per step and kind of weights, both lines in one write
    eval/<split>/skipped.jsonl     the steps that will never have one, and why
    eval/<split>/best.json         the best so far
    eval/<split>/evaluator.json    there is a separate evaluator: the trainer keeps what it has not evaluated

    ledger = Ledger(model_dir, "test", best="precision_at_1")
    with ledger.lock():
        for step in ledger.pending(manifest.published(folder)): ...
"""
import contextlib
import fcntl
import json
import os
import pathlib
import time

from trainer import manifest
from trainer.config import UserError
from trainer.writers import JsonLines

KEEP_UNEVALUATED = 20  # checkpoints beyond --keep_checkpoints that wait for a separate evaluator at most,
KEEP_UNEVALUATED_SECONDS = 24 * 3600  # and for how long


class Ledger:
    """What is known of one split. best: the metric whose largest value makes a checkpoint the best one."""

    def __init__(self, model_dir: str | os.PathLike, split: str, *, best: str = "precision_at_1"):
        self.folder = pathlib.Path(model_dir, "eval", split)
        self.best_metric = best
        self._metrics = JsonLines(self.folder / "metrics.jsonl")
        self._skipped = JsonLines(self.folder / "skipped.jsonl")

    @contextlib.contextmanager
    def lock(self):
        """Held while evaluating, by a separate evaluator all its life. UserError if another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock", f"another evaluator works on {self.folder}"):
            yield

    def results(self) -> list[dict]:
        """The evaluation lines, in the order in which they were written."""
        return JsonLines.read(self._metrics.path) if os.path.exists(self._metrics.path) else []

    def settled(self) -> set[int]:
        """The steps with a result or with a recorded reason why there is none."""
        skipped = JsonLines.read(self._skipped.path) if os.path.exists(self._skipped.path) else []
        return {line["step"] for line in self.results()} | {line["step"] for line in skipped}

    def pending(self, published: list[int]) -> list[int]:
        """The published steps that are not settled, ascending."""
        settled = self.settled()
        return [step for step in published if step not in settled]

    def record(self, step: int, results: dict[str, dict]) -> None:
        """Writes the results of one step, {"ema": {...}, "raw": {...}}, and moves best.json if they are better."""
        self._metrics.append(*({"step": step, "weights": weights, **values} for weights, values in results.items()))
        # Of equal ones the earliest; a value that is not finite is never the best.
        lines = [line for line in self.results() if line[self.best_metric] > float("-inf")]
        if lines:
            best = max(lines, key=lambda line: (line[self.best_metric], -line["step"]))
            write_whole(self.folder / "best.json", json.dumps(best, indent=1) + "\n")

    def skip(self, step: int, reason: str) -> None:
        """Records why `step` has no result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._skipped.append({"step": step, "reason": reason})

    def best(self) -> dict | None:
        """The best evaluation line so far."""
        try:
            return json.loads((self.folder / "best.json").read_text())
        except FileNotFoundError:
            return None

    def announce(self) -> None:
        """Tells the trainer that a separate evaluator watches this run."""
        write_whole(self.folder / "evaluator.json", json.dumps({"pid": os.getpid()}) + "\n")


def protected(model_dir: str | os.PathLike, old: list[int]) -> set[int]:
    """Which of the checkpoints `old`, ascending and beyond --keep_checkpoints, must stay: the best of each split, and
    those that a separate evaluator has not evaluated. What must go all the same leaves a recorded reason."""
    stay: set[int] = set()
    root = pathlib.Path(model_dir, "eval")
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        ledger = Ledger(model_dir, folder.name)
        best = ledger.best()
        if best:
            stay.add(best["step"])
        if not (folder / "evaluator.json").exists():
            continue
        waiting = ledger.pending(old)
        for k, step in enumerate(waiting):
            age = _age(pathlib.Path(model_dir, "checkpoints"), step)
            if len(waiting) - k > KEEP_UNEVALUATED:
                ledger.skip(step, f"retired by the trainer: more than {KEEP_UNEVALUATED} checkpoints waited")
            elif age > KEEP_UNEVALUATED_SECONDS:
                ledger.skip(step, f"retired by the trainer: it waited for {age / 3600:.1f} hours")
            else:
                stay.add(step)
    return stay


def _age(folder: pathlib.Path, step: int) -> float:
    """Seconds since the checkpoint was published."""
    return time.time() - manifest.prefix(folder, step).with_suffix(".json").stat().st_mtime


@contextlib.contextmanager
def exclusive(path: pathlib.Path, message: str):
    """Holds a lock that a dead process does not hold. UserError with `message` if a living one does."""
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{message} (process {file.read().strip() or 'unknown'}); wait for it, or end it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_whole(path: pathlib.Path, text: str) -> None:
    """Replaces a small file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def done(model_dir: str | os.PathLike) -> dict | None:
    """The contents of DONE if training ended for the configuration that is recorded now, else None."""
    root = pathlib.Path(model_dir)
    try:
        facts = json.loads((root / "DONE").read_text())
        wanted = json.loads((root / "config.json").read_text())["config"]["train_steps"]
    except FileNotFoundError:
        return None
    return facts if facts["train_steps"] == wanted else None
