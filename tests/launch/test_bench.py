"""`launch.bench`: its command line, its arithmetic, its comparison with earlier results; and that a row measures."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

import runs
from launch import bench
from launch.benches import answering, rows, sides, stored


class Figures:
    """A side that gives the next of its figures, and says when."""

    def __init__(self, name, figures, told):
        self._name, self._figures, self._told = name, iter(figures), told

    def measure(self, amount):
        self._told.append((self._name, amount))
        return next(self._figures)


def test_the_sides_take_turns_and_turn_about():
    """Mutations: all of one side first; the same side first in every round; the ratio of the medians."""
    told = []
    ratios, ours, other = rows.in_turn(Figures("a", [2, 9, 4], told), Figures("b", [1, 3, 4], told), rounds=range(3), one_amount=5,
                                       other_amount=7)
    assert told == [("a", 5), ("b", 7), ("b", 7), ("a", 5), ("a", 5), ("b", 7)]
    assert (ratios, ours, other) == ([2, 3, 1], [2, 9, 4], [1, 3, 4])


@pytest.mark.parametrize("short, seconds, rounds", [(False, 1e6, 5), (True, 4, 3), (True, 1e6, 2)])
def test_a_short_form_takes_no_third_round_where_two_took_long(short, seconds, rounds, monkeypatch):
    """Mutations: one round alone; the long form cut short."""
    clock = iter([0.0, *[seconds] * 9])
    monkeypatch.setattr(rows.time, "monotonic", lambda: next(clock))
    assert list(rows.Options(short=short).rounds(5)) == list(range(rounds))


def test_a_result_says_what_was_asked_for():
    """Mutations: the mean for the median; a bound the wrong way round."""
    found = rows.result("x", [3.0, 1.0, 1.5], at_least=2, ours=[6.0], other=[2.0])
    assert found == {"what": "x", "value": 1.5, "unit": "ratio", "n": 3, "minimum": 1.0, "median": 1.5, "maximum": 3.0,
                     "ours": {"minimum": 6.0, "median": 6.0, "maximum": 6.0},
                     "other": {"minimum": 2.0, "median": 2.0, "maximum": 2.0}, "target": "at least 2", "met": False}
    assert rows.result("x", [1.5], at_most=2)["met"]


def test_rows_by_name_and_number():
    """Mutation: an unknown name passed over."""
    assert rows.selected("digits_loop,8") == ["digits_loop", "collectives"]
    assert [rows.ROWS[name].number for name in rows.selected("")] == list(range(1, 16))
    with pytest.raises(ValueError, match="'16' must be one of tutorial_loop"):
        rows.selected("8,16")


def entry(low, median, high, **more):
    return {"what": "x", "unit": "ratio", "n": 3, "minimum": low, "median": median, "maximum": high, **more}


@pytest.mark.parametrize("now, worse", [
    (entry(0.80, 0.85, 0.89), True), (entry(0.80, 0.85, 0.91), False), (entry(1.2, 1.3, 1.4), False),
    (entry(0.89, 0.891, 0.892), True), (entry(1.2, 1.3, 1.4, target="at most 2"), True),
    (entry(1.2, 1.3, 1.4, unit="seconds"), True), (entry(0.5, 0.6, 0.7, unit="seconds"), False)])
def test_slower_is_beyond_all_that_was_measured(now, worse):
    """Mutations: medians compared alone; more taken for better of every unit."""
    assert bool(stored.slower({"x": entry(0.9, 1.0, 1.1)}, [now])) == worse


def test_results_are_kept_beside_those_of_other_rows(tmp_path):
    """Mutations: the earlier rows dropped; a failed row kept; anything read as results."""
    path = tmp_path / "deep" / "kind.json"
    assert stored.read(path) == {}
    stored.write(path, [entry(1, 2, 3), {"what": "y", "failed": "no"}])
    stored.write(path, [entry(4, 5, 6) | {"what": "z"}])
    assert {name: value["median"] for name, value in stored.read(path).items()} == {"x": 2, "z": 5}
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no results; delete it"):
        stored.read(path)


def test_one_machine_kind_has_one_file(monkeypatch):
    """Mutation: the short form compared with the long one."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    kind = stored.machine_kind()
    assert f"{len(os.sched_getaffinity(0))} cores" in kind
    assert stored.path_of("A (R) CPU, 2 cores", short=True) == stored.pathlib.Path(
        "/cache/lockstep/bench/a-r-cpu-2-cores-short.json")
    assert stored.path_of(kind, short=True) != stored.path_of(kind, short=False)


