"""What can be seen of a run in its --model_dir, from outside and while it works: how far it is, and what is whole.

    before = look(model_dir)                      # some 0.1 ms, so a thousand times a second
    trainer.kill()
    after = look(model_dir)
    trainer_phase(before, after, trainer.pid)     # "saving: data in place, no manifest"
    problems(model_dir)                           # [] if everything that is published is whole
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import re

NAME = re.compile(r"ckpt-(\d{8,})\.(data-00000-of-00001|index|json)")
DATA, INDEX, MANIFEST = "data-00000-of-00001", "index", "json"


@dataclasses.dataclass(frozen=True)
class Look:
    """One look. files, writing: name to (time of change, size), in checkpoints/ and in its .writing/.

    line, evaluated: the steps of the last whole metrics line and of the ledger's, 0 if there is none. evaluations: bytes
    of the ledger; shown: of the event files beside it. trainer, evaluator: the processes that took their locks. writers:
    those with an event file in train/. small: the files in model_dir and in eval/test, as files.
    """

    files: dict[str, tuple[int, int]]
    writing: dict[str, tuple[int, int]]
    line: int
    evaluated: int
    evaluations: int
    shown: int
    trainer: str
    evaluator: str
    writers: frozenset[str]
    small: dict[str, tuple[int, int]]

    def steps(self, *endings: str) -> set[int]:
        """The steps that have a file with one of these endings."""
        return {int(match[1]) for name in self.files if (match := NAME.fullmatch(name)) and match[2] in endings}

    @property
    def published(self) -> list[int]:
        return sorted(self.steps(MANIFEST))

    @property
    def newest(self) -> int:
        """The newest published step, 0 if there is none."""
        return max(self.steps(MANIFEST), default=0)

    def begins_to_save(self, before: "Look") -> bool:
        """Whether something is in .writing/ that was not there before."""
        return any(before.writing.get(name) != facts for name, facts in self.writing.items())

    def writes(self, name: str, before: "Look") -> bool:
        """Whether the small file of this name is being written, as a whole and under another name."""
        return any(other.startswith(f".{name}.") and before.small.get(other) != facts for other, facts in self.small.items())

    def in_place(self, before: "Look") -> bool:
        """Whether data or index beyond the newest published step are in place that were not there before."""
        return any(match and match[2] != MANIFEST and int(match[1]) > self.newest and before.files.get(name) != facts
                   for name, facts in self.files.items() for match in [NAME.fullmatch(name)])

    def deleting(self, before: "Look") -> bool:
        """Whether since before a checkpoint has lost its manifest and not yet its data."""
        left, earlier = (look.steps(DATA, INDEX) - look.steps(MANIFEST) for look in (self, before))
        return any(step < self.newest for step in left - earlier)


def look(model_dir: pathlib.Path) -> Look:
    """Looks at a run that is being written: what vanishes meanwhile counts as absent."""
    train, evaluation, checkpoints = model_dir / "train", model_dir / "eval" / "test", model_dir / "checkpoints"
    seen = _files(evaluation)
    return Look(
        files=_files(checkpoints), writing=_files(checkpoints / ".writing"),
        line=_last_step(train / "metrics.jsonl"), evaluated=_last_step(evaluation / "metrics.jsonl"),
        evaluations=seen.get("metrics.jsonl", (0, 0))[1],
        shown=sum(size for name, (_, size) in seen.items() if name.startswith("events.")),
        trainer=_holder(train / ".lock"), evaluator=_holder(evaluation / ".lock"),
        writers=frozenset(name.rsplit(".", 1)[1] for name in _files(train) if name.startswith("events.")),
        small=_files(model_dir) | seen)


def trainer_phase(before: Look, after: Look, pid: int, *, eval_steps: int, last: int) -> str:
    """What the trainer was doing when it was killed. before: a look at its start; after: one when it was gone.
    eval_steps: of its inline evaluations, 0 if it has none."""
    line = after.line if str(pid) in after.writers else 0  # until then the lines are an earlier process's
    if after.writes("DONE", before):
        return "writing DONE"
    if "DONE" in after.small:
        return "after DONE"
    if after.trainer != str(pid):
        return "imports"
    if after.deleting(before):
        return "deleting: manifest gone, data there"
    if after.in_place(before):
        return "saving: data in place, no manifest"
    if after.begins_to_save(before):
        written = any(name.endswith((DATA, INDEX)) for name in after.writing)
        return "saving: written, not in place" if written else "saving: TensorFlow writes"
    if line <= before.newest:
        return "building and tracing"
    if eval_steps and (line % eval_steps == 0 or line == last) and after.evaluated != line:
        return "evaluating"
    return "ending" if line == last else "stepping"


def evaluator_phase(before: Look, after: Look, pid: int) -> str:
    """What the evaluator was doing when it was killed. before: a look at its start; after: one when it was gone."""
    if after.writes("best.json", before) or after.writes("evaluator.json", before):
        return "writing a small file"
    if after.evaluator != str(pid):
        return "imports and building"
    return "evaluating" if after.newest > after.evaluated else "waiting"


def problems(model_dir: pathlib.Path, last: int | None = None) -> list[str]:
    """What of a run that is no longer written is not whole: checkpoints, lines, small files. last: its last step, which
    must be published before there is a DONE."""
    found = [text for step in look(model_dir).published if (text := damage(model_dir / "checkpoints", step))]
    for path, consecutive in ((model_dir / "train/metrics.jsonl", True), (model_dir / "eval/test/metrics.jsonl", False)):
        try:
            lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
            if consecutive and [line["step"] for line in lines] != list(range(1, len(lines) + 1)):
                found.append(f"{path.name} has the steps {[line['step'] for line in lines]}")
        except (ValueError, KeyError, TypeError) as error:
            found.append(f"{path} has a line that is not whole ({error})")
    for name in ("DONE", "config.json", "eval/test/best.json", "eval/test/evaluator.json"):
        try:
            if (model_dir / name).exists():
                json.loads((model_dir / name).read_text())
        except ValueError as error:
            found.append(f"{name} is not whole ({error})")
    if last and (model_dir / "DONE").exists() and last not in look(model_dir).published:
        found.append(f"DONE is there and checkpoint {last} is not")
    return found


def damage(checkpoints: pathlib.Path, step: int) -> str:
    """What is wrong with a published checkpoint, "" if it is whole: the manifest's sizes and digests hold."""
    try:
        entry = json.loads((checkpoints / f"ckpt-{step:08d}.json").read_text())
        if entry["step"] != step or set(entry["files"]) != {f"ckpt-{step:08d}.{ending}" for ending in (DATA, INDEX)}:
            return f"the manifest of checkpoint {step} is another one's"
        for name, facts in entry["files"].items():
            data = (checkpoints / name).read_bytes()
            if len(data) != facts["size"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
                return f"checkpoint {step}: {name} is not what its manifest says"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"checkpoint {step} cannot be read ({type(error).__name__}: {error})"
    return ""


def whole(model_dir: pathlib.Path) -> list[int]:
    """The published steps whose files are what their manifests say."""
    return [step for step in look(model_dir).published if not damage(model_dir / "checkpoints", step)]


def orphans(model_dir: pathlib.Path, before: int) -> list[str]:
    """The files in checkpoints/ that belong to no published one, of steps before this one."""
    seen = look(model_dir)
    return sorted(name for name in seen.files if (match := re.match(r"ckpt-(\d+)\.", name)) and int(match[1]) < before
                  and int(match[1]) not in seen.published)


def _files(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                    if entry.name != ".writing":
                        found[entry.name] = (facts.st_mtime_ns, facts.st_size)
                except FileNotFoundError:
                    continue
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found


def _last_step(path: pathlib.Path) -> int:
    """The step of the last whole line; 0 if there is none, or if it is damaged, which `problems` tells."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def _holder(path: pathlib.Path) -> str:
    """The process that a lock file names."""
    try:
        return path.read_text().split(" ")[0].strip()
    except FileNotFoundError:
        return ""
