"""Exports and predictions of the other tasks answer as the evaluator does, in raw units; what TensorBoard shows of them."""
import json
import pathlib
import subprocess
import sys

import commands
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from input_pipeline import datasets, series

STEPS = 10
FLAGS = (f"--train_steps={STEPS}", f"--eval_steps={STEPS}", "--precision=float32", "--summary_steps=0", "--histogram_steps=0",
         "--progress=none")
# TensorFlow and NumPy, and nothing of the trainer's.
SERVE = """
import sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = serve(**{sys.argv[2]: tf.constant(np.load(sys.argv[3]).astype(np.float32))})
np.savez(sys.argv[4], **found)
assert not [name for name in sys.modules if name.split(".")[0] in ("trainer", "models", "input_pipeline")]
"""


def served(folder: pathlib.Path, name: str, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the export of the run in `folder` makes of `inputs`."""
    commands.run("trainer.export", f"--model_dir={folder / 'run'}", f"--output={folder / 'export'}")
    np.save(folder / "inputs.npy", inputs)
    subprocess.run([sys.executable, "-I", "-c", SERVE, folder / "export", name, folder / "inputs.npy", folder / "answers.npz"],
                   cwd="/", check=True, timeout=300)
    return dict(np.load(folder / "answers.npz"))


def told(run: pathlib.Path) -> dict:
    """The evaluation of the averages in the ledger."""
    lines = map(json.loads, (run / "eval" / "test" / "metrics.jsonl").read_text().splitlines())
    return next(line for line in lines if line["weights"] == "ema")


def shown(run: pathlib.Path, tag: str) -> np.ndarray:
    """The picture that TensorBoard shows of the evaluation."""
    found = [value.tensor.string_val[2] for path in (run / "eval" / "test").glob("events*")
             for event in EventFileLoader(str(path)).Load() for value in event.summary.value if value.tag == tag]
    assert len(found) == 1
    (run / f"{tag}.png").write_bytes(found[0])
    return tf.io.decode_png(found[0]).numpy()


def predicted(run: pathlib.Path, path: pathlib.Path) -> dict:
    """The line of trainer.predict."""
    return json.loads(commands.run("trainer.predict", f"--model_dir={run}", path).out)


@pytest.mark.slow
def test_restored_images_are_the_evaluators_in_raw_units(tmp_path):
    """Mutations: the network's own units; raw weights for the averages."""
    run, images = tmp_path / "run", commands.held_out()[0]
    commands.run("trainer.main", f"--model_dir={run}", "--dataset=digits", "--model=autoencoder", "--augment=normalize:8:8", *FLAGS)
    answers = served(tmp_path, "images", images)
    network, clean = commands.evaluators_network(run, STEPS), (images.astype(np.float32) - 8) / 8
    assert list(answers) == ["images"]
    np.testing.assert_allclose(answers["images"] / 8, network(clean, training=False) + 1, rtol=0, atol=1e-5)
    assert np.mean(np.square(answers["images"] / 8 - 1 - clean)) == pytest.approx(told(run)["mse"], abs=1e-5)
    np.save(tmp_path / "one.npy", images[3])
    np.testing.assert_allclose(predicted(run, tmp_path / "one.npy")["image"], answers["images"][3], rtol=0, atol=1e-4)
    picture = shown(run, "restored")  # rows: what it got, what it gave, what was wanted; 8 images each
    assert picture.shape == (3 * 64, 8 * 64, 1)  # 64 pixels an image
    picture = picture[::8, ::8]
    wanted = np.concatenate([np.floor(255 * image / 16) for image in images[:8].astype(np.float32)], axis=1)
    assert np.abs(picture[16:] - wanted).max() <= 1 and np.abs(picture[8:16] - wanted).max() > 20


@pytest.mark.slow
def test_forecasts_are_the_evaluators(tmp_path, co2):
    """Mutations: the network's differences for parts per million; raw weights for the averages."""
    run = tmp_path / "run"
    commands.run("trainer.main", "--recipe=co2_forecast", f"--data_dir={co2}", f"--model_dir={run}", "--train_epochs=0", *FLAGS)
    commands.run("trainer.evaluator", f"--model_dir={run}", "--run_once")  # of the test split: the trainer's is validation
    source = datasets.load("co2", "test", co2)
    windows = {name: value.numpy() for name, value in source.read(tf.range(len(source), dtype=tf.int64)).items()}
    answers = served(tmp_path, "series", windows["input"])
    assert list(answers) == ["forecast"] and answers["forecast"].shape == (len(source), 12)
    network = commands.evaluators_network(run, STEPS)
    np.testing.assert_allclose(answers["forecast"], network(windows["input"], training=False), rtol=1e-6, atol=1e-5)
    assert np.mean(np.abs(answers["forecast"] - windows["target"])) == pytest.approx(told(run)["mae"], abs=1e-4)
    csv = pathlib.Path(co2, "co2", "co2-mm-mlo.csv")
    _, values = series.read_csv(str(csv))
    last = network(values[np.newaxis, -windows["input"].shape[1]:, np.newaxis].astype(np.float32), training=False)[0]
    np.testing.assert_allclose(predicted(run, csv)["forecast"], last, rtol=1e-6, atol=1e-5)
    assert shown(run, "forecast").shape == (320, 640, 3)
