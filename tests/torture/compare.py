"""What a run left, and whether two runs left the same, bit for bit.

    left = read(model_dir)
    compared, differing = differences(left, reference)        # {"tensor": 70, ...}, {"tensor": ["..."], ...}

Left out is only what belongs to the clock: two fields of a metrics line, the times of TensorBoard's events, manifests.
"""
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from tests.laws import runs

DIGEST = "batch_digest"


@dataclasses.dataclass
class Left:
    """What a run left.

    published: steps. tensors: of each checkpoint, name to digest. points: of TensorBoard, (kind, folder, tag) to
    [(step, value)] in the order in which they are shown. best, done: the contents of the file, None if there is none.
    """

    published: list[int]
    tensors: dict[int, dict[str, str]]
    lines: list[dict]
    evaluations: list[dict]
    points: dict[tuple[str, str, str], list[tuple[int, object]]]
    best: dict | None
    done: dict | None


def read(model_dir: pathlib.Path) -> Left:
    """Reads all of it. Raises what a file raises that cannot be read: a complete run's can."""
    run = runs.Outcome(0, "", "", pathlib.Path(model_dir))
    ledger = run.model_dir / "eval" / "test" / "metrics.jsonl"
    return Left(
        published=run.published(),
        tensors={step: {name: digest(value) for name, value in run.tensors(step).items()} for step in run.published()},
        lines=[{name: value for name, value in line.items() if name not in runs.TIMES} for line in run.lines],
        evaluations=runs.read_lines(ledger) if ledger.exists() else [],
        points=points(run.model_dir, "train") | points(run.model_dir, "eval/test"),
        best=_json(run.model_dir / "eval" / "test" / "best.json"), done=_json(run.model_dir / "DONE"))


def differences(ours: Left, reference: Left, *, evaluations: bool = True) -> tuple[dict[str, int], dict[str, list[str]]]:
    """How many things of each kind were compared, and what differed, as texts. evaluations: whether they are compared too.

    The reference keeps every checkpoint; of them those that `ours` has are compared, and the last one.
    """
    found: dict[str, dict[str, tuple]] = {kind: {} for kind in ("tensor", "metrics line", "batch digest", "DONE")}
    last = reference.published[-1]
    for step in sorted({*ours.published, last}):
        found["tensor"] |= _pairs(ours.tensors.get(step, {}), reference.tensors.get(step, {}), f"step {step}, ")
    found["metrics line"] = _pairs(_numbered(ours.lines), _numbered(reference.lines), "line ")
    found["batch digest"] = _pairs(_numbered([line.get(DIGEST) for line in ours.lines]),
                                   _numbered([line.get(DIGEST) for line in reference.lines]), "line ")
    found["DONE"] = {"DONE": (ours.done, reference.done)}
    folders = ("train", "eval/test") if evaluations else ("train",)
    for key in sorted(key for key in ours.points.keys() | reference.points.keys() if key[1] in folders):
        kind, folder, tag = key
        found.setdefault(f"TensorBoard {kind}, {folder}", {}).update(
            _pairs(_numbered(ours.points.get(key, [])), _numbered(reference.points.get(key, [])), f"{tag}, point "))
    if evaluations:
        found["evaluation line"] = _pairs(_numbered(ours.evaluations), _numbered(reference.evaluations), "line ")
        found["best.json"] = {"best.json": (ours.best, reference.best)}
    compared = {kind: len(pairs) for kind, pairs in found.items()}
    differing = {kind: [_text(name, a, b) for name, (a, b) in pairs.items() if a != b] for kind, pairs in found.items()}
    tags = [key for key in ours.points if key[1] in folders]
    return compared | {"TensorBoard tag that rises": len(tags)}, differing | {
        "TensorBoard tag that rises": [text for text, folder in zigzags(ours) if folder in folders]}


def shared_ledger(ours: Left, inline: Left, separate: Left) -> tuple[dict[str, int], dict[str, list[str]]]:
    """As `differences`, of the evaluations of a run that was evaluated by both: each published step once, in any order,
    with the numbers of one of the two."""
    kind, shown = "evaluation line", "TensorBoard scalars, eval/test"
    compared, differing = {kind: 0, shown: 0}, {kind: [], shown: []}
    expected = {(line["step"], line["weights"]): [] for line in separate.evaluations}
    for line in [*inline.evaluations, *separate.evaluations]:
        expected[line["step"], line["weights"]].append(line)
    for key, lines in expected.items():
        found = [line for line in ours.evaluations if (line["step"], line["weights"]) == key]
        compared[kind] += 1
        if len(found) != 1 or found[0] not in lines:
            differing[kind].append(f"step and weights {key} is {_short(found)}, undisturbed one of {_short(lines)}")
    for key, points in separate.points.items():
        if key[:2] == ("scalars", "eval/test"):
            for step, value in points:
                right = [value, *(other for at, other in inline.points.get(key, []) if at == step)]
                found = [other for at, other in ours.points.get(key, []) if at == step]
                compared[shown] += 1
                if len(found) != 1 or found[0] not in right:
                    differing[shown].append(f"{key[2]} at step {step} is {found}, undisturbed one of {right}")
    return compared, differing


def zigzags(left: Left) -> list[tuple[str, str]]:
    """(text, folder) for each of TensorBoard's curves that does not go strictly forward."""
    found = []
    for (kind, folder, tag), shown in left.points.items():
        steps = [step for step, _ in shown]
        if steps != sorted(set(steps)):
            found.append((f"{kind} {tag} in {folder} goes through the steps {steps}", folder))
    return found


def digest(value: np.ndarray) -> str:
    """Type, shape and bytes of a tensor in one digest: nan equals itself, -0.0 is not 0.0."""
    array = np.asarray(value)
    data = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + data).hexdigest()[:16]


def points(model_dir: pathlib.Path, folder: str) -> dict:
    """What TensorBoard shows in a folder: scalars, histograms and images, as (step, value) by (kind, folder, tag)."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util
    if not (model_dir / folder).is_dir():
        return {}
    events = EventAccumulator(str(model_dir / folder), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for kind in {"scalars", "histograms", "images"} & events.ActivePlugins():
        for tag in events.PluginTagToContent(kind):
            timed = tag in runs.TIMES
            found[kind, folder, tag] = [
                (event.step, None if timed else digest(tensor_util.make_ndarray(event.tensor_proto)))
                for event in events.Tensors(tag)]
    return found


def _pairs(ours: dict, theirs: dict, prefix: str) -> dict[str, tuple]:
    return {f"{prefix}{name}": (ours.get(name), theirs.get(name)) for name in [*theirs, *(n for n in ours if n not in theirs)]}


def _numbered(values: list) -> dict[str, object]:
    return {str(k): value for k, value in enumerate(values, start=1)}


def _text(name: str, ours, theirs) -> str:
    """What differs; of two lines only the fields that do."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        fields = [field for field in {**theirs, **ours} if ours.get(field) != theirs.get(field)]
        ours, theirs = ({field: value.get(field) for field in fields} for value in (ours, theirs))
    return f"{name} is {_short(ours)}, undisturbed {_short(theirs)}"


def _short(value) -> str:
    if value is None:
        return "absent"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text if len(text) <= 300 else text[:300] + "..."


def _json(path: pathlib.Path):
    return json.loads(path.read_text()) if path.exists() else None