def test_processors_of_one_name_are_told_apart(tmp_path):
    """Mutation: the name alone, which a virtual machine shortens to "AMD EPYC"."""
    kinds = set()
    for number, (model, flags) in enumerate([("1", "fpu avx2"), ("17", "fpu avx2 avx512f avx512_bf16"), ("17", "fpu avx2")]):
        path = tmp_path / str(number)
        path.write_text(f"processor\t: 0\ncpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n" * 2)
        kinds.add(stored.machine_kind(path))
    assert len(kinds) == 3 and all("AMD EPYC 25." in kind for kind in kinds), kinds


def test_bfloat16_is_left_out_with_a_reason_where_it_is_slow(monkeypatch):
    """Mutation: measured all the same, at a hundredth of the speed."""
    monkeypatch.setattr(rows.devices, "has_fast_bfloat16", lambda kind: False)
    (found,) = rows._peer("x", ["no such program"], "bfloat16", 1.0, rows.Options())
    assert "avx512_bf16" in found["skipped"]


@pytest.mark.parametrize("flags, says", [
    (["--only=nothing"], "'nothing' must be one of"), (["--torch_python=/none"], "--torch_python=/none must be a program"),
    (["--rounds=3"], "--help"), (["digits_loop"], "'digits_loop' is not a flag")])
def test_a_wrong_command(flags, says):
    """One line, code 2, before anything is measured. Mutation: an unknown row runs all."""
    done = subprocess.run(runs.command("launch.bench", *flags, "--nokeep"), capture_output=True, text=True, cwd=runs.ROOT)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_side_that_ends_is_a_failed_row():
    """Mutation: waiting for its answer for ever."""
    with pytest.raises(sides.Failed, match="no module named .*nothing|No module named .*nothing"):
        sides.Program([sys.executable, "-m", "launch.nothing"])


def test_the_peers_need_nothing_of_the_project():
    """torch's environment has no TensorFlow. Mutation: an import of rows in answering."""
    code = "import sys, launch.benches.answering as a; sys.exit(any(m in sys.modules for m in ('absl', 'tensorflow', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=runs.ROOT)
    assert answering.serve.__doc__


STEADY = """
import itertools, json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1].removeprefix("--model_dir="), "train")
folder.mkdir(parents=True)
(folder.parent / "config.json").write_text(json.dumps({"config": {"global_batch_size": 4}}))
for step in itertools.count(10, 10):
    time.sleep(0.02)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step}) + chr(10))
"""


def test_a_trainer_is_timed_by_its_lines_and_not_while_it_is_stopped(tmp_path, monkeypatch):
    """Ten steps of four in a little over 20 ms. Mutation: a line of before the stop as the first one."""
    (tmp_path / "steady.py").write_text(STEADY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with sides.Trainer(launcher=("steady",)) as side:
        lines = side.folder / "run" / "train" / "metrics.jsonl"
        for _ in range(2):
            runs.wait_for(lambda: ") T " in pathlib.Path(f"/proc/{side.process.pid}/stat").read_text(), seconds=60)
            with open(lines, "a") as file:
                file.write('{"step": 0}\n')
            os.utime(lines, (0, 0))
            assert 200 < side.measure(200) < 2000 * 1.1


@pytest.mark.slow
def test_rows_of_small_steps_measure(tmp_path):
    """Law: one collective a step for the gradients, on any network. A whole trainer and its bare step give figures, the
    results are kept. Mutation: gradients summed one by one (issue: one all-reduce a dtype)."""
    done = subprocess.run(runs.command("launch.bench", "--short", "--only=collectives,digits_loop"), capture_output=True,
                          text=True, cwd=runs.ROOT, env=runs.environment(XDG_CACHE_HOME=str(tmp_path)), timeout=400)
    assert done.returncode == 0, done.stderr
    found = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert found["collectives_digits"]["value"] == found["collectives_cifar10_tutorial"]["value"] == 1
    assert found["digits_loop"]["n"] == 3 and found["digits_loop"]["ours"]["minimum"] > 0
    assert set(stored.read(next((tmp_path / "lockstep" / "bench").glob("*.json")))) == set(found)
    assert bench.torch_python("") in ("", sys.executable) or os.path.exists(bench.torch_python(""))
