"""`dataset.json`, which makes a folder of TFRecord shards a set: written last, believed only when it is right.

    {"format": "lockstep-tfrecord", "version": 1, "name": "flowers",
     "classes": ["daisy", ...],                        a label is a place in this list
     "image_shape": [32, 32, 3], "encoding": "png",    both null unless every image is stored in this size
     "examples": {"train": 2934, "validation": 376, "test": 360},
     "identity": "9f...",                              sha256 of the images' names and times, and the options
     "skipped": ["daisy/broken.jpg"],                  files that could not be read and are left out
     "shards": [{"file": "train-00000-of-00001.tfrecord", "split": "train", "records": 2934, "bytes": 57190033,
                 "sha256": "41..."}, ...]}

    values = description.parse(content, "flowers-tfrecord/dataset.json")     # ValueError names what is wrong
"""

import json
import re

from input_pipeline import images, record_index
from input_pipeline.datasets import SPLITS

FILE = "dataset.json"
FORMAT, VERSION = "lockstep-tfrecord", 1
MAX_CLASSES = 100_000
MAX_SHARDS = 100_000
MAX_BYTES = 1 << 26  # of this file, and of a file of labels


def encode(*, name: str, classes: tuple[str, ...], image_shape: tuple[int, int, int] | None,
           encoding: str | None, identity: str, shards: list[dict], skipped: list[str]) -> bytes:
    """The file's content. `shards`: file, split, records, bytes, sha256 of each."""
    counts = {split: sum(shard["records"] for shard in shards if shard["split"] == split) for split in SPLITS}
    values = {"format": FORMAT, "version": VERSION, "name": name, "classes": classes, "image_shape": image_shape,
              "encoding": encoding, "examples": counts, "skipped": skipped, "identity": identity, "shards": shards}
    return (json.dumps(values, indent=1) + "\n").encode()


def parse(content: bytes, path: str) -> dict:
    """The values of the dataset.json at `path`. ValueError, which names it and the value, where one is wrong."""
    def require(condition: bool, rule: str) -> None:
        if not condition:
            raise ValueError(f"{path}: {rule}; get the set again")

    def number(value, most: int = 1 << 62) -> bool:
        return type(value) is int and 0 < value <= most

    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({' '.join(str(error).split())[:100]}); get the set again") from None
    require(isinstance(values, dict) and values.get("format") == FORMAT, f"format must be {FORMAT!r}")
    require(number(values.get("version")) and values["version"] == VERSION,
            f"version must be {VERSION}, which this program reads")
    classes, shape, entries = values.get("classes"), values.get("image_shape"), values.get("shards")
    require(isinstance(classes, list) and 0 < len(classes) <= MAX_CLASSES
            and all(isinstance(name, str) and name.isprintable() for name in classes),
            f"classes must be 1 to {MAX_CLASSES} printable names")
    require(shape is None or isinstance(shape, list) and len(shape) == 3 and all(map(number, shape))
            and shape[2] in (1, 3) and shape[0] * shape[1] <= images.MAX_PIXELS,
            f"image_shape must be null, or height, width and 1 or 3 channels, {images.MAX_PIXELS} pixels at most")
    require(values.get("encoding") in ((None,) if shape is None else ("png", "jpeg")),
            "encoding must be png or jpeg beside an image_shape, else null")
    require(isinstance(entries, list) and 0 < len(entries) <= MAX_SHARDS, f"shards must be a list of 1 to {MAX_SHARDS}")
    for place, entry in enumerate(entries):
        of = f"shards[{place}]"
        require(isinstance(entry, dict), f"{of} must be an object")
        name = entry.get("file")
        require(isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}", name)),
                f"{of}: file must be a plain file name")
        require(entry.get("split") in SPLITS, f"{of}: split must be one of {', '.join(SPLITS)}")
        require(number(entry.get("records"), record_index.MAX_RECORDS) and number(entry.get("bytes")),
                f"{of}: records and bytes must be numbers above 0")
        require(isinstance(entry.get("sha256"), str) and bool(re.fullmatch("[0-9a-f]{64}", entry["sha256"])),
                f"{of}: sha256 must be 64 hexadecimal digits")
    require(len({entry["file"] for entry in entries}) == len(entries), "shards must have different files")
    counts = {split: sum(entry["records"] for entry in entries if entry["split"] == split) for split in SPLITS}
    require(counts["train"] > 0, "no shard is for training")
    require(values.get("examples") == counts, f"examples must be {counts}, as the shards have them")
    skipped = values.get("skipped")
    require(isinstance(skipped, list) and all(isinstance(name, str) for name in skipped), "skipped must be names")
    require(isinstance(values.get("identity"), str), "identity must be a text")
    return values
