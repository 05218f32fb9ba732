"""The torture command can fail: every kind of difference, damage and phase is seen for what it is; and with a few kills it
passes. Mutations: each test changes one thing that must be noticed.
"""
import dataclasses
import hashlib
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.laws import runs
from tests.torture import compare, damage, folder, kills, moments
from tests.torture.settings import CONFIGURATIONS
from tests.torture.tally import Tally
from trainer.events import Events, histogram_table

STEPS, KERNEL = 24, np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def write_checkpoint(model_dir, step, kernel=KERNEL, **more):
    """A checkpoint with its manifest."""
    folder_ = model_dir / "checkpoints"
    folder_.mkdir(parents=True, exist_ok=True)
    variables = {"model": {"conv1/kernel": tf.Variable(kernel * step)}, "trainer": {"step": tf.Variable(step), **more}}
    tf.train.Checkpoint(**variables).write(str(folder_ / f"ckpt-{step:08d}"))
    write_manifest(folder_, step)


def write_manifest(checkpoints, step):
    files = {path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
             for path in checkpoints.glob(f"ckpt-{step:08d}.*") if path.suffix != ".json"}
    (checkpoints / f"ckpt-{step:08d}.json").write_text(json.dumps({"step": step, "files": files}))


def write_events(model_dir, values, twice=None, histogram=(1.0, 2.0)):
    """Event files whose loss goes through `values`; the point number `twice` is written two times."""
    for place in ("train", "eval/test"):
        shutil.rmtree(model_dir / place / "events", ignore_errors=True)
        for path in (model_dir / place).glob("events.*"):
            path.unlink()
        events = Events(str(model_dir / place))
        events.restart(0)
        for k, value in enumerate(values):
            for _ in range(2 if k == twice else 1):
                events.scalars(12 * (k + 1), {"loss": value, "examples_per_second": random.random()})
        events.histogram(24, "kernel", *histogram_table(np.asarray(histogram)))
        events.close()


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def line(step, **changes):
    return {"step": step, "loss": 1 / step, "batch_digest": f"{step:016x}", "examples_per_second": random.random()} | changes


def evaluation(step, weights, **changes):
    return {"step": step, "weights": weights, "loss": 1 / step, "precision_at_1": 0.5} | changes


