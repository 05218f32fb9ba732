"""First weights from a file, and layers that learn later: held against the checkpoints of real runs.

Mutations that turned tests here red: the body learns from the first step; batch statistics move while frozen; the moving
averages start from the random weights; weight decay moves frozen kernels.
"""
import dataclasses
import os
import types

import numpy as np
import pytest
import runs

from models import registry
from trainer import main, recipes, transfer
from trainer.config import UserError

FLAGS = ("--model=digits_cnn_regularized", "--global_batch_size=32", "--log_steps=2", "--checkpoint_steps=2", "--freeze",
         "--weight_decay=0.01", "--summary_steps=0", "--histogram_steps=0", "--lr_schedule=constant")
HEAD, STATISTICS = "logits", "norm"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Weights of the digits network that no fresh start would have."""
    model = registry.build("digits_cnn_regularized", input_shape=(8, 8, 1), classes=10)
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("weights") / "digits.npz"
    np.savez(path, **{v.path: 0.5 + 0.05 * random.standard_normal(v.shape).astype(np.float32) for v in model.variables
                      if HEAD not in v.path})
    return str(path)


def parts(tensors: dict) -> dict[str, dict]:
    """The network's tensors: of the head, of batch normalisation, of the layers between."""
    found = {"head": {}, "statistics": {}, "body": {}}
    for name, value in tensors.items():
        if name.startswith(("model/", "ema/")):
            part = "head" if HEAD in name else "statistics" if STATISTICS in name else "body"
            found[part][name] = value
    return found


def same(one: dict, other: dict) -> list[bool]:
    return [np.array_equal(one[name], other[name]) for name in one]


def test_the_head_alone_and_then_all_but_the_batch_statistics(tmp_path, weights):
    run = runs.train(tmp_path, *FLAGS, f"--pretrained_weights={weights}", "--train_steps=6", "--unfreeze_steps=4",
                     "--num_gpus=2", "--emulate")
    assert f"weights of {weights}: 17 variables of 7 layers" in run.out, run.out
    two, four, six = (parts(run.tensors(step)) for step in (2, 4, 6))
    given = np.load(weights)
    model = {name.removeprefix("model/").replace(".S", "/"): value for name, value in two["body"].items()
             if name.startswith("model/")}
    assert model and all(np.array_equal(value, given[name]) for name, value in model.items())
    averages = {name: value for name, value in two["body"].items() if name.startswith("ema/")}
    assert averages and all(np.allclose(value, given[name.removeprefix("ema/").replace(".S", "/")], atol=1e-6)
                            for name, value in averages.items())
    assert not any(same(two["head"], four["head"]))
    assert all(same(two["body"], four["body"])) and all(same(two["statistics"], four["statistics"]))
    assert not any(same(four["body"], six["body"])) and all(same(four["statistics"], six["statistics"]))


def test_what_never_learns_has_neither_slots_nor_averages(tmp_path, weights):
    run = runs.train(tmp_path, *FLAGS, f"--pretrained_weights={weights}", "--train_steps=2")
    assert {name for name in run.tensors(2) if name.startswith("ema/")} == {"ema/logits.Skernel", "ema/logits.Sbias"}
    assert runs.evaluate(tmp_path, "--run_once").code == 0


def config(**changes):
    return dataclasses.replace(recipes.flowers_transfer(), **changes)


def test_keras_weights_are_found_by_name(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("mobilenet_1_0_224_tf_no_top.h5", "mobilenet_v2_1.0_224_no_top.weights.h5", "notes.txt",
                 "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5", "efficientnetv2-b0_notop.h5",
                 "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "NASNet-mobile-no-top.h5",
                 "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"):
        (tmp_path / "weights" / name).touch()
    for changes, found in (({}, "mobilenet_v2_1.0_224_no_top.weights.h5"),
                           ({"top": "own"}, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"),
                           ({"model": "applications/ResNet50"}, "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"),
                           ({"model": "applications/EfficientNetV2B0"}, "efficientnetv2-b0_notop.h5"),
                           ({"model": "applications/MobileNetV3Small"}, "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"),
                           ({"model": "applications/NASNetMobile"}, "NASNet-mobile-no-top.h5"),
                           ({"model": "applications/EfficientNetB0"}, None), ({"model": "applications/MobileNetV3Large"}, None),
                           ({"model": "applications/ResNet50V2"}, None), ({"model": "applications/VGG16"}, None)):
        path = transfer.find(config(data_dir=str(tmp_path), **changes))
        assert path == (found and str(tmp_path / "weights" / found))


@pytest.mark.parametrize("changes, says", [
    ({"pretrained_weights": "no.h5"}, "--pretrained_weights=no.h5 must be a file"),
    ({"pretrained_weights": __file__}, "must end in .h5 or .npz"),
    ({"data_dir": "/none"}, "/none/weights has no file of applications/MobileNetV2's weights; give --download"),
    ({"model": "resnet18"}, "ImageNet weights are for a network of applications/")])
def test_weights_that_cannot_be_had_are_an_error(changes, says):
    with pytest.raises(UserError, match=says):
        transfer.check(config(**changes))


def test_weights_of_another_network_are_an_error_and_nothing_is_trained(tmp_path, weights):
    run = runs.train(tmp_path / "m", "--model=digits_cnn", f"--pretrained_weights={weights}", code=2)
    assert run.err.startswith("trainer: --pretrained_weights=") and "are they of this network" in run.err
    assert len(run.err.splitlines()) == 1


@pytest.fixture
def keras_server(tmp_path, monkeypatch):
    """Keras's download as the child meets it: half of a file, then what `then` says. Returns a function that sets it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, pathlib, urllib.request\n"
        "def urlretrieve(url, name, hook=None):\n"
        "    file = pathlib.Path(name)\n"
        "    file.write_bytes(b'half')\n"
        "    if os.environ['THEN'] == 'killed': os.kill(os.getpid(), 9)\n"
        "    if os.environ['THEN'] == 'away': raise OSError('the server is away')\n"
        "    file.write_bytes(b'half and half')\n"
        "urllib.request.urlretrieve = urlretrieve\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{runs.ROOT}")
    monkeypatch.chdir(runs.ROOT)
    return lambda then: monkeypatch.setenv("THEN", then)


def test_a_download_is_whole_or_absent(tmp_path, keras_server):
    """Keras itself takes what a kill left for the file. Mutation: it downloads to where the file is looked for."""
    wanted = config(data_dir=str(tmp_path), download=True, dataset="synthetic", augment="", model_dir=str(tmp_path / "run"))
    run = types.SimpleNamespace(config=wanted, info=types.SimpleNamespace(input_shape=(96, 96, 3)))
    for then, says in (("killed", "ended by signal 9"), ("away", "the server is away")):
        keras_server(then)
        with pytest.raises(UserError, match=f"--download: the weights of --model=applications/MobileNetV2: .*{says}"):
            main.get_data(run)
        assert transfer.find(wanted) is None
    keras_server("whole")
    main.get_data(run)
    found = tmp_path / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"
    assert transfer.find(wanted) == str(found) and found.read_bytes() == b"half and half"
    keras_server("away")
    main.get_data(run)  # it is there
