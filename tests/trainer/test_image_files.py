"""Image files of strangers: every format gives its values, nothing in them is run, memory is bounded."""
import io
import pathlib
import pickle
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import images
from trainer import image_files

RGB = np.random.default_rng(0).integers(0, 256, [6, 5, 3], dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, [6, 5, 1], dtype=np.uint8)
# Two frames of one pixel, the first of the first colour; after an extension, as animations have one.
GIF = (b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([10, 20, 30, 40, 50, 60])
       + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
       + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
       + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00" + b";")


def png(image: np.ndarray) -> bytes:
    return tf.io.encode_png(image).numpy()


def bmp(image: np.ndarray) -> bytes:
    """24 bits a pixel, rows from the bottom, each filled up to four bytes."""
    height, width, _ = image.shape
    rows = b"".join(row[:, ::-1].tobytes() + b"\0" * (-3 * width % 4) for row in image[::-1])
    header = struct.pack("<iiHHIIiiII", width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + struct.pack("<I", 40) + header + rows


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def read(tmp_path: pathlib.Path, data: bytes, shape=(6, 5, 3)):
    """(image, note) of a file that holds `data`; its name says nothing."""
    path = tmp_path / "file"
    path.write_bytes(data)
    image, note = image_files.read(str(path), shape)
    assert image.shape == shape and image.dtype == np.float32
    return image, note


@pytest.mark.parametrize("data, expected", [
    (png(RGB), RGB), (bmp(RGB), RGB),
    (tf.io.encode_jpeg(RGB, quality=100).numpy(), None),
    (png(np.concatenate([RGB, GREY], axis=2)), RGB),  # transparency is dropped
    (png(np.concatenate([GREY, GREY // 2], axis=2)), np.repeat(GREY, 3, axis=2)),
    (png(GREY), np.repeat(GREY, 3, axis=2)),
    (npy(RGB), RGB), (npy(RGB.astype(">f8")), RGB), (npy(RGB.astype(np.int16) - 300), RGB.astype(int) - 300),
    (npy(GREY[..., 0] > 100), np.repeat(GREY > 100, 3, axis=2)),
    (npy(np.asfortranarray(RGB.astype(np.float16) / 256)), RGB / 256),
], ids=["png", "bmp", "jpeg", "png-rgba", "png-grey-alpha", "png-grey", "npy", "npy-f8", "npy-i2", "npy-bool",
        "npy-f2"])
def test_every_format_gives_its_own_values(tmp_path, data, expected):
    image, note = read(tmp_path, data)
    if expected is None:
        expected = tf.io.decode_jpeg(data, dct_method=images.DCT).numpy()
    np.testing.assert_array_equal(image, expected.astype(np.float32))
    assert note == ""


def test_colour_becomes_grey_by_its_luma(tmp_path):
    image, _ = read(tmp_path, png(RGB), (6, 5, 1))
    np.testing.assert_allclose(image, tf.image.rgb_to_grayscale(RGB.astype(np.float32)).numpy(), atol=0.05)


def test_of_a_gif_only_the_first_frame_is_decoded(tmp_path):
    image, _ = read(tmp_path, GIF, (1, 1, 3))
    assert image.ravel().tolist() == [10, 20, 30]
    data, height, width = images._first_frame(GIF)
    assert (height, width) == (1, 1) and data.count(b"\x02\x02") == 1 and data.endswith(b"\x00;")


def test_another_size_is_resized_with_antialiasing_and_said(tmp_path):
    image, note = read(tmp_path, png(RGB), (3, 2, 3))
    expected = tf.image.resize(RGB, [3, 2], method="bilinear", antialias=True)
    np.testing.assert_array_equal(image, expected.numpy())
    assert note == "6x5 was resized to 3x2"


SMOOTH = np.stack(np.broadcast_arrays(np.arange(60)[:, None] * 4, np.arange(80) * 3, 90), -1).astype(np.uint8)


@pytest.mark.parametrize("side", [60, 40, 12])
@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "npy"])
def test_a_photo_is_read_as_training_reads_it(tmp_path, kind, side):
    """The middle square and the same way to a smaller size. Mutation: the whole photo is squeezed into a square."""
    data = tf.io.encode_jpeg(SMOOTH, quality=95).numpy() if kind == "jpeg" else \
        {"png": png, "bmp": bmp, "npy": npy}[kind](SMOOTH)
    image, note = read(tmp_path, data, (side, side, 3))
    expected = images.decode_square(png(SMOOTH) if kind == "npy" else data, side)
    np.testing.assert_allclose(image, expected, rtol=0, atol=3 if kind == "npy" else 0)
    assert note == f"the middle square of 60x80 was resized to {side}x{side}"
    grey, _ = read(tmp_path, data, (side, side, 1))
    np.testing.assert_allclose(grey, tf.image.rgb_to_grayscale(tf.cast(image, tf.float32)), atol=0.1)


def test_four_inks_become_three_colours(tmp_path):
    file = io.BytesIO()
    Image.fromarray(SMOOTH).convert("CMYK").save(file, "JPEG", quality=95)
    for shape, inks in ((60, 80, 3), SMOOTH), ((60, 80, 1), SMOOTH @ [[0.299], [0.587], [0.114]]):
        image, _ = read(tmp_path, file.getvalue(), shape)
        assert np.abs(image - inks).mean() < 5


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    for data in (npy(np.array([Trap(trap)], object)), pickle.dumps(Trap(trap))):
        with pytest.raises(image_files.Unreadable):
            read(tmp_path, data)
    assert not trap.exists()


def oversized(kind: str) -> bytes:
    """A small file whose header promises 60,000 x 60,000 pixels."""
    size = 60_000
    if kind == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
        return png(RGB)[:12] + header + struct.pack(">I", zlib.crc32(header)) + png(RGB)[33:]
    if kind == "bmp":
        data = bytearray(bmp(RGB))
        data[18:26] = struct.pack("<ii", size, -size)
        return bytes(data)
    if kind == "gif":
        place = GIF.index(b",")
        return GIF[:place + 5] + struct.pack("<HH", size, size) + GIF[place + 9:]
    data = bytearray(tf.io.encode_jpeg(RGB).numpy())
    place = data.index(b"\xff\xc0") + 5
    data[place:place + 4] = struct.pack(">HH", size, size)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "jpeg"])
def test_a_header_that_promises_too_much_is_refused_before_decoding(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tf.io, "decode_image", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(image_files.Unreadable, match="has 60000 x -?60000 pixels|has -60000 x 60000 pixels"):
        read(tmp_path, oversized(kind))


@pytest.mark.parametrize("data, why", [
    (b"", "none of PNG"), (b"hello", "none of PNG"),
    (png(RGB)[:40], "damaged PNG"), (png(RGB)[:12], "ends too early"),
    (tf.io.encode_jpeg(RGB).numpy()[:200], "damaged JPEG"),
    (bmp(RGB)[:60], "damaged BMP"), (bmp(RGB)[:20], "ends too early"),
    (GIF[:20], "ends too early"), (GIF[:13 + 6] + b";", "without a frame"),
    (npy(RGB)[:-1], "no npy file"), (npy(RGB)[:9], "no npy file"),
    (npy(RGB).replace(b"(6, 5, 3)", b"(6**99,)"), "no npy file"),
    (npy(np.zeros([6, 5], np.complex64)), "complex64"), (npy(np.array(["a"])), "<U1"),
    (npy(np.zeros([6])), r"\[6\]"), (npy(np.zeros([0, 5])), r"\[0, 5\]"),
    (npy(np.zeros([6, 5, 7])), "7 channels"),
    (npy(np.full([6, 5], np.nan)), "not finite"), (npy(np.full([6, 5], 1e300)), "not finite"),
], ids=lambda value: value if isinstance(value, str) else "data")
def test_what_is_no_image_says_why_in_one_line(tmp_path, data, why):
    with pytest.raises(image_files.Unreadable, match=why) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value) and "{{" not in str(caught.value)


def test_what_is_no_file_of_a_bearable_size_is_found_without_opening_it(tmp_path):
    large = tmp_path / "large.png"
    with open(large, "wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)
    for path, why in {large: "at most", tmp_path: "is a folder", tmp_path / "absent": "No such file",
                      "/dev/zero": "no regular file", "a\0b": "null"}.items():
        with pytest.raises(image_files.Unreadable, match=why):
            image_files.check(str(path))
