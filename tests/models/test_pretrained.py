"""Weights from files give the outputs of the network that they were made for; what does not fit is refused
whole.

Mutations that turn these red: layers matched by shape alone; variables assigned before all were checked;
statistics that move while frozen.
"""

import os
import pathlib

import h5py
import keras
import numpy as np
import pytest

from models import layers, pretrained, registry

NAME, SHAPE = "applications/MobileNetV2", (64, 64, 3)
FILE = "mobilenet_v2_1.0_224_no_top.weights.h5"


def build(classes=5, name=NAME, shape=SHAPE, **options):
    return registry.build(name, input_shape=shape, classes=classes, **options)


def small(classes=5):
    return build(classes, "densenet40", (16, 16, 3), blocks=(1, 1))


def shaken(model, seed=1):
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def images(shape, rows=2):
    return np.random.default_rng(0).uniform(-1, 1, (rows, *shape)).astype(np.float32)


def body(model):
    """The network below its head."""
    return keras.Model(model.input, pretrained.head(model).input)


def write(model, path):
    if path.suffix == ".npz":
        np.savez(path, **{v.path: v.numpy() for v in model.variables})
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        write_legacy(model, path)
    return str(path)


def write_legacy(model, path, root=""):
    """As earlier Kerases did: names in attributes, cut into parts where they are many."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        names = [f"layer_{k}".encode() for k in range(len(model.layers))]
        if root:
            group.attrs["layer_names"] = names
        else:
            file.attrs["layer_names"] = names
        for name, layer in zip(names, model.layers, strict=True):
            inner = group.create_group(name.decode())
            weights = [f"{name.decode()}/{v.name}:0".encode() for v in layer.weights]
            if len(weights) > 1:
                inner.attrs["weight_names0"], inner.attrs["weight_names1"] = weights[:1], weights[1:]
            else:
                inner.attrs["weight_names"] = weights
            for key, variable in zip(weights, layer.weights, strict=True):
                inner[key.decode()] = variable.numpy()
    return str(path)


@pytest.fixture(scope="session")
def real_weights(tmp_path_factory):
    """The real MobileNetV2 weights of ImageNet; skips where there are none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data"
    place = pathlib.Path(os.environ.get("LOCKSTEP_TEST_DATA") or beside)
    for path in (place / "weights" / FILE, place / FILE):
        if path.is_file():
            return str(path)
    pytest.skip(f"needs {FILE} in the folder LOCKSTEP_TEST_DATA ({place} has none)")


@pytest.mark.slow
def test_real_weights_give_the_outputs_of_kerass_network(real_weights):
    shape = (224, 224, 3)
    model = build(shape=shape)
    loaded = pretrained.load(model, real_weights)
    assert (loaded.variables, loaded.layers, loaded.head, loaded.ignored) == (260, 104, False, ())
    theirs = keras.applications.MobileNetV2(include_top=False, weights=real_weights, pooling="avg", input_shape=shape)
    wanted = np.asarray(theirs(images(shape)))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(body(model)(images(shape)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["weights.weights.h5", "weights.h5", "weights.npz"])
def test_every_kind_of_file_gives_the_network_back(name, tmp_path):
    source = shaken(small())
    path = write(source, tmp_path / name)
    target = small()
    loaded = pretrained.load(target, path)
    assert loaded.head and loaded.variables == len(source.variables) and not loaded.ignored
    for one, other in zip(target.variables, source.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.parametrize("name", ["weights.weights.h5", "weights.h5", "weights.npz"])
def test_a_head_for_other_classes_keeps_its_first_weights(name, tmp_path):
    source, target = shaken(small(classes=7)), small(classes=5)
    before = [v.numpy() for v in pretrained.head(target).weights]
    loaded = pretrained.load(target, write(source, tmp_path / name))
    assert not loaded.head and len(loaded.ignored) == 1 and "keeps its first weights" in str(loaded)
    for value, variable in zip(before, pretrained.head(target).weights, strict=True):
        np.testing.assert_array_equal(value, variable)
    np.testing.assert_allclose(body(target)(images((16, 16, 3))), body(source)(images((16, 16, 3))), rtol=1e-6)


def test_legacy_files_may_lie_in_model_weights(tmp_path):
    source, target = shaken(small()), small()
    pretrained.load(target, write_legacy(source, tmp_path / "w.h5", root="model_weights"))
    np.testing.assert_array_equal(target.variables[0], source.variables[0])


def test_keras3_layers_without_their_names_are_found_by_class_and_place(tmp_path):
    """The head, too. Mutation: it keeps its first weights."""
    source, target = shaken(small()), small()
    path = tmp_path / "w.weights.h5"
    source.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    pretrained.load(target, str(path))
    for one, other in zip(target.variables, source.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.parametrize("name", ["weights.weights.h5", "weights.h5", "weights.npz"])
def test_weights_of_another_network_change_nothing(name, tmp_path):
    """Neither with other shapes nor with layers too few."""
    other = registry.build("densenet40", input_shape=(16, 16, 3), classes=5, blocks=(1, 1, 1))
    for source, target in ((small(), other), (registry.build("lenet5", input_shape=(16, 16, 3), classes=5), small())):
        path, before = write(shaken(source), tmp_path / name), [v.numpy() for v in target.variables]
        with pytest.raises(ValueError, match="(has no weights for layer|has weights of shapes)") as raised:
            pretrained.load(target, path)
        assert path in str(raised.value) and "\n" not in str(raised.value)
        for value, variable in zip(before, target.variables, strict=True):
            np.testing.assert_array_equal(value, variable)


def test_values_that_are_not_finite_change_nothing(tmp_path):
    source, target = shaken(small()), small()
    source.variables[-3].assign(np.full(source.variables[-3].shape, np.nan))
    before = target.variables[0].numpy()
    for name in ("w.npz", "w.weights.h5"):
        with pytest.raises(ValueError, match="not finite"):
            pretrained.load(target, write(source, tmp_path / name))
    np.testing.assert_array_equal(before, target.variables[0])


def test_no_such_file_and_no_such_format(tmp_path):
    (tmp_path / "text.h5").write_text("no weights")
    (tmp_path / "text.npz").write_text("no weights")
    for name in ("none.h5", "none.npz", "text.h5", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read as weights"):
            pretrained.load(small(), str(tmp_path / name))


def step(model, inputs):
    with layers.replica_step(seed=1, step=0, first_row=0) as context:
        outputs = model(inputs, training=True)
    return outputs, context.updates


def test_frozen_only_the_head_learns_and_statistics_stay():
    model, inputs = shaken(small()), images((16, 16, 3), rows=4)
    assert len(step(model, inputs)[1]) > 0
    pretrained.freeze(model)
    assert model.trainable_variables == pretrained.head(model).weights
    outputs, updates = step(model, inputs)
    assert updates == []
    np.testing.assert_allclose(outputs, model(inputs, training=False), rtol=1e-6)
    assert {v.path for v in registry.decayed_kernels("densenet40", model)} == {"logits/kernel"}


def test_unfrozen_all_but_batch_normalisation_learns():
    model = shaken(small())
    pretrained.freeze(model)
    pretrained.unfreeze(model)
    found = {v.path for v in model.trainable_variables}
    others = [layer for layer in model.layers if not isinstance(layer, layers.BatchNormalization)]
    wanted = {v.path for layer in others for v in layer.weights}
    assert found == wanted and len(wanted) > 2
    assert step(model, images((16, 16, 3)))[1] == []
