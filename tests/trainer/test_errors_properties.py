"""Laws for any command and any config.json: a run or one line, never a traceback; and the same command resumes.

The examples are the same in every run (derandomized).

Mutations, each of which turned tests here red: recorded values taken without their rules; epochs turned into steps on
resume with another rounding.
"""
import json
import pathlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from wrong_commands import alone

from input_pipeline.rules import text_of
from trainer import flags, resolve
from trainer.config import FIELDS, TRANSIENT, UserError, rule
from trainer.recipes import RECIPES

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=300,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
AUGMENTATIONS = ("", "flip", "crop:4", "crop:9", "pad_crop:2:reflect", "normalize:0:16,flip",
                 f"crop:{'9' * 400}", "contrast:1")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NUMBERS = {int: st.integers(0, 300), float: st.floats(0, 100) | st.floats(0, 1),
           "ints": st.lists(st.integers(0, 500), max_size=3)}
LOOSE = {int: st.integers(), float: FINITE, "ints": st.lists(st.integers(), max_size=4)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, the current one, on a machine without GPUs, TPUs and cluster."""
    alone(tmp_path, monkeypatch)
    (tmp_path / "m").mkdir()
    return tmp_path


def values(name: str, numbers: dict) -> st.SearchStrategy[str]:
    """Texts of values of option `name`, numbers from the given ranges."""
    kind = rule(name).kind
    if name == "recipe":
        return st.sampled_from(sorted(RECIPES))
    if name == "augment":
        return st.sampled_from(AUGMENTATIONS)
    if rule(name).choices:
        return st.sampled_from(rule(name).choices)
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if kind in numbers:
        return numbers[kind].map(lambda value: text_of(tuple(value) if isinstance(value, list) else value))
    return st.sampled_from(["m", "", "/nowhere/x", "auto", "grpc://a:1", "a b"])


@st.composite
def commands(draw, numbers: dict, junk: bool) -> list[str]:
    """Up to six flags, most of them with values that their own rules allow."""
    names = draw(st.lists(st.sampled_from([name for name in FIELDS if name != "model_dir"]), max_size=6,
                          unique=True))
    text = st.text(max_size=20).filter(lambda text: "\0" not in text)
    return [f"--{name}={draw(values(name, numbers) | text if junk else values(name, numbers))}" for name in names]


def run_of(arguments: list[str]) -> resolve.Run | None:
    """The run, None where the command is wrong; any other error than a UserError of one line is raised."""
    try:
        return resolve.resolve(flags.parse(["main", "--model_dir=m", *arguments]))
    except UserError as error:
        assert str(error).isprintable() and 20 < len(str(error)) < 1000
        return None


@EXAMPLES
@given(commands(LOOSE, junk=True))
def test_any_command_is_a_run_or_one_line(folder, arguments):
    run_of(arguments)
    assert list(folder.rglob("*")) == [folder / "m"]


@EXAMPLES
@given(commands(NUMBERS, junk=False))
def test_a_run_is_resolved_and_the_same_command_goes_on_with_it(folder, arguments):
    record = folder / "m" / "config.json"
    record.unlink(missing_ok=True)
    run = run_of(arguments)
    assume(run is not None)  # hypothesis complains if that is rare
    config = run.config
    assert config.train_steps >= 1 and config.decay_steps and config.precision != "auto"
    assert (config.classes >= 2) == bool(run.info.classes)
    for name, value in vars(config).items():
        if value is not None:
            rule(name).check(value)
    record.write_text(json.dumps({"config": {name: value for name,
                                             value in vars(config).items() if name not in TRANSIENT}}))
    again = run_of(arguments)
    assert again is not None and again.config == config and again.plan == run.plan
    alone = run_of(["--download"] if config.download else [])  # without it the data are missing
    assert alone is not None
    assert {name for name in FIELDS if getattr(alone.config, name) != getattr(config, name)} <= set(TRANSIENT)


def recorded() -> dict:
    """What a run of the recipe digits leaves."""
    resolved = {"train_steps": 674, "decay_steps": [674], "precision": "float32", "classes": 10}
    return {name: value for name,
            value in vars(RECIPES["digits"]()).items() if name not in TRANSIENT} | resolved


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
                    | st.sampled_from([10**400, 2**63, -1, 0, "auto", "sgd", "\n", "\ud800"]),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                                max_size=2),
                    max_leaves=6)


@EXAMPLES
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON, min_size=1, max_size=3))
def test_any_recorded_value_is_a_run_or_one_line(folder, changes):
    (folder / "m" / "config.json").write_text(json.dumps({"config": {**recorded(), **changes}}))
    run = run_of([])
    if run is not None:
        for name, value in vars(run.config).items():
            if value is not None:
                rule(name).check(value)


@EXAMPLES
@given(st.integers(0, 1200), st.binary(max_size=6), st.integers(0, 40))
def test_any_damage_to_config_json_is_a_run_or_one_line(folder, place, new, length):
    text = json.dumps({"config": recorded()}).encode()
    (folder / "m" / "config.json").write_bytes(text[:place] + new + text[place + length:])
    run_of([])


@EXAMPLES
@given(JSON | st.dictionaries(st.sampled_from(["cluster", "task"]), JSON)
       | st.fixed_dictionaries({"cluster": st.dictionaries(st.sampled_from(["worker", "chief"]), JSON),
                                "task": st.fixed_dictionaries({"type": st.sampled_from(["worker", "chief"]),
                                                               "index": JSON})}))
def test_any_tf_config_is_a_run_or_one_line(folder, monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", json.dumps(content))
    run_of([])
    assert not pathlib.Path("m", "config.json").exists()
