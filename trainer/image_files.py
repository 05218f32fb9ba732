"""Reads image files of strangers as a network takes them: bounded in memory, and nothing in them is run.

    image_files.check("cat.png")                            # plain Python: is it there, is it small enough
    image, note = image_files.read("cat.png", (32, 32, 3))  # float32 [32, 32, 3] in the file's own units

What `input_pipeline.images` decodes, and NumPy's .npy, told apart by their first bytes. Both functions raise Unreadable.
"""
import os
import stat

import numpy as np

from input_pipeline import images, storage
from input_pipeline.images import Unreadable

MAX_BYTES = 64 * 2**20  # of a file
NPY = b"\x93NUMPY"


def check(path: str) -> None:
    """Unreadable unless `path`, which may be at gs://, is a file that exists and is not too large."""
    try:
        if storage.is_remote(path):
            mode, size = stat.S_IFREG, storage.status(path).size
        else:
            facts = os.stat(path)
            mode, size = facts.st_mode, facts.st_size
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(mode):
        raise Unreadable("is a folder" if stat.S_ISDIR(mode) else "is no regular file")
    if size > MAX_BYTES:
        raise Unreadable(f"has {size} bytes, at most {MAX_BYTES} are read")


def read(path: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """The image as float32 of `shape` (height, width, channels), and a note if its size was changed, else "".

    Values stay as they are in the file. Grey becomes RGB by repetition, RGB becomes grey by its luma (ITU-R
    BT.601); transparency is dropped. Of another size the middle square is resized, as data sets of photos are read; where
    the network takes no squares the whole, bilinearly, with antialiasing.
    """
    check(path)
    try:
        with storage.local_copy(path) as copy:
            with open(copy, "rb") as file:
                data = file.read(MAX_BYTES)
            if data.startswith(NPY):
                image = _array(copy)
            elif images.kind(data) is None:
                raise Unreadable(f"is none of {', '.join(images.FORMATS.values())}, npy")
            else:
                image = images.decode_any(data, channels=3 if shape[2] == 3 else 0)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    height, width = image.shape[:2]
    if (height, width) == shape[:2]:
        return _numbers(image, shape[2]), ""
    import tensorflow as tf
    note = f"{height}x{width} was resized to {shape[0]}x{shape[1]}"
    if shape[0] != shape[1]:
        return tf.image.resize(_numbers(image, shape[2]), shape[:2], method="bilinear", antialias=True).numpy(), note
    note = "the middle square of " * (height != width) + note
    if not data.startswith(NPY):
        return _numbers(images.decode_square(tf.constant(data), shape[0]).numpy(), shape[2]), note
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = _numbers(image[top:top + side, left:left + side], shape[2])
    return tf.image.resize(square, shape[:2], method="bilinear", antialias=True).numpy(), note


def _array(path: str) -> np.ndarray:
    """[h, w, c] of any number type."""
    try:
        # Mapped, since a header may promise more than the file holds.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Unreadable(f"is no npy file of numbers: {' '.join(str(error).split())}") from None
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or 0 in array.shape:
        raise Unreadable(f"holds {array.dtype} {list(array.shape)}; it must be numbers, [h, w] or "
                         "[h, w, channels]")
    images.check_size(*array.shape[:2])
    return array if array.ndim == 3 else array[..., np.newaxis]


def _numbers(image: np.ndarray, channels: int) -> np.ndarray:
    """As float32 of so many channels. Unreadable where it has others, or a number is not finite."""
    with np.errstate(over="ignore"):  # looked for below
        image = _channels(image, channels).astype(np.float32)
    if not np.isfinite(image).all():
        raise Unreadable("has values that are not finite in float32")
    return image


def _channels(image: np.ndarray, wanted: int) -> np.ndarray:
    """[h, w, wanted] of grey, RGB, or either with transparency."""
    if image.shape[2] in (2, 4) and image.shape[2] != wanted:
        image = image[..., :-1]
    if image.shape[2] == wanted:
        return image
    if (image.shape[2], wanted) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (image.shape[2], wanted) == (3, 1):
        return image @ np.array([[0.299], [0.587], [0.114]], np.float32)
    raise Unreadable(f"has {image.shape[2]} channels, the network takes {wanted}")
