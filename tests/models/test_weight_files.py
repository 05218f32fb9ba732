"""Files of strangers: nothing in them is run, nothing outside them is read, and no array is read that does
not fit.

Each file here once had what it takes to do harm; what comes back is one line.
"""

import io
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest

from models import pretrained, weight_files


def network():
    images = keras.Input((4,))
    x = keras.layers.Dense(3, name="body")(images)
    return keras.Model(images, keras.layers.Dense(2, name="logits")(x))


def refused(path, match):
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match=match) as raised:
        pretrained.load(model, str(path))
    assert str(path) in str(raised.value)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def keras3(path, write):
    """A file for `network` in which `write(group)` puts the kernel of `body`, vars/0."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "body"
        write(group)
        group["1"] = np.zeros(3, np.float32)
    return path


def test_a_good_file_is_read(tmp_path):
    path = keras3(tmp_path / "w.weights.h5", lambda group: group.create_dataset("0", data=np.ones((4, 3))))
    model = network()
    assert pretrained.load(model, str(path)).variables == 2
    np.testing.assert_array_equal(model.get_layer("body").kernel, np.ones((4, 3)))


def test_compressed_arrays_are_read(tmp_path):
    path = keras3(tmp_path / "w.weights.h5", lambda group: group.create_dataset(
        "0", data=np.ones((4, 3), np.float16), compression="gzip", shuffle=True, fletcher32=True))
    assert pretrained.load(network(), str(path)).variables == 2


def external(group):
    secret = group.file.filename + ".secret"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((4, 3), np.float32)
    group["0"] = h5py.ExternalLink(secret, "/x")


def soft(group):
    group.file["x"] = np.ones((4, 3), np.float32)
    group["0"] = h5py.SoftLink("/x")


def virtual(group):
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(group.file.filename + ".other", "x", shape=(4, 3))
    group.create_virtual_dataset("0", layout)


def outside(group):
    with open(group.file.filename + ".raw", "wb") as raw:
        raw.write(np.ones((4, 3), np.float32).tobytes())
    group.create_dataset("0", (4, 3), "f4", external=[(group.file.filename + ".raw", 0, 48)])


def references(group):
    group.create_dataset("0", (4, 3), h5py.ref_dtype)


def objects(group):
    group.create_dataset("0", (4, 3), h5py.string_dtype())


def a_group(group):
    group.create_group("0")


def plugin(group):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((4, 3))
    creation.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1,))  # Blosc, which HDF5 would load from a folder
    h5py.h5d.create(group.id, b"0", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4, 3)), creation)


def large_chunk(group):
    group.create_dataset("0", (4, 3), "f4", maxshape=(None, None), chunks=(2**13, 2**12))


@pytest.mark.parametrize("write, match", [
    (external, "link"), (soft, "link"), (virtual, "another file"), (outside, "another file"), (references, "numbers"),
    (objects, "numbers"), (a_group, "array"), (plugin, "compressed"), (large_chunk, "compressed")])
def test_what_is_no_plain_array_of_numbers_is_refused(write, match, tmp_path):
    refused(keras3(tmp_path / "w.weights.h5", write), match)


def test_a_huge_array_is_refused_by_its_shape_before_it_is_read(tmp_path):
    path = keras3(tmp_path / "w.weights.h5", lambda group: group.create_dataset(
        "0", (2**20, 2**12), "f4", chunks=(2**10, 2**10), compression="gzip"))
    tracemalloc.start()
    try:
        refused(path, "1048576x4096")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_groups_inside_themselves_end(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        file["again"] = file["/"]
    refused(path, "deep")


def test_missing_arrays_are_named(tmp_path):
    path = keras3(tmp_path / "w.weights.h5", lambda group: None)
    refused(path, "'layers/dense/vars/0' is missing")


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".npy", content)
    return path


def array(value, **options):
    content = io.BytesIO()
    np.save(content, value, **options)
    return content.getvalue()


KERNEL, BIAS = array(np.ones((4, 3), np.float32)), array(np.ones(3, np.float32))


def test_a_good_archive_is_read(tmp_path):
    assert pretrained.load(network(), str(npz(tmp_path / "w.npz", body__kernel=KERNEL, body__bias=BIAS))).variables == 2


def test_pickles_are_refused_unread(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    content = array(np.array([[Harm()] * 3] * 4), allow_pickle=True)
    refused(npz(tmp_path / "w.npz", body__kernel=content, body__bias=BIAS), "must hold numbers")
    assert not (tmp_path / "harm").exists()


def test_a_header_that_claims_more_than_there_is_costs_no_memory(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**14)})
    tracemalloc.start()
    try:
        refused(npz(tmp_path / "w.npz", body__kernel=content.getvalue(), body__bias=BIAS), "must hold numbers")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_an_archive_cut_short_is_refused(tmp_path):
    path = npz(tmp_path / "w.npz", body__kernel=KERNEL[:-8], body__bias=BIAS)
    refused(path, "expected 48 bytes got 40")
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, "cannot be read as weights")


@pytest.mark.parametrize("name, wanted", [
    ("Conv2D", "conv2d"), ("BatchNormalization", "batch_normalization"), ("DepthwiseConv2D", "depthwise_conv2d"),
    ("ReLU", "re_lu"), ("LayerScale", "layer_scale"), ("Dense", "dense")])
def test_names_of_classes_are_written_as_keras_does(name, wanted):
    assert weight_files._snake(name) == wanted
