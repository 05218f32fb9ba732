"""launch.plan: hand-computed predictions, what must hold of any, wrong commands; the model of this machine's cores."""
import json
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import chips, local_cost, network, plan

ROOT = pathlib.Path(plan.__file__).parents[1]
FACTS = {"global_batch_size": 128, "rows": 64, "parameters": 1_000_000, "row_activation_bytes": 0, "optimizer": "sgd",
         "learning_rate": 0.1, "warmup_steps": 0, "train_examples": 50_000, "recipe": "r",
         "programs": [{"flops": 64e9, "collectives": [4_000_000, 512]}, {"flops": 0, "collectives": []}]}


def test_compute_is_a_roofline():
    """1 GFLOP a row: 128 rows at half of 100 TFLOPS take 2.56 ms. Memory: 8 numbers of 4 bytes a weight at 1 GB/s, 32 ms."""
    seconds = plan.compute_seconds(FACTS, 128, flops=100e12, bandwidth=1e15, utilisation=0.5)
    assert seconds == pytest.approx(128e9 / 50e12)
    assert plan.compute_seconds(FACTS, 128, flops=1e20, bandwidth=1e9, utilisation=0.5) == pytest.approx(32e-3)
    rows = {**FACTS, "row_activation_bytes": 1000, "parameters": 0}
    assert plan.compute_seconds(rows, 10, flops=1e20, bandwidth=1e3, utilisation=1) == pytest.approx(10 * plan.TRAFFIC)


def test_weak_scaling_by_hand():
    device = plan.DEVICES["v5e"]
    entries = plan.predicted(plan.Plan(devices="v5e", most=4, utilisation=0.4), FACTS, device)
    assert [one["devices"] for one in entries] == [1, 2, 4]
    assert [one["global_batch_size"] for one in entries] == [128, 256, 512]
    compute = 128e9 / (197e12 * 0.4)
    torus = network.torus(chips.TPUS["v5e"], (2, 2))
    four = entries[2]
    assert entries[0]["step_seconds"] == pytest.approx(compute) and entries[0]["efficiency"] == 1
    assert four["all_reduce_seconds"] == pytest.approx(torus(4e6) + torus(512))
    assert four["efficiency"] == pytest.approx(compute / (compute + torus(4e6) + torus(512)))


def test_what_a_larger_batch_asks_for():
    def of(batch, **changes):
        return plan.consequences({**FACTS, **changes}, batch)

    assert of(128) == {"learning_rate": 0.1, "warmup_steps": 0, "steps_per_epoch": 390.625, "note": ""}
    assert of(1024)["learning_rate"] == pytest.approx(0.8)  # linear
    assert of(1024)["warmup_steps"] == round(5 * 50_000 / 1024)
    assert of(512, optimizer="adamw")["learning_rate"] == pytest.approx(0.2)  # square root
    assert of(8192)["note"] == "" and of(16384)["note"] == "use lars" and of(16384, optimizer="adam")["note"] == "use lamb"
    assert "beyond" in of(40_000)["note"] and "more than the training set" in of(65_536)["note"]
    assert of(16384, global_batch_size=16384)["note"] == ""  # the recipe's own batch is the recipe's business


@given(st.sampled_from(sorted(plan.DEVICES)), st.booleans(), st.floats(1e3, 1e13), st.lists(st.integers(4, 10**9), max_size=5),
       st.floats(0.01, 1), st.integers(1, 2048))
def test_efficiency_is_a_part_of_one_and_falls(name, strong, flops, sizes, utilisation, batch):
    found = {**FACTS, "global_batch_size": batch, "programs": [{"flops": flops, "collectives": sizes}]}
    entries = plan.predicted(plan.Plan(devices=name, most=2048, strong=strong, utilisation=utilisation), found,
                             plan.DEVICES[name])
    efficiencies = [one["efficiency"] for one in entries]
    assert efficiencies[0] == 1 and all(0 < value <= 1 + 1e-9 for value in efficiencies)
    assert all(0 <= one["all_reduce_share"] < 1 or not sizes for one in entries)
    cores = chips.TPUS[name].cores if name in chips.TPUS else 1
    pod = chips.TPUS[name].pod if name in chips.TPUS else 8
    several = [one for one in entries if cores <= one["devices"] <= pod]  # cores of one chip: the sum costs nothing
    assert all(b["efficiency"] <= a["efficiency"] * (1 + 1e-9) for a, b in zip(several, several[1:]))
    assert entries[-1]["devices"] <= (batch if strong else 2048)


