"""Image files: decoded as another program decodes them, in bounded memory, and refused in words.

The other program is Pillow, which comes along with TensorBoard.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline import images

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
PICTURE = np.stack([COLUMNS * 4, ROWS * 5, (ROWS + COLUMNS) * 2], -1).astype(np.uint8)
RGB = Image.fromarray(PICTURE)
GREY_16 = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 256 + 77)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


FILES = {
    "jpeg": encoded(RGB, "JPEG", quality=95), "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"), "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "png": encoded(RGB, "PNG"), "png grey": encoded(RGB.convert("L"), "PNG"), "png 16 bits": encoded(GREY_16, "PNG"),
    "png alpha": encoded(RGB.convert("RGBA"), "PNG"), "png grey alpha": encoded(RGB.convert("LA"), "PNG"),
    "png palette": encoded(RGB.quantize(50), "PNG"), "png bits": encoded(RGB.convert("1"), "PNG"),
    "gif": encoded(RGB, "GIF"), "gif frames": encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)] * 3),
    "bmp": encoded(RGB, "BMP"), "bmp grey": encoded(RGB.convert("L"), "BMP")}
FINE = {"jpeg": {"quality": 98, "subsampling": 0}}
SQUARE = (slice(None), slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2))


def as_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def square(data: bytes, size: int) -> np.ndarray:
    """As the input pipeline calls it: in a graph, in threads."""
    dataset = tf.data.Dataset.from_tensors(tf.constant(data)).map(
        lambda data: images.decode_square(data, size), num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec([size, size, 3], tf.uint8)
    return next(iter(dataset)).numpy()


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_decoded_as_pillow_does(name):
    """Mutations: TensorFlow's fast DCT; a GIF's last frame."""
    assert np.array_equal(images.decode_any(FILES[name], channels=3), as_pillow(FILES[name]))


@pytest.mark.parametrize("name", FILES)
def test_the_square_is_the_middle_of_the_image(name):
    """At its own size nothing is changed, but for colours at the edge of a JPEG's square. Mutation: top left."""
    wrong = abs(square(FILES[name], HEIGHT).astype(int) - as_pillow(FILES[name])[SQUARE].astype(int))
    assert wrong[:, 1:-1].max() == 0 and wrong.max() <= (4 if name.startswith("jpeg") else 0)


@pytest.mark.parametrize("name", ["jpeg", "png"])
@pytest.mark.parametrize("shape", [(100, 160), (160, 100), (640, 1000), (501, 333), (33, 57), (800, 801)])
def test_other_sizes_are_resized(name, shape):
    """Also where the JPEG is decoded at a half, a quarter or an eighth: a smooth picture stays what it is.

    Mutations: a window that is not scaled; a window at the left; corners aligned instead of half pixels.
    """
    size = 40
    rows, columns = np.mgrid[0:shape[0], 0:shape[1]]
    short = min(shape)
    # Red and green say where in the central square a pixel is.
    place = [(axis - (length - short) / 2 + 0.5) / short for axis, length in ((rows, shape[0]), (columns, shape[1]))]
    picture = np.stack([40 + 170 * place[0], 40 + 170 * place[1], 0 * rows + 90], -1).clip(0, 255).round()
    data = encoded(Image.fromarray(picture.astype(np.uint8)), name.upper(), **FINE.get(name, {}))
    expected = 40 + 170 * (np.arange(size) + 0.5) / size
    found = square(data, size).astype(float)
    inner = slice(2, -2)
    for wrong in (found[inner, :, 0] - expected[inner, None], found[:, inner, 1] - expected[None, inner],
                  found[..., 2] - 90):
        # A pixel is 4.25. Of a JPEG the square begins at a whole pixel of the smaller image.
        assert abs(wrong).max() < 5 and abs(wrong.mean()) < (2.5 if name == "jpeg" else 0.6)


@pytest.mark.parametrize("name", ["jpeg", "png", "bmp"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_averages(name, factor):
    """Fine stripes become grey, not stripes. Mutation: bilinear weights alone."""
    stripes = np.zeros((24 * factor, 24 * factor, 3), np.uint8)
    stripes[:, ::2] = 255
    found = square(encoded(Image.fromarray(stripes), name.upper(), **FINE.get(name, {})), 24).astype(int)
    assert found.std() < 12 and abs(found.mean() - 127.5) < 12


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file of that size, with a valid checksum and hardly any content."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b""))


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(FILES["jpeg"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5:frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    data = bytearray(FILES["gif"])
    frame = data.index(b",", 13 + 768)
    data[6:10] = data[frame + 5:frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    return FILES["bmp"][:18] + struct.pack("<ii", width, height) + FILES["bmp"][26:]


@pytest.mark.parametrize("make", [png_header, jpeg_header, gif_header, bmp_header])
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(make):
    """Mutation: leave out the look at the size."""
    data = make(60_000, 60_000)
    with pytest.raises(images.Unreadable, match="has 60000 x 60000 pixels, at most 50000000"):
        images.check_square(data, 32)
    with pytest.raises(images.Unreadable, match="has 60000 x 60000 pixels, at most 50000000"):
        images.decode_any(data)
    with pytest.raises(tf.errors.InvalidArgumentError):
        square(data, 32)


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"\xff\xd8", "is none of PNG, JPEG, BMP, GIF"), (b"hello", "is none of"),
    (encoded(RGB, "WEBP"), "is none of"), (FILES["png"][:5], "is none of"),
    (FILES["png"][:20], "is a PNG file that ends too early"), (FILES["png"][:30], "is a damaged PNG file"),
    (FILES["png"][:-40], "is a damaged PNG file: Invalid PNG data"),
    (FILES["jpeg"][:20], "is a damaged JPEG file: Invalid JPEG data"),
    (FILES["jpeg"][:len(FILES["jpeg"]) // 2], "is a damaged JPEG file: Invalid JPEG data"),
    (FILES["gif"][:40], "is a GIF file that ends too early"), (FILES["gif"][:13] + b";", "is a GIF file"),
    (FILES["bmp"][:20], "is a BMP file that ends too early"), (FILES["bmp"][:-9], "is a damaged BMP file"),
    (encoded(RGB.convert("1"), "BMP"), "is a BMP file of 1 bits a pixel, 8, 24 and 32 are read; make it PNG"),
    (encoded(RGB.quantize(50), "BMP"), "is a BMP file with a palette, which is not read; make it PNG"),
])
def test_what_cannot_be_decoded_is_said_in_words(data, words):
    """And raises in a graph what `next` of the pipeline raises then, whose text must be UTF-8."""
    with pytest.raises(images.Unreadable, match=words) as error:
        images.check_square(data, 32)
    assert "\n" not in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError):
        square(data, 32)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["jpeg", "png", "gif", "bmp", "bmp grey"]), cut=st.integers(0, 400),
       flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_damage_gives_an_image_or_words(name, cut, flips):
    data = bytearray(FILES[name][:len(FILES[name]) - cut if cut < 50 else None])
    for place, mask in flips:
        data[place % min(len(data), 700)] ^= mask
    try:
        images.check_square(bytes(data), 16)
    except images.Unreadable as error:
        assert str(error) and "\n" not in str(error)


def test_what_is_checked_is_what_is_decoded():
    for name, data in FILES.items():
        images.check_square(data, 16)
