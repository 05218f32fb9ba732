"""Which checkpoints were evaluated: the ledger of a split, its lock, its best, and what retention must leave.

    eval/<split>/metrics.jsonl     the ledger: a line per step and kind of weights, all lines of a step in one write
    eval/<split>/skipped.jsonl     the steps that will never have one, and why
    eval/<split>/left.jsonl        scores of the trainer's own evaluations whose lines a separate evaluator will write
    eval/<split>/best.json         the best so far, made from the ledger
    eval/<split>/evaluator.json    there is a separate evaluator: the trainer keeps what it has not evaluated

    ledger = Ledger(model_dir, "test", best="precision_at_1")
    with ledger.lock():
        for step in ledger.pending(manifest.published(folder)): ...
"""
import json
import os
import time

from input_pipeline import storage
from trainer import files, manifest
from trainer.config import UserError
from trainer.files import exclusive, write_whole
from trainer.names import score
from trainer.places import place
from trainer.recorded import read_recorded
from trainer.writers import JsonLines

KEEP_UNEVALUATED = 20  # checkpoints beyond --keep_checkpoints that wait for a separate evaluator at most,
KEEP_UNEVALUATED_SECONDS = 24 * 3600  # and for how long
WRITE_PATIENCE_SECS = 60  # for the other process that writes to a ledger, which takes milliseconds


class Ledger:
    """What is known of one split. best: the metric that makes a checkpoint the best one (`names.score`), for who writes.

    Trainer and evaluator may write at one time: each looks and writes under a lock of its own, `.write`.
    """

    def __init__(self, model_dir: str | os.PathLike, split: str, *, best: str | None = None):
        self.folder = place(model_dir, "eval", split)
        self.best_metric = best
        self._metrics = JsonLines(self.folder / "metrics.jsonl", shared=True)
        self._skipped = JsonLines(self.folder / "skipped.jsonl", shared=True)
        self._left = JsonLines(self.folder / "left.jsonl")

    def lock(self, *, patience: float = files.PATIENCE_SECS):
        """Held while evaluating, by a separate evaluator all its life. files.Held if another process holds it."""
        return exclusive(self.folder / ".lock", f"another evaluator works on {self.folder}", patience=patience)

    def _writing(self):
        return exclusive(self.folder / ".write", f"{self.folder} is being written to", patience=WRITE_PATIENCE_SECS)

    def results(self) -> list[dict]:
        """The evaluation lines, in the order in which they were written. UserError for a line that is none."""
        lines = _read(self._metrics)
        for number, line in enumerate(lines, start=1):
            numbers = [value for name, value in line.items() if name != "weights"]
            wanted = {"weights", "examples", self.best_metric or "examples"}
            if not wanted <= line.keys() or line["weights"] not in ("ema", "raw") \
                    or not all(type(value) in (int, float) for value in numbers):
                raise UserError(f"{self._metrics.path}, line {number}: it is not an evaluation's; restore the file, or "
                                "remove this line")
        return lines

    def settled(self) -> set[int]:
        """The steps with a result or with a recorded reason why there is none."""
        return {line["step"] for line in self.results() + _read(self._skipped)}

    def pending(self, published: list[int]) -> list[int]:
        """The published steps that are not settled, ascending."""
        settled = self.settled()
        return [step for step in published if step not in settled]

    def record(self, step: int, results: dict[str, dict]) -> bool:
        """Writes the results of one step, {"ema": {...}, "raw": {...}}, and moves best.json if they are better.

        Returns whether it did: not if the step was settled meanwhile.
        """
        with self._writing():
            if step in self.settled():
                return False
            self._metrics.append(*({"step": step, "weights": weights, **values} for weights, values in results.items()))
            self.write_best()
            return True

    def skip(self, step: int, reason: str) -> None:
        """Records why `step` has no result, unless it is settled."""
        with self._writing():
            if step not in self.settled():
                self._skipped.append({"step": step, "reason": reason})

    def leave(self, step: int, value: float) -> None:
        """Keeps the trainer's own value of the best metric, for who trains on after a kill."""
        self._left.append({"step": step, self.best_metric: value})

    def left(self) -> dict[int, float]:
        """The values that were left, by step."""
        return {line["step"]: line[self.best_metric] for line in _read(self._left)}

    def restart(self, step: int) -> None:
        """What a trainer that goes on from `step` does: reasons beyond it are void, since the steps come again."""
        with self._writing():
            self._skipped.drop_after(step)
            self._left.drop_after(step)
            self.write_best()

    def best_line(self) -> dict | None:
        """The best evaluation line of the ledger: of equal ones the earliest; a value that is not finite is never it."""
        def merit(line):
            return score(self.best_metric, line[self.best_metric])

        lines = [line for line in self.results() if merit(line) > float("-inf")]
        return max(lines, key=lambda line: (merit(line), -line["step"]), default=None)

    def best(self) -> dict | None:
        """The best evaluation line so far, as best.json has it. ValueError: it is damaged, in words."""
        try:
            best = files.read_json(self.folder / "best.json")
        except FileNotFoundError:
            return None
        if not isinstance(best, dict) or type(best.get("step")) is not int:
            raise ValueError("it has no step")
        return best

    def write_best(self) -> None:
        """Makes best.json what the ledger says: a kill between the two, or a hand, may have left another."""
        best = self.best_line()
        try:
            known = self.best()
        except ValueError:
            known = None
        if best and best != known:
            write_whole(self.folder / "best.json", json.dumps(best, indent=1) + "\n")

    def announce(self) -> None:
        """Tells the trainer that a separate evaluator watches this run."""
        with files.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "evaluator.json", json.dumps({"pid": os.getpid()}) + "\n")


