"""Law 3: whatever happened to the files of the newest checkpoint, the same command goes on from the newest whole one, says
what was wrong, sets the damaged one aside, and ends bit for bit as the undisturbed run. All damaged: code 2, nothing changed.

A run is killed after its third checkpoint; every damage is done to a copy of what it left.
"""
import dataclasses
import json
import pathlib
import random
import shutil
import time
from collections.abc import Callable

from tests.torture import compare, folder, settings
from tests.torture.folder import DATA, INDEX, MANIFEST
from tests.torture.processes import Process
from tests.torture.settings import BOUND
from tests.torture.tally import Tally

STEPS, CHECKPOINT_STEPS, KEEP = 60, 12, 3
NEWEST, BEFORE = 3 * CHECKPOINT_STEPS, 2 * CHECKPOINT_STEPS
FLAGS = (*settings.CONFIGURATIONS["float32-1"], f"--train_steps={STEPS}", f"--checkpoint_steps={CHECKPOINT_STEPS}",
         "--summary_steps=20", "--histogram_steps=0", "--eval_steps=24")
FLIPS = 3  # drawn places in a file


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is done to a file. ending: which file of the checkpoint of `step`. apply(path): does it. told: whether the run
    can know of it."""

    name: str
    ending: str
    apply: Callable[[pathlib.Path], None]
    step: int = NEWEST
    told: bool = True


def damages(draw: random.Random) -> list[Damage]:
    """All of them; places are drawn."""
    found = []
    for ending in (DATA, INDEX, MANIFEST):
        # The last character of a manifest is a line's end: without it, it still says everything.
        lengths = {"emptied": lambda n: 0, "one byte left": lambda n: 1, "half": lambda n: n // 2,
                   "the end missing": lambda n, less=2 if ending == MANIFEST else 1: n - less}
        found += [Damage(name, ending, lambda path, to=to: truncate(path, to)) for name, to in lengths.items()]
        found += [Damage(f"bit flipped at {place:.3f}", ending, lambda path, place=place, bit=bit: flip(path, place, bit))
                  for place, bit in [(draw.random(), draw.randrange(8)) for _ in range(FLIPS)]]
        found += [Damage("deleted", ending, pathlib.Path.unlink, told=ending != MANIFEST),
                  Damage("another step's", ending, another_steps),
                  Damage("bytes appended", ending, lambda path: path.write_bytes(path.read_bytes() + b"more"))]
    for name, text in {"not JSON": "whole", "a list": "[]", "{}": "{}", "null": "null",
                       "a size as text": lambda entry: _each(entry, size="1"),
                       "a digest that is a number": lambda entry: _each(entry, sha256=7),
                       "a wrong digest": lambda entry: _each(entry, sha256="0" * 64),
                       "no files": lambda entry: entry | {"files": {}},
                       "a step as text": lambda entry: entry | {"step": str(entry["step"])},
                       "a file elsewhere": lambda entry: entry | {"files": {"../config.json": {"size": 1, "sha256": ""}}},
                       }.items():
        found.append(Damage(name, MANIFEST, lambda path, text=text: path.write_text(
            text if isinstance(text, str) else json.dumps(text(json.loads(path.read_text()))))))
    # Not the newest: noticed at the latest when retention decides which are whole.
    return found + [Damage("one before the newest, bit flipped", DATA, lambda path: flip(path, 0.5, 0), step=BEFORE, told=False)]


def truncate(path: pathlib.Path, to: Callable[[int], int]) -> None:
    """Leaves the first to(size) bytes."""
    data = path.read_bytes()
    path.write_bytes(data[:to(len(data))])


def flip(path: pathlib.Path, place: float, bit: int) -> None:
    """Changes one bit, at this fraction of the file."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)


def another_steps(path: pathlib.Path) -> None:
    """Puts the same file of the checkpoint before in its place."""
    shutil.copyfile(path.with_name(path.name.replace(f"{NEWEST:08d}", f"{BEFORE:08d}")), path)


def _each(entry: dict, **changes) -> dict:
    return entry | {"files": {name: facts | changes for name, facts in entry["files"].items()}}


def run(scratch: pathlib.Path, tally: Tally, draw: random.Random, *, most: int) -> None:
    """Up to `most` damages of one checkpoint, drawn, and the damages of all checkpoints at once."""
    tally.say("damage: undisturbed run, and one that is killed after its third checkpoint")
    settings.to_the_end(_start(scratch / "damage-whole", "--keep_checkpoints=1000"))
    whole = compare.read(scratch / "damage-whole")
    base = scratch / "damage-base"
    process = _start(base, f"--keep_checkpoints={KEEP}")
    while process.poll() is None and folder.look(base).newest < NEWEST:
        time.sleep(0.0005)
    if not process.kill() or folder.look(base).published != [12, 24, 36]:
        raise RuntimeError(f"damage: killed with {folder.look(base).published} published, not 12, 24, 36\n{process.told()}")
    every = damages(draw)
    for damage in draw.sample(every, min(most, len(every))):
        _one(scratch / "damaged", tally, base, whole, damage)
    for name, ending, apply in (("data truncated", DATA, lambda path: truncate(path, lambda n: n - 1)),
                                ("index deleted", INDEX, pathlib.Path.unlink),
                                ("manifest emptied", MANIFEST, lambda path: truncate(path, lambda n: 0)))[:most]:
        _all(scratch / "damaged", tally, base, name, ending, apply)