EVALUATIONS = [evaluation(step, weights) for step in (12, 24) for weights in ("ema", "raw")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A --model_dir as a complete run of 24 steps leaves it."""
    root = tmp_path_factory.mktemp("whole") / "m"
    for step in (12, 24):
        write_checkpoint(root, step)
    (root / "eval" / "test").mkdir(parents=True)
    write_events(root, [0.5, 0.25])
    write_lines(root / "train" / "metrics.jsonl", [line(step) for step in range(1, STEPS + 1)])
    write_lines(root / "eval" / "test" / "metrics.jsonl", EVALUATIONS)
    (root / "eval" / "test" / "best.json").write_text(json.dumps(EVALUATIONS[0]))
    (root / "DONE").write_text(json.dumps({"step": STEPS, "train_steps": STEPS, "why": "complete"}))
    (root / "config.json").write_text("{}")
    return root


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    return tmp_path / "m"


def change_bit(root):
    kernel = KERNEL.copy()
    kernel.view(np.uint32)[1, 1] ^= 1
    write_checkpoint(root, STEPS, kernel)


def change_lines(name, change):
    def apply(root):
        path = root / name / "metrics.jsonl"
        write_lines(path, change(runs.read_lines(path)))
    return apply


def change(line, **values):
    return line | values


LAST = np.float32(0.25)
CHANGES = {
    "one bit of one tensor": (change_bit, {"tensor"}),
    "a tensor more": (lambda root: write_checkpoint(root, STEPS, more=tf.Variable(0)), {"tensor"}),
    "another type": (lambda root: write_checkpoint(root, STEPS, KERNEL.astype(np.float64)), {"tensor"}),
    "-0.0 for 0.0": (lambda root: write_checkpoint(root, STEPS, KERNEL * np.float32(-1)), {"tensor"}),
    "no last checkpoint": (lambda root: (root / "checkpoints" / f"ckpt-{STEPS:08d}.json").unlink(), {"tensor"}),
    "one line": (change_lines("train", lambda l: [*l[:4], change(l[4], loss=np.nextafter(l[4]["loss"], 1)), *l[5:]]),
                 {"metrics line"}),
    "a line twice": (change_lines("train", lambda l: [*l, l[-1]]), {"metrics line", "batch digest"}),
    "a line less": (change_lines("train", lambda l: l[:-1]), {"metrics line", "batch digest"}),
    "other examples": (change_lines("train", lambda l: [change(l[0], batch_digest="0"), *l[1:]]),
                       {"metrics line", "batch digest"}),
    "one point": (lambda root: write_events(root, [0.5, float(np.nextafter(LAST, np.float32(1)))]),
                  {"TensorBoard scalars, train", "TensorBoard scalars, eval/test"}),
    "a point less": (lambda root: write_events(root, [0.5]),
                     {"TensorBoard scalars, train", "TensorBoard scalars, eval/test"}),
    "a point twice": (lambda root: write_events(root, [0.5, 0.25], twice=0),
                      {"TensorBoard scalars, train", "TensorBoard scalars, eval/test", "TensorBoard tag that rises"}),
    "one histogram": (lambda root: write_events(root, [0.5, 0.25], histogram=(1.0, 2.5)),
                      {"TensorBoard histograms, train", "TensorBoard histograms, eval/test"}),
    "an evaluation": (change_lines("eval/test", lambda l: [change(l[0], loss=0.0), *l[1:]]), {"evaluation line"}),
    "an evaluation twice": (change_lines("eval/test", lambda l: [*l, *l[:2]]), {"evaluation line"}),
    "no best.json": (lambda root: (root / "eval" / "test" / "best.json").unlink(), {"best.json"}),
    "no DONE": (lambda root: (root / "DONE").unlink(), {"DONE"}),
    "another clock": (change_lines("train", lambda l: [change(one, examples_per_second=0) for one in l]), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_difference_is_found_and_named(whole, copy, name):
    apply, kinds = CHANGES[name]
    apply(copy)
    compared, differing = compare.differences(compare.read(copy), compare.read(whole))
    assert {kind for kind, texts in differing.items() if texts} == kinds
    assert compared["metrics line"] >= STEPS and compared["tensor"] >= 4 and compared["TensorBoard scalars, train"] >= 4
    tally = Tally(say=lambda text: None)
    assert tally.compare("here", compared, differing) == (not kinds)
    assert tally.code == (1 if kinds else 0)
    assert all(f"here: {kind}" in tally.table() for kind in kinds)
    assert ("everything was equal" in tally.table()) == (not kinds)


def test_a_shared_ledger_has_each_step_once_with_numbers_of_one_of_the_two():
    def left(evaluations):
        return compare.Left([], {}, [], evaluations, {}, None, None)

    inline, separate = left([evaluation(24, kind, loss=0.1) for kind in ("ema", "raw")]), left(EVALUATIONS)
    mixed = [*inline.evaluations, *EVALUATIONS[:2]]
    for evaluations, wrong in ((mixed, 0), (EVALUATIONS, 0), (mixed[1:], 1), ([*mixed, mixed[0]], 1),
                               ([evaluation(24, "ema", loss=0.2), *mixed[1:]], 1)):
        compared, differing = compare.shared_ledger(left(evaluations), inline, separate)
        assert compared["evaluation line"] == 4 and len(differing["evaluation line"]) == wrong, evaluations


@pytest.mark.parametrize("where", [*(d.name + " " + d.ending for d in damage.damages(random.Random(0)))])
def test_each_damage_is_one(copy, where):
    """Every damage of the command leaves a checkpoint that is not whole (deleted manifests: not published)."""
    checkpoints = copy / "checkpoints"
    for step in (damage.BEFORE, damage.NEWEST):
        write_checkpoint(copy, step)
    assert folder.whole(copy) == [12, 24, 36] and folder.problems(copy, STEPS) == []
    done = next(d for d in damage.damages(random.Random(0)) if d.name + " " + d.ending == where)
    done.apply(checkpoints / f"ckpt-{done.step:08d}.{done.ending}")
    assert folder.whole(copy) == [step for step in (12, 24, 36) if step != done.step]
    assert bool(folder.problems(copy)) == (where != "deleted json")


def test_what_is_not_whole_is_a_problem(copy):
    for name, text in (("train/metrics.jsonl", '{"step": 1}\n{"step": 3}\n'), ("train/metrics.jsonl", '{"step": 1\n'),
                       ("eval/test/metrics.jsonl", "{}}\n"), ("DONE", ""), ("eval/test/best.json", "{")):
        before = (copy / name).read_text()
        (copy / name).write_text(text)
        assert len(folder.problems(copy, STEPS)) == 1, name
        (copy / name).write_text(before)
    (copy / "train/metrics.jsonl").write_text('{"step": 1}\n{"step"')  # killed in its write: no line yet
    assert folder.problems(copy, STEPS) == []
    assert len(folder.problems(copy, STEPS + 12)) == 1  # DONE without the last checkpoint


EMPTY = folder.Look({}, {}, 0, 0, 0, 0, "", "", frozenset(), {})


def files(*names):
    return {name: (1, 1) for name in names}


def checkpoint_files(step):
    return files(*(f"ckpt-{step:08d}.{ending}" for ending in (folder.DATA, folder.INDEX, folder.MANIFEST)))


@pytest.mark.parametrize("phase, after", [
    ("imports", dict(trainer="1")),
    ("building and tracing", dict(line=30)),
    ("building and tracing", dict(line=12, writers=frozenset({"7"}))),
    ("stepping", dict(line=20)),
    ("evaluating", dict(line=24)),
    ("stepping", dict(line=24, evaluated=24)),
    ("ending", dict(line=36, evaluated=36)),
    ("saving: TensorFlow writes", dict(line=24, writing=files("ckpt-00000024_temp"))),
    ("saving: written, not in place", dict(line=24, writing=files("ckpt-00000024.index"))),
    ("saving: data in place, no manifest", dict(files=checkpoint_files(12) | files("ckpt-00000024.index"))),
    ("deleting: manifest gone, data there", dict(files=checkpoint_files(24) | files(f"ckpt-00000012.{folder.DATA}"))),
    ("writing DONE", dict(small=files(".DONE.writing"))),
    ("after DONE", dict(small=files("DONE"))),
])
def test_phases(phase, after):
    before = dataclasses.replace(EMPTY, files=checkpoint_files(12))
    defaults = dict(trainer="7", line=20, writers=frozenset({"7"}), files=checkpoint_files(12))
    if phase.startswith("building"):
        defaults["writers"] = frozenset()
    seen = dataclasses.replace(EMPTY, **{**defaults, **after})
    assert folder.trainer_phase(before, seen, 7, eval_steps=24, last=36) == phase


def test_what_an_earlier_process_left_is_no_phase_of_this_one():
    """A half-written checkpoint, a half-deleted one and .writing/ stay after a kill."""
    left = dict(files=checkpoint_files(12) | files(f"ckpt-00000024.{folder.DATA}", f"ckpt-00000006.{folder.INDEX}"),
                writing=files("ckpt-00000024.index"), small=files(".DONE.writing"))
    before = dataclasses.replace(EMPTY, **left)
    after = dataclasses.replace(before, trainer="7", line=20, writers=frozenset({"7"}))
    assert folder.trainer_phase(before, after, 7, eval_steps=24, last=36) == "stepping"


def test_orphans(copy):
    (copy / "checkpoints" / "ckpt-00000012.json").unlink()
    assert folder.orphans(copy, before=24) == [f"ckpt-00000012.{ending}" for ending in (folder.DATA, folder.INDEX)]
    assert folder.orphans(copy, before=12) == []


def test_a_moment_comes_its_delay_after_its_condition():
    now = [0.0]
    moment = moments.Moment("m", lambda look, process: look.line >= 5, 2.0, clock=lambda: now[0])
    seen = []
    for now[0], step in ((0.0, 4), (1.0, 5), (2.5, 4), (3.0, 4)):
        seen.append(moment.due(dataclasses.replace(EMPTY, line=step), None))
    assert seen == [False, False, False, True]


def test_retained_checkpoints():
    """The newest two and the best must stay; what else may, depends on when the run was killed."""
    def promise(**options):
        lines = [evaluation(60, "ema", precision_at_1=0.6), evaluation(120, "ema", precision_at_1=0.9),
                 evaluation(180, "ema", precision_at_1=0.95)]
        return kills.promised(compare.Left([], {}, [], lines, {}, lines[-1], None), keep=2, **options)

    assert promise(evaluator=False, killed_after_last=False) == ({168, 180}, {168, 180, 120})
    assert promise(evaluator=False, killed_after_last=True) == ({168, 180}, {156, 168, 180, 120})
    assert promise(evaluator=True, killed_after_last=False)[1] == set(range(12, 181, 12))


def test_one_line():
    assert damage.one_line("trainer: no\n")
    assert not any(map(damage.one_line, ("", "\n", "a\nb\n", "Traceback (most recent call last):\n")))


def test_the_tally_adds_up():
    tally = Tally(say=lambda text: None)
    tally.kill("trainer: stepping")
    assert tally.check("exit code", "a", True, "") and not tally.check("exit code", "b", False, "ended with 1")
    other = Tally(say=lambda text: None)
    other.merge(json.loads(json.dumps(tally.as_dict())))
    assert other.table() == tally.table() and "FAILED b: ended with 1" in other.table() and other.code == 1


def command(*flags, timeout=60):
    return subprocess.run([sys.executable, "-m", "tests.torture", *flags], cwd=runs.ROOT, capture_output=True, text=True,
                          timeout=timeout, env=runs.environment())


def test_the_command_line():
    wrong = command("--only=kills,floods")
    assert wrong.returncode != 0 and "kills, operations, elastic, damage, disk" in wrong.stderr
    shown = command("--help").stdout
    assert "--kills" in shown and all(f"  {part}" in shown for part in ("kills", "operations", "elastic", "damage", "disk"))


@pytest.mark.slow
def test_a_few_kills():
    """Evaluated inline, as this seed has it; the other ways and parts take minutes."""
    done = command("--kills=2", "--seed=3", "--only=kills", f"--configurations={next(iter(CONFIGURATIONS))}", timeout=590)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "everything was equal" in done.stdout and ", inline, killed-1: kill 2 of 2" in done.stdout