def ledgers(model_dir: str | os.PathLike, **options) -> list[Ledger]:
    """The ledger of every split that was evaluated."""
    try:
        splits, _ = storage.children(place(model_dir, "eval"))
    except FileNotFoundError:
        return []
    return [Ledger(model_dir, split, **options) for split in splits]


def protected(model_dir: str | os.PathLike, old: list[int], *, best: str) -> set[int]:
    """Which of the checkpoints `old`, ascending and beyond --keep_checkpoints, must stay: the best of each split by the metric
    `best`, and those that a separate evaluator has not evaluated. What must go all the same leaves a recorded reason."""
    stay: set[int] = set()
    for ledger in ledgers(model_dir, best=best):
        # First who waits, then who is best, and that from the lines themselves: the evaluator may write in between.
        waiting = ledger.pending(old)
        line = ledger.best_line()
        stay |= {line["step"]} if line else set()
        if not (ledger.folder / "evaluator.json").exists():
            continue
        # The oldest stays longest: the evaluator takes the oldest first, and is busy with it.
        too_many = waiting[1:len(waiting) - KEEP_UNEVALUATED + 1] if len(waiting) > KEEP_UNEVALUATED else []
        for step in waiting:
            age = _age(place(model_dir, "checkpoints"), step)
            if step in too_many:
                ledger.skip(step, f"retired by the trainer: more than {KEEP_UNEVALUATED} checkpoints waited")
            elif age > KEEP_UNEVALUATED_SECONDS:
                ledger.skip(step, f"retired by the trainer: it waited for {age / 3600:.1f} hours")
            else:
                stay.add(step)
    return stay


def newest(model_dir: str | os.PathLike) -> tuple[int, float] | None:
    """The newest checkpoint's step, and how many seconds ago it was published. None: there is none."""
    folder = place(model_dir, "checkpoints")
    step = max(manifest.published(folder), default=None)
    return None if step is None else (step, _age(folder, step))


def trains(model_dir: str | os.PathLike) -> bool:
    """Whether a trainer works on this run now."""
    return files.held(place(model_dir, "train", ".lock"))


def _age(folder, step: int) -> float:
    """Seconds since the checkpoint was published."""
    return time.time() - manifest.manifest_of(folder, step).stat().st_mtime


def _read(lines: JsonLines) -> list[dict]:
    return JsonLines.read(lines.path) if lines.exists() else []


def done(model_dir: str | os.PathLike, complain=lambda text: None) -> dict | None:
    """The contents of DONE if training ended for the configuration that is recorded now, else None.

    complain: is told what is wrong with a damaged one, which counts as none.
    """
    path = place(model_dir, "DONE")
    try:
        facts = files.read_json(path)
        kinds = {name: type(facts.get(name)) for name in ("step", "train_steps", "why")} if isinstance(facts, dict) else {}
        if kinds != {"step": int, "train_steps": int, "why": str}:
            raise ValueError("it has no step, train_steps or why")
    except FileNotFoundError:
        return None
    except files.Unreachable:
        raise
    except ValueError as error:
        complain(f"{path} is damaged ({error}), and taken for absent")
        return None
    recorded = read_recorded(model_dir)
    return facts if recorded and facts["train_steps"] == recorded["train_steps"] else None