def _start(model_dir: pathlib.Path, *flags: str) -> Process:
    return Process(settings.trainer(model_dir, *FLAGS, *flags), model_dir.with_name(model_dir.name + "-log"))


def _one(model_dir: pathlib.Path, tally: Tally, base: pathlib.Path, whole: compare.Left, damage: Damage) -> None:
    where = f"damage, {damage.ending} {damage.name}"
    shutil.copytree(base, model_dir)
    path = model_dir / "checkpoints" / f"ckpt-{damage.step:08d}.{damage.ending}"
    damage.apply(path)
    tally.count("damaged files")
    process = _start(model_dir, f"--keep_checkpoints={KEEP}")
    fewest = _fewest_whole(process, model_dir)
    code, failures = process.wait(BOUND), len(tally.failures)
    if tally.check("exit code", where, code == 0, f"ended with {code}\n{process.told()}"):
        resumed = NEWEST if damage.step != NEWEST else BEFORE
        tally.check("goes on from the newest whole one", where, f"ckpt-{resumed:08d}\n" in process.out,
                    f"not resumed from {resumed}\n{process.told()}")
        if damage.told:
            lines = [line for line in process.err.splitlines() if line.strip()]
            # A manifest whose digest is changed cannot be told from a file that is: any of its files is named then.
            name = path.name if damage.ending != MANIFEST else path.name.removesuffix(MANIFEST)
            tally.check("says in one line what was wrong", where,
                        len(lines) == 1 and f"checkpoint {damage.step}" in lines[0] and name in lines[0],
                        f"stderr: {process.err[-1000:]}")
            aside = [name for name in folder.look(model_dir).files if name.startswith(f"{path.stem.split('.')[0]}.json.")]
            tally.check("the damaged one is set aside", where, bool(aside), "its manifest is not kept under another name")
        tally.check("never fewer whole checkpoints than promised", where, not fewest, fewest)
        tally.compare(where, *compare.differences(compare.read(model_dir), whole))
        wrong = folder.problems(model_dir, STEPS)
        tally.check("folder whole at the end", where, not wrong, "; ".join(wrong))
        newest = list(range(CHECKPOINT_STEPS, STEPS + 1, CHECKPOINT_STEPS))[-KEEP:]
        tally.check("retained checkpoints", where, set(newest) <= set(folder.whole(model_dir)),
                    f"whole are {folder.whole(model_dir)}, must {newest}")
    tally.say(f"{where}: {'as it should be' if len(tally.failures) == failures else 'NOT as it should be'}")
    if len(tally.failures) > failures:
        model_dir.rename(model_dir.with_name(f"failed-{len(tally.failures)}"))
    else:
        shutil.rmtree(model_dir)


def _fewest_whole(process: Process, model_dir: pathlib.Path) -> str:
    """Watches a run to its end. What was wrong if there ever were fewer whole checkpoints than before, beyond those that
    are promised; else ""."""
    checkpoints, known, most, found = model_dir / "checkpoints", {}, 0, ""
    while process.poll() is None and process.age < BOUND:
        look = folder.look(model_dir)
        whole = 0
        for step in look.published:
            key = (step, *(look.files.get(f"ckpt-{step:08d}.{ending}") for ending in (DATA, INDEX, MANIFEST)))
            if key not in known:
                known[key] = not folder.damage(checkpoints, step)
            whole += known[key]
        if folder.look(model_dir).published == look.published:  # else it was retired while it was being read
            if whole < min(most, KEEP):
                found = found or f"{most} checkpoints were whole, then {whole} of {look.published}, kept are {KEEP}"
            most = max(most, whole)
        time.sleep(0.002)
    return found


def _all(model_dir: pathlib.Path, tally: Tally, base: pathlib.Path, name: str, ending: str, apply) -> None:
    where, failures = f"damage, all checkpoints: {name}", len(tally.failures)
    shutil.copytree(base, model_dir)
    for path in (model_dir / "checkpoints").glob(f"ckpt-*.{ending}"):
        apply(path)
        tally.count("damaged files")
    before = contents(model_dir)
    process = _start(model_dir, f"--keep_checkpoints={KEEP}")
    code = process.wait(BOUND)
    tally.check("exit code", where, code == 2, f"ended with {code}, not 2\n{process.told()}")
    tally.check("one line says what is wrong", where, one_line(process.err), f"stderr: {process.err[-1000:]}")
    after = contents(model_dir)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    tally.check("nothing is overwritten", where, not changed, f"changed: {changed}")
    tally.say(f"{where}: {'as it should be' if len(tally.failures) == failures else 'NOT as it should be'}")
    shutil.rmtree(model_dir)


def one_line(text: str) -> bool:
    """Whether it is exactly one line, and no traceback."""
    return len(text.splitlines()) == 1 and bool(text.strip()) and "Traceback" not in text


def contents(root: pathlib.Path) -> dict[str, bytes]:
    """Every file's bytes, without the locks."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != ".lock"}