COST = local_cost.Cost(row_seconds=1e-3, fixed_seconds=5e-3, sum_seconds=2e-3, process_row_seconds=0.9e-3,
                       process_fixed_seconds=4e-3, exchange_seconds=10e-3, flops=1e9)


def test_replicas_share_cores_by_hand():
    """100 rows: 100 ms of arithmetic whatever the number of replicas."""
    assert local_cost.emulated_seconds(COST, 100, 1) == pytest.approx(0.105)
    assert local_cost.emulated_seconds(COST, 100, 4) == pytest.approx(0.1 + 4 * 0.005 + 4 * 0.002)
    assert local_cost.process_seconds(COST, 100, 1) == pytest.approx(0.105)
    assert local_cost.process_seconds(COST, 100, 4) == pytest.approx(0.09 + 4 * 0.004 + 3 * 0.010)
    entries = local_cost.predicted(COST, {"global_batch_size": 100})
    assert len(entries) == 7 and entries[0]["efficiency"] == 1
    assert entries[3]["efficiency"] == pytest.approx(0.105 / 0.156)


def test_the_parts_of_a_cost_are_found_again(monkeypatch):
    """Where steps cost exactly what the model says, four measurements give its parts back."""
    def steps(recipe, flags, *, batch, steps, emulated=0, processes=0):
        return local_cost.process_seconds(COST, batch, processes or 1)

    monkeypatch.setattr(local_cost, "step_seconds", steps)
    monkeypatch.setattr(local_cost, "sum_seconds", lambda size: 2e-3)
    found = {"global_batch_size": 128, "rows": 64, "programs": [{"flops": 64e9, "collectives": [4]}]}
    cost = local_cost.measure("r", (), found, 60)
    assert cost.row_seconds == pytest.approx(1e-3) and cost.fixed_seconds == pytest.approx(5e-3)
    assert cost.process_row_seconds == pytest.approx(0.9e-3)
    # Of 2 x 4 + 10 ms that are left, each process is given 5, as one replica takes: 8 ms remain for the exchange.
    assert 2 * cost.process_fixed_seconds + cost.exchange_seconds == pytest.approx(18e-3)
    with pytest.raises(plan.UserError, match="must divide by 8"):
        local_cost.measure("r", (), {**found, "global_batch_size": 100}, 60)


@given(st.integers(1, 1000), st.floats(1e-6, 10), st.integers(1, 1000), st.floats(1e-6, 10))
def test_the_line_never_predicts_negative_times(x, y, more, y2):
    slope, fixed = local_cost.line(x, y, x + more, y2)
    assert slope >= 0 and fixed >= -1e-12
    assert slope * (x + more) + fixed == pytest.approx(y2)  # the whole batch is met exactly
    if 0 <= (y2 - y) / more <= y2 / (x + more):
        assert slope * x + fixed == pytest.approx(y, rel=1e-6, abs=1e-9)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "launch.plan", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments, words", [
    (["--devices=v9"], "--devices=v9 must be one of v2, v3"), (["--check"], "--devices=v5e is not it"),
    (["--recipe=resnet"], "--recipe=resnet must be one of"), (["--utilisation=0"], "--utilisation=0 must be"),
    (["--most=0"], "--most=0"), (["--", "--optimizer=sdg"], "--optimizer=sdg"), (["10"], "is not a flag"),
])
def test_wrong_commands(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and words in done.stderr, done.stderr


def test_the_command_on_the_real_step():
    done = run("--devices=v3", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parameters"] == 45_162 and len(result["plan"]) == 12 and result["plan"][-1]["devices"] == 2048
    assert result["plan"][3]["efficiency"] < 1 < result["plan"][3]["examples_per_second"]
