"""The laws with everything at gs://: a run killed and resumed, its evaluator, damage, prediction, export; data from there.

The emulator's service is as strict as the real one about generations, whole objects and checksums, and much faster; it is no
proof of Google's.
"""
import json
import os
import signal
import subprocess
import sys

import gcs
import numpy as np
import pytest
import runs

STEPS = 120
FLAGS = ("--deterministic", f"--train_steps={STEPS}", "--checkpoint_steps=20", "--log_steps=5", "--summary_steps=10",
         "--histogram_steps=0", "--keep_checkpoints=3")
RUN = "gs://bucket/runs/digits"
# What other programs do there: checkpoint and export by TensorFlow's own gs://, TensorBoard's reader.
READ_BY_TENSORFLOW = """
import sys, tensorflow as tf
assert tf.train.load_checkpoint(sys.argv[2]).get_tensor("trainer/step/.ATTRIBUTES/VARIABLE_VALUE") == 120
assert tf.saved_model.load("gs://bucket/exported").signatures["serving_default"]
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1] + "/train", size_guidance={"tensors": 0})
events.Reload()
steps = [event.step for event in events.Tensors("total_loss")]
assert steps == sorted(set(steps)) and steps[-1] == 120, steps
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with gcs.Store(tmp_path_factory.mktemp("store")) as store:
        store.environment.pop("GOOGLE_APPLICATION_CREDENTIALS")
        yield store


def start(module: str, *flags: str, store) -> subprocess.Popen:
    return subprocess.Popen(runs.command(module, *flags), cwd=runs.ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=runs.environment(**store.environment))


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"{process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    return out, err


def published(store) -> list[int]:
    return sorted(int(name[-13:-5]) for name in store.names("runs/digits/checkpoints/") if name.endswith(".json"))


@pytest.mark.slow
def test_a_run_at_gs_is_the_run_of_a_folder(store, tmp_path):
    """Killed in mid-run and started again beside an evaluator: the same lines, summaries and checkpoint, bit for bit; every
    checkpoint evaluated once. Then its newest checkpoint is cut short: the run goes on from the one before. Mutations: lines
    that wait are not written before the checkpoint; a start does not drop them; data after the manifest."""
    here = runs.train(tmp_path / "local", *FLAGS)
    trainer = start("trainer.main", f"--model_dir={RUN}", *FLAGS, store=store)
    runs.wait_for(lambda: 40 in published(store), trainer)
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    assert 0 < max(published(store)) < STEPS and "runs/digits/train/.lock" in store.names()

    evaluator = start("trainer.evaluator", f"--model_dir={RUN}", "--poll_secs=0.5", store=store)
    out, _ = finish(start("trainer.main", f"--model_dir={RUN}", *FLAGS, store=store))
    assert f"resumed from {RUN}/checkpoints/ckpt-" in out
    out, _ = finish(evaluator)
    there = runs.Outcome(0, "", "", store.get_folder("runs/digits", tmp_path / "remote"))
    assert runs.told(there) == runs.told(here)
    tensors, expected = there.tensors(STEPS), here.tensors(STEPS)
    assert tensors.keys() == expected.keys()
    assert all(tensors[name].tobytes() == expected[name].tobytes() for name in expected)
    settled = [line["step"] for line in runs.read_lines(there.model_dir / "eval/test/metrics.jsonl") if line["weights"] == "raw"]
    assert settled == sorted(set(settled)) and set(published(store)) <= set(settled) and settled[-1] == STEPS
    assert not [name for name in store.names() if name.endswith((".lock", ".write", ".tail"))]  # all are given back

    name = f"runs/digits/checkpoints/ckpt-{STEPS:08d}.data-00000-of-00001"
    store.write(name, store.read(name)[:-100])
    out, err = finish(start("trainer.main", f"--model_dir={RUN}", *FLAGS, store=store))
    assert f"checkpoint {STEPS} is damaged: ckpt-{STEPS:08d}.data-00000-of-00001 has" in err and "it is set aside" in err
    assert f"resumed from {RUN}/checkpoints/ckpt-{STEPS - 20:08d}" in out and f"{name}.damaged" in store.names()
    again = runs.Outcome(0, "", "", store.get_folder("runs/digits", tmp_path / "again"))
    assert all(value.tobytes() == expected[name].tobytes() for name, value in again.tensors(STEPS).items())
    assert runs.told(again)[0] == runs.told(here)[0]

    np.save(tmp_path / "digit.npy", np.arange(64, dtype=np.float32).reshape(8, 8) % 17)
    exporter = start("trainer.export", f"--model_dir={RUN}", "--output=gs://bucket/exported", "--step=latest", store=store)
    store.write("digit.npy", (tmp_path / "digit.npy").read_bytes())
    out, err = finish(start("trainer.predict", f"--model_dir={RUN}", "--step=latest", "gs://bucket/digit.npy",
                            "gs://bucket/none.npy", store=store), code=2)
    assert "predict: 'gs://bucket/none.npy': " in err
    local = subprocess.run(runs.command("trainer.predict", f"--model_dir={here.model_dir}", str(tmp_path / "digit.npy")),
                           cwd=runs.ROOT, capture_output=True, text=True, check=True)
    assert json.loads(out) == {**json.loads(local.stdout), "file": "gs://bucket/digit.npy"}
    finish(exporter)
    finish(subprocess.Popen([sys.executable, "-c", READ_BY_TENSORFLOW, RUN, f"{RUN}/checkpoints/ckpt-{STEPS:08d}"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=runs.environment(**store.environment)))
    import tensorflow as tf
    serve = tf.saved_model.load(str(store.get_folder("exported", tmp_path / "exported"))).signatures["serving_default"]
    answer = serve(images=tf.constant(np.load(tmp_path / "digit.npy")[None, ..., None]))["probabilities"].numpy()[0]
    assert abs(answer.max() - json.loads(out)["probability"]) < 1e-6


@pytest.mark.slow
def test_data_and_first_weights_from_gs(store, tmp_path):
    """An image folder at gs://, an init_from of another run there, and one line where something is missing."""
    import shard_files
    shard_files.photos(tmp_path / "photos", each=30)
    store.put_folder(tmp_path / "photos", "data/photos")
    flags = ("--recipe=flowers_cnn", "--dataset=image_folder", "--image_size=16", "--global_batch_size=8", "--deterministic",
             "--precision=float32", "--train_steps=4", "--log_steps=1", "--summary_steps=2", "--histogram_steps=0", "--classes=2")
    here = runs.train(tmp_path / "local", *flags, f"--data_dir={tmp_path / 'photos'}")
    done = runs.train(tmp_path / "remote", *flags, "--data_dir=gs://bucket/data/photos", env=store.environment)
    assert runs.told(done) == runs.told(here)
    store.put_folder(here.model_dir, "runs/first")
    warm = runs.train(tmp_path / "warm", *flags, "--data_dir=gs://bucket/data/photos", "--init_from=gs://bucket/runs/first",
                      env=store.environment)
    assert "warm start: " in warm.out and "gs://bucket/runs/first at step 4" in warm.out


@pytest.mark.parametrize("module, flags, words", [
    ("trainer.main", ("--model_dir=gs://none/run",), "trainer: --model_dir=gs://none/run cannot be written: there is no bucket none"),
    ("trainer.main", ("--recipe=cifar10_cnn", "--data_dir=gs://none/d"), "trainer: --data_dir=gs://none/d: gs://none/d: there is no"),
    ("trainer.predict", ("--model_dir=gs://bucket/empty", "x.png"), "predict: --model_dir=gs://bucket/empty has no config.json")])
def test_what_is_missing_is_said_in_one_line(module, flags, words, store, tmp_path):
    """Before TensorFlow is imported, and nothing is left in the bucket."""
    before = store.names()
    done = subprocess.run(runs.command(module, *flags), cwd=tmp_path, capture_output=True, text=True,
                          env=runs.environment(**store.environment, PYTHONPATH=str(runs.ROOT)))
    assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1, done.stderr
    assert store.names() == before and os.listdir(tmp_path) == []
