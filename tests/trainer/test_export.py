"""An export answers as the evaluator does, wherever TensorFlow is; it is whole or absent."""
import json
import os
import pathlib
import subprocess
import sys

import commands
import numpy as np
import pytest

from trainer import export, files
from trainer.config import UserError

# A program that has TensorFlow and NumPy, and nothing of the trainer's. -I: not even the current folder.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
images = np.load(sys.argv[2]).astype(np.float32)
rows = [serve(images=tf.constant(part))["probabilities"].numpy() for part in np.split(images, [1, 8])]
np.save(sys.argv[3], np.concatenate(rows))
_, inputs = serve.structured_input_signature
describe = lambda specs: {name: [spec.shape.as_list(), spec.dtype.name] for name, spec in specs.items()}
foreign = [name for name in sys.modules if name.split(".")[0] in ("trainer", "models", "input_pipeline")]
print(json.dumps({"in": describe(inputs), "out": describe(serve.structured_outputs), "foreign": foreign}))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    commands.train(folder)
    return folder


@pytest.fixture(scope="module")
def exported(trained) -> pathlib.Path:
    """Where neither the data nor the run are needed any more."""
    output = trained.parent / "there" / "digits"
    copy = commands.without_data(trained, trained.parent / "copy")
    said = commands.run("trainer.export", f"--model_dir={copy}", f"--output={output}")
    assert f"step 20 of {copy}, EMA weights" in said.out and said.err == ""
    copy.rename(trained.parent / "gone")
    return output


@pytest.fixture(scope="module")
def served(exported) -> tuple[dict, np.ndarray]:
    """The signature, and the probabilities of the held-out images in batches of 1, 7 and 352."""
    images, answers = exported.parent.parent / "images.npy", exported.parent.parent / "answers.npy"
    np.save(images, commands.held_out()[0])
    done = subprocess.run([sys.executable, "-I", "-c", SERVE, exported, images, answers], cwd="/",
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), np.load(answers)


def test_a_program_with_tensorflow_alone_gets_the_evaluators_probabilities(trained, served):
    """Mutations: raw weights for the averages; no preprocessing; float32 for the run's precision."""
    _, probabilities = served
    expected = commands.evaluators_probabilities(trained, 20)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_exports_loss_and_precision_are_those_in_the_ledger(trained, served):
    _, probabilities = served
    labels = commands.held_out()[1]
    lines = (trained / "eval" / "test" / "metrics.jsonl").read_text().splitlines()
    ema = next(line for line in map(json.loads, lines) if line["weights"] == "ema" and line["step"] == 20)
    assert np.mean(probabilities.argmax(axis=1) == labels) == pytest.approx(ema["precision_at_1"], abs=1e-7)
    assert -np.mean(np.log(probabilities[np.arange(360), labels])) == pytest.approx(ema["loss"], abs=1e-5)


@pytest.mark.slow
def test_an_export_averages_the_views_that_the_evaluator_does(tmp_path):
    """Mutation: the export leaves --test_time_augmentation out."""
    found = {}
    for views in "none", "mirror_shift":
        run = tmp_path / views
        commands.run("trainer.main", f"--model_dir={run}", *commands.TRAINING, f"--test_time_augmentation={views}")
        commands.run("trainer.export", f"--model_dir={run}", f"--output={run}.export")
        np.save(tmp_path / "images.npy", commands.held_out()[0])
        subprocess.run([sys.executable, "-I", "-c", SERVE, f"{run}.export", tmp_path / "images.npy", f"{run}.npy"], cwd="/",
                       capture_output=True, check=True, timeout=300)
        probabilities, labels = np.load(f"{run}.npy"), commands.held_out()[1]
        lines = map(json.loads, (run / "eval" / "test" / "metrics.jsonl").read_text().splitlines())
        ema = next(line for line in lines if line["weights"] == "ema")
        found[views] = -np.mean(np.log(probabilities[np.arange(360), labels]))
        assert found[views] == pytest.approx(ema["loss"], abs=1e-5)
    assert abs(found["none"] - found["mirror_shift"]) > 0.01


def test_the_signature_is_one_input_and_one_output_of_any_number_of_rows(served):
    assert served[0] == {"in": {"images": [[None, 8, 8, 1], "float32"]},
                         "out": {"probabilities": [[None, 10], "float32"]}, "foreign": []}


def test_names_and_configuration_lie_beside_it_and_nothing_temporary(trained, exported):
    assert json.loads((exported / "classes.json").read_text()) == [str(digit) for digit in range(10)]
    config = json.loads((exported / "config.json").read_text())
    assert config.pop("export") == {"step": 20, "weights": "ema"}
    assert config == json.loads((trained.parent / "gone" / "config.json").read_text())
    assert os.listdir(exported.parent) == ["digits"]


@pytest.mark.parametrize("arguments, named", [
    (["--output=new"], "--model_dir"),
    (["--model_dir=run"], "--output"),
    (["--model_dir=run", "--output=there"], "--output=there must not exist"),
    (["--model_dir=run", "--output=file/new"], "--output=file/new must lie in a folder"),
    (["--model_dir=absent", "--output=new"], "--model_dir=absent has no config.json"),
    (["--model_dir=run", "--output=new", "--step=newest"], "--step=newest"),
    (["--model_dir=run", "--output=new", "more"], "'more'"),
    (["--model_dir=run", "--output=new", "--stop=3"], "--stop"),
])
def test_a_wrong_command_is_one_line_and_code_2(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(os.listdir(tmp_path))
    assert export.main(["export", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and named in said.err
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("module", ["export", "predict"])
def test_a_wrong_command_does_not_wait_for_tensorflow(module, tmp_path):
    argv = ["", f"--model_dir={tmp_path}/absent", "--output=x" if module == "export" else "7.png"]
    program = (f"import sys; from trainer import {module}; code = {module}.main({argv}); "
               "sys.exit(10 * code + ('tensorflow' in sys.modules))")
    done = subprocess.run([sys.executable, "-c", program], cwd=commands.ROOT, capture_output=True, text=True)
    assert done.returncode == 20, done.stderr
    assert "has no config.json" in done.stderr


def test_everything_is_on_the_disk_before_the_name_appears(tmp_path, monkeypatch):
    output, synced = tmp_path / "new" / "out", []

    def fill(ready, folder):
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text("numbers")
        (folder / "saved_model.pb").write_text("graph")

    def sync(path):
        assert path == output.parent or not output.exists()
        synced.append(path.stat().st_ino)

    monkeypatch.setattr(export, "_fill", fill)
    monkeypatch.setattr(files, "sync", sync)
    export.write(None, output)
    assert os.listdir(output.parent) == ["out"]
    assert {path.stat().st_ino for path in [output, output.parent, *output.rglob("*")]} == set(synced)
    assert (output / "variables" / "data").read_text() == "numbers"


def test_a_failed_write_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    def fill(ready, folder):
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_fill", fill)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        export.write(None, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_fill", lambda ready, folder: (tmp_path / "out").mkdir())
    with pytest.raises(UserError, match="meanwhile"):
        export.write(None, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == []


def test_a_signal_leaves_nothing(tmp_path):
    program = """
import os, pathlib, signal, sys, threading
from trainer import export, signals
signals.install()
def fill(ready, folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
export._fill = fill
export.write(None, pathlib.Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], cwd=commands.ROOT, timeout=60)
    assert done.returncode == 143
    assert os.listdir(tmp_path) == []
