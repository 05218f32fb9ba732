"""A line of JSON a file, equal to what the evaluator's network says; a bad file is named, others go on."""
import dataclasses
import json
import pathlib
import types

import commands
import numpy as np
import pytest
import tensorflow as tf

from trainer import image_files, manifest, predict, restored
from trainer.config import Config

FILES = 70  # more than one batch


@dataclasses.dataclass(frozen=True)
class Predicted:
    folder: pathlib.Path
    answers: dict[str, dict]
    order: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    commands.train(folder)
    return folder


@pytest.fixture(scope="module")
def predicted(trained) -> Predicted:
    """One command with good and bad files of every kind, without the data, the newest checkpoint damaged."""
    folder, images = trained.parent, commands.held_out()[0]
    for k in range(FILES):
        np.save(folder / f"{k}.npy", images[k])
    np.save(folder / "flat.npy", images[0, ..., 0].astype(np.float64))
    coloured = np.repeat(images[0], 3, axis=2)
    for name, image in {"grey.png": images[0], "rgb.png": coloured,
                        "large.png": np.kron(images[0], np.ones([4, 4, 1])),
                        "larger.png": np.kron(images[1], np.ones([5, 5, 1]))}.items():
        (folder / name).write_bytes(tf.io.encode_png(image.astype(np.uint8)).numpy())
    (folder / "torn.png").write_bytes((folder / "grey.png").read_bytes()[:50])
    (folder / "text.png").write_text("no image")
    names = ["torn.png", *(f"{k}.npy" for k in range(FILES)), "absent.png", "flat.npy", "text.png",
             "grey.png", "rgb.png", "large.png", "larger.png"]
    copy = commands.without_data(trained, folder / "copy")
    newest = manifest.files_of(copy / "checkpoints", 20)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    said = commands.run("trainer.predict", f"--model_dir={copy}", *(folder / name for name in names),
                        "--step=latest", code=2)
    lines = [json.loads(line) for line in said.out.splitlines()]
    return Predicted(folder, {pathlib.Path(line["file"]).name: line for line in lines},
                     [pathlib.Path(line["file"]).name for line in lines], said.err.splitlines())


def test_every_readable_file_has_its_line_in_the_order_given(predicted):
    assert predicted.order == [*(f"{k}.npy" for k in range(FILES)), "flat.npy", "grey.png", "rgb.png",
                               "large.png", "larger.png"]


def test_the_answers_are_the_evaluators(predicted, trained):
    expected = commands.evaluators_probabilities(trained, 10)
    for k in range(FILES):
        answer = predicted.answers[f"{k}.npy"]
        assert list(answer) == ["file", "class", "probability", "top"]
        likeliest = np.sort(expected[k])[:-6:-1].tolist()
        assert [probability for _, probability in answer["top"]] == pytest.approx(likeliest, abs=1e-5)
        assert [answer["class"], answer["probability"]] == answer["top"][0]
        assert expected[k][int(answer["class"])] == pytest.approx(answer["probability"], abs=1e-5)


def test_the_same_picture_gives_the_same_answer_in_every_format(predicted):
    first = predicted.answers["0.npy"]["top"]
    for name in ("flat.npy", "grey.png"):
        assert predicted.answers[name]["top"] == first
    for name, tolerance in {"rgb.png": 1e-2, "large.png": 0.3}.items():  # values rounded; edges smoothed
        assert predicted.answers[name]["class"] == first[0][0]
        assert predicted.answers[name]["probability"] == pytest.approx(first[0][1], abs=tolerance)


def test_each_unreadable_file_has_one_line_on_stderr_and_resizing_is_said_once(predicted):
    reasons = {"torn.png": "damaged PNG", "text.png": "none of PNG", "absent.png": "No such file"}
    for name, why in reasons.items():
        assert [why in line for line in predicted.errors if f"{name}'" in line] == [True]
    assert [line for line in predicted.errors if "resized" in line] == [
        f"predict: '{predicted.folder}/large.png': 32x32 was resized to 8x8, the data set's size; so is "
        "every other file of another size"]
    assert len(predicted.errors) == 6


def test_a_damaged_latest_checkpoint_gives_way_and_it_says_so(predicted):
    assert predicted.errors[0].startswith("predict: checkpoint 20 is damaged: ckpt-00000020.data")
    assert predicted.errors[0].endswith("; step 10 is used")
    assert f"predict: step 10 of {predicted.folder}/copy, EMA weights" in predicted.errors


@pytest.mark.parametrize("arguments, named", [
    (["--model_dir=run"], "no FILE"),
    (["7.png"], "--model_dir"),
    (["--model_dir=run", "7.png"], "--model_dir=run has no config.json"),
    (["--model_dir=run", "7.png", "--step=first"], "--step=first"),
    (["7.png", "--modeldir=run"], "--modeldir"),
])
def test_a_wrong_command_is_one_line_and_code_2(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict.main(["predict", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and named in said.err


def test_where_no_file_can_be_read_no_network_is_built(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(restored, "load", lambda found: pytest.fail("built"))
    assert predict.predict(None, [str(tmp_path), str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_at_most_a_batch_of_images_is_in_memory(monkeypatch):
    alive = []

    def read(path, shape):
        if path == "3":
            raise image_files.Unreadable("broken")
        alive.append(path)
        return np.zeros(shape, np.float32), ""

    monkeypatch.setattr(image_files, "read", read)
    inputs, sizes = predict.Inputs((8, 8, 1)), []
    for batch in inputs.batches([str(k) for k in range(150)]):
        assert alive == [path for path, _ in batch]
        sizes.append(len(batch))
        alive.clear()
    assert sizes == [63, 64, 22] and inputs.failed


def test_an_answer_that_is_not_finite_is_no_json_but_an_error(monkeypatch, tmp_path, capsys):
    from trainer import classification
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", np.full([8, 8], k))
    info = types.SimpleNamespace(input_shape=(8, 8, 1), classes=("a", "b"))
    found = restored.Found(config=Config(classes=2), info=info, step=1)
    ready = restored.Restored(
        found=found, task=classification.Classification(classes=2), kind="raw", model=None,
        serve=lambda images: {"probabilities": tf.where(images[:, 0, 0] > 0, [[0.25, 0.75]], [[np.nan, 0]])})
    monkeypatch.setattr(restored, "load", lambda found: ready)
    files = [str(tmp_path / f"{k}.npy") for k in range(2)]
    assert predict.predict(found, files) == 2
    said = capsys.readouterr()
    assert json.loads(said.out) == {"file": files[1], "class": "b", "probability": 0.75,
                                    "top": [["b", 0.75], ["a", 0.25]]}
    assert f"{files[0]!r}: the network's answer is not finite" in said.err
