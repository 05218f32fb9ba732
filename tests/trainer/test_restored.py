"""Which checkpoint a --step means, and that a damaged one is never taken for it."""
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainer import manifest, recipes, restored
from trainer.config import UserError

DATA = {"name": "digits", "input_shape": [8, 8, 1], "classes": ["zero", "one"],
        "examples": {"train": 20, "test": 4}}


def publish(folder: pathlib.Path, step: int) -> None:
    """Something that is whole by its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for path in manifest.files_of(folder, step):
        data = b"tensors of %d" % step
        path.write_bytes(data)
        files[path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.prefix(folder, step).with_suffix(".json").write_text(json.dumps({"step": step, "files": files}))


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    """A run with the checkpoints 10, 20 and 30."""
    config = dataclasses.asdict(recipes.digits()) | {
        "train_steps": 30, "decay_steps": [30], "classes": 2, "precision": "float32", "model_dir": "then",
        "xla": True, "intra_op_threads": 3}
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "data": DATA}))
    for step in (10, 20, 30):
        publish(tmp_path / "checkpoints", step)
    return tmp_path


def evaluated(run: pathlib.Path, step: int) -> None:
    (run / "eval" / "test").mkdir(parents=True)
    (run / "eval" / "test" / "best.json").write_text(json.dumps({"step": step, "precision_at_1": 0.5}))


def damage(run: pathlib.Path, step: int) -> None:
    path = manifest.files_of(run / "checkpoints", step)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_the_best_is_the_default_where_there_was_an_evaluation_else_the_latest(run):
    assert restored.find(str(run)).step == 30
    evaluated(run, 20)
    steps = [restored.find(str(run), step).step for step in (None, "best", "latest", "10", "00020")]
    assert steps == [20, 20, 30, 10, 20]


def test_a_damaged_latest_gives_way_to_the_newest_whole_one_and_it_says_so(run):
    damage(run, 30)
    for step in (None, "latest"):
        found = restored.find(str(run), step)
        assert found.step == 20
        assert len(found.notes) == 1
        assert "ckpt-00000030.data" in found.notes[0] and "step 20 is used" in found.notes[0]


def test_any_other_damaged_one_is_an_error_that_names_what_is_wrong(run):
    damage(run, 20)
    evaluated(run, 20)
    for step in (None, "best", "20"):
        with pytest.raises(UserError, match="checkpoint 20 is damaged: ckpt-00000020.data.* was changed"):
            restored.find(str(run), step)
    assert restored.find(str(run), "latest").step == 30
    for step in (10, 30):
        damage(run, step)
    with pytest.raises(UserError, match="no whole checkpoint is left"):
        restored.find(str(run), "latest")


@pytest.mark.parametrize("step, said", [
    ("15", "has no checkpoint 15; there are 10, 20, 30"), ("-10", "--step=-10"), ("1e1", "--step=1e1"),
    ("", "--step="), ("²", "--step=²"), ("best", "no evaluation"),
])
def test_a_step_that_is_none_is_named(run, step, said):
    with pytest.raises(UserError, match=said):
        restored.find(str(run), step)


def test_what_is_missing_is_named(run):
    with pytest.raises(UserError, match="has no config.json"):
        restored.find(str(run / "absent"))
    evaluated(run, 40)  # of a checkpoint that somebody deleted
    with pytest.raises(UserError, match="has no checkpoint 40"):
        restored.find(str(run))
    (run / "eval" / "test" / "best.json").write_text("{")
    with pytest.raises(UserError, match="best.json cannot be read"):
        restored.find(str(run))
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        restored.find(str(run))


@pytest.mark.parametrize("change", [{"input_shape": [8]}, {"target_shape": [2, 2]}, {"input_shape": [8, 8, 0]}, {"classes": []},
                                    {"classes": [1, 2]}, {"examples": {}}, None])
def test_a_wrong_description_of_the_data_is_an_error(run, change):
    recorded = json.loads((run / "config.json").read_text())
    recorded["data"] = change and {**DATA, **change}
    (run / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="does not describe the data set"):
        restored.find(str(run))


def test_facts_and_settings_are_the_recorded_ones_but_for_the_devices(run):
    found = restored.find(str(run))
    assert found.info.input_shape == (8, 8, 1) and found.info.classes == ("zero", "one")
    assert (found.info.train_examples, found.info.test_examples) == (20, 4)
    assert not found.config.xla and found.config.intra_op_threads == 0 and found.config.train_steps == 30
    assert found.config.model_dir == str(run)


def test_outputs_beyond_the_data_sets_classes_have_names(run):
    found = restored.find(str(run))
    wider = dataclasses.replace(found, config=dataclasses.replace(found.config, classes=4))
    assert wider.classes == ("zero", "one", "class 2", "class 3")


def test_the_averages_stand_in_for_the_weights_that_have_one(tmp_path):
    def write(step, **groups):
        variables = {group: {path: tf.Variable(value) for path, value in part.items()}
                     for group, part in groups.items()}
        tf.train.Checkpoint(**variables).write(str(manifest.prefix(tmp_path, step)))

    model = {"norm/gamma": [1.0], "norm/moving_mean": [2.0]}
    write(1, model=model, ema={"norm/gamma": [3.0]}, trainer={"step": 1})
    write(2, model=model, trainer={"step": 2})
    kinds = restored.weights(tmp_path, 1)
    assert list(kinds) == ["ema", "raw"]
    assert kinds["ema"] == {"norm/gamma": np.float32([3]), "norm/moving_mean": np.float32([2])}
    without = restored.weights(tmp_path, 2)
    assert list(without) == ["raw"]
    assert without["raw"] == kinds["raw"] == {"norm/gamma": [1], "norm/moving_mean": [2]}


def test_a_data_set_without_images_for_tests_is_described(tmp_path):
    """Mutation: each split must have been recorded."""
    facts = {"name": "image_folder", "input_shape": [8, 8, 3], "classes": ["a", "b"], "examples": {"train": 24}}
    (tmp_path / "config.json").write_text(json.dumps({"data": facts}))
    info = restored._read_info(str(tmp_path))
    assert (info.splits, info.train_examples, info.test_examples) == (("train",), 24, 0)
