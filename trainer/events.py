"""TensorBoard event files, written without summary operations.

tf.summary.histogram takes 1.7 s for the histograms of one step of the tutorial's network, in a graph that has
to be traced; comparing the values that a step returned with the edges takes a tenth of a second, and the tags stay
exactly as given. An event file is a TFRecord file of Event protos. TensorFlow's record writer makes it, since
TensorBoard's own computes checksums in Python: 0.2 s a megabyte, and a graph has several.

    events = Events("runs/digits/train")
    events.restart(step)         # always, first: 0 for a fresh run, else the step resumed from
    events.scalars(step, {"total_loss": 1.08, "learning_rate": 0.1})
    events.histogram(step, "conv1/activations", *histogram_table(values))
    events.flush()               # before a checkpoint is published: who resumes from it misses nothing

Nothing is buffered by a thread: what a call wrote is in the file at the latest after flush(). A record cut
short by a kill or a full disk is the end of its file to every reader, and the next process writes a file of its own.
Where a file cannot be written, every method raises a UserError.
"""

import contextlib
import os
import re
import socket
import struct
import time
import zlib

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING

from input_pipeline.bucket import is_address
from input_pipeline.record_index import framed
from trainer import files
from trainer.growing import growing
from trainer.places import names, place

BLOCK = 1 << 17  # values compared at once: they stay in a core's cache, and threads seldom wait for Python


class Events:
    """One process's event file in a folder, which is created. For one writer at a time.

    Args:
      folder: a run to TensorBoard, on this machine or at gs://.
      flush_secs: at gs://, flush() writes only if the last time was so many seconds ago; settle() always does.
    """

    def __init__(self, folder, *, flush_secs=0):
        with _writing(folder):
            place(folder).mkdir(parents=True, exist_ok=True)
            self._path = os.path.join(folder, _file_name(folder))
            self._writer = _Records(self._path, flush_secs) if is_address(folder) else tf.io.TFRecordWriter(self._path)
        source = SourceMetadata(writer="lockstep.trainer.events")
        self._write(Event(file_version="brain.Event:2", source_metadata=source))
        self.flush()

    def restart(self, step):
        """Makes readers drop what earlier processes wrote beyond `step`, so that no curve goes back in time.

        A START event has them drop the steps from its own on. At step 0 nothing is worth keeping: everything
        goes, and the caller writes the configuration and the like again. (TensorBoard's fast loader knows no
        START: there a tag loses its old values once it gets new ones. The outcome is the same as soon as
        every tag was written again.)
        """
        start = Event(step=step + 1 if step else 0, session_log=SessionLog(status=SessionLog.START))
        self._write(start)
        self._write(start)  # the first START of a run counts as its beginning, and drops nothing
        self.flush()

    def scalars(self, step, values):
        """Writes {tag: number}, as float32; nan and inf are allowed."""
        tensors = {tag: _tensor(DT_FLOAT, float_val=[float(value)]) for tag, value in values.items()}
        self._summary(step, "scalars", tensors)

    def histogram(self, step, tag, table, not_finite=0):
        """Writes how values are distributed: a `histogram_table`, and how many were not finite.

        If there are any, that number is the scalar `<tag>/non_finite`, so such a chart appears in bad runs only.
        """
        tensor = _tensor(DT_DOUBLE, table.shape, tensor_content=table.astype("<f8").tobytes())
        self._summary(step, "histograms", {tag: tensor})
        if not_finite:
            self.scalars(step, {f"{tag}/non_finite": not_finite})

    def images(self, step, tag, images, max_images=3):
        """Writes the first images of a batch: uint8 [n, height, width, 1 or 3].

        Raises:
          ValueError: another shape or type.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            given = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"images {tag!r}: {given}, must be uint8 [n, height, width, 1 or 3]")
        height, width = images.shape[1:3]
        strings = [str(width).encode(), str(height).encode(), *(png(image) for image in images[:max_images])]
        self._summary(step, "images", {tag: _tensor(DT_STRING, [len(strings)], string_val=strings)})

    def text(self, step, tag, markdown):
        """Writes a text, shown as markdown."""
        self._summary(step, "text", {tag: _tensor(DT_STRING, string_val=[markdown.encode()])})

    def graph(self, graph_def_bytes):
        """Writes the run's graph, a serialised GraphDef; the last one written is shown."""
        self._write(Event(graph_def=graph_def_bytes))

    def flush(self):
        """Hands everything written so far to the operating system: a kill loses none of it."""
        with _writing(self._path):
            self._writer.flush()

    def settle(self):
        """As flush(), and at gs:// at once. Any thread may call."""
        if isinstance(self._writer, _Records):
            with _writing(self._path):
                self._writer.settle()

    def close(self):
        """Flushes and closes the file; nothing can be written afterwards."""
        with _writing(self._path):
            self._writer.close()

    def _summary(self, step, plugin, tensors):
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
        values = [Summary.Value(tag=tag, metadata=metadata, tensor=tensor) for tag, tensor in tensors.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event):
        event.wall_time = time.time()
        with _writing(self._path):
            self._writer.write(event.SerializeToString())


@contextlib.contextmanager
def _writing(path):
    """Turns TensorFlow's error, of a full disk say, into the UserError that names the file and what to do."""
    try:
        yield
    except tf.errors.OpError as error:
        raise files.cannot_write(path, error.message) from error
    except OSError as error:
        with files.writing(path):
            raise error


class _Records:
    """Writes records at gs://. (TensorFlow's writer sends the whole file again at every flush, however long it is.)"""

    def __init__(self, path, flush_secs):
        self._file, self._least = growing(path), flush_secs

    def write(self, record):
        self._file.append(framed(record))

    def flush(self):
        self._file.flush(least=self._least)

    def settle(self):
        self._file.flush()

    close = settle


def _tensor(dtype, shape=(), **content):
    dimensions = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype=dtype, tensor_shape=TensorShapeProto(dim=dimensions), **content)


def _file_name(folder):
    """The name of a new event file, which sorts behind those in the folder.

    Readers go through the files in the order of their names, which begin with a time. After a restart within
    the same second, or on a machine whose clock is behind, the time alone would put new before old.
    """
    pattern = re.compile(r"events\.out\.tfevents\.(\d{10})\.")
    earlier = [int(match[1]) for name in names(place(folder)) if (match := pattern.match(name))]
    seconds = max([int(time.time()), *(second + 1 for second in earlier)])
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}"


def histogram_table(values, buckets=30):
    """The distribution of `values`, an array of any shape and real type, in the form of TensorBoard's histograms plugin.

    Buckets of equal width from the least to the greatest; values that are not finite as float32 are left out.

    Returns:
      (float64 [buckets, 3] of left edge, right edge, count; the number of values that are not finite as
      float32). Every bucket is open on the right but the last. As tf.summary.histogram has it, all is 0 if
      there are no values, and values that are all equal are in the last of buckets without width.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(values).astype(np.float32, copy=False).ravel()
    given, (least, greatest) = values.size, _extremes(values)
    if not (np.isfinite(least) and np.isfinite(greatest)):  # a single nan makes nan of both
        values = values[np.isfinite(values)]
        least, greatest = _extremes(values)
    if least == greatest:
        counts = np.zeros(buckets)
        counts[-1] = values.size
        edges = np.full(buckets + 1, least)
    else:
        edges = np.linspace(least, greatest, buckets + 1)
        counts = np.diff(_below(values, edges[1:-1]), prepend=0, append=values.size)
    return np.stack([edges[:-1], edges[1:], counts], axis=1), given - values.size


def _below(values, edges):
    """How many of float32 `values` [n] are below each of float64 `edges` [m]. Twice to four times as fast as np.histogram."""
    bounds = edges.astype(np.float32)  # x < edge is x < the least float32 that is not below the edge
    bounds = np.where(bounds < edges, np.nextafter(bounds, np.float32(np.inf)), bounds)
    counts, answers = np.zeros(len(bounds), np.int64), np.empty(BLOCK, bool)
    for start in range(0, values.size, BLOCK):
        block = values[start:start + BLOCK]
        for k, bound in enumerate(bounds):
            counts[k] += np.count_nonzero(np.less(block, bound, out=answers[:block.size]))
    return counts


def _extremes(values):
    """The least and the greatest value, 0 if there are none."""
    if not values.size:
        return np.float64(0), np.float64(0)
    return np.float64(values.min()), np.float64(values.max())  # float32 leaves no room for edges


def sparsity(values):
    """The fraction of values that are exactly 0; nan if there are none."""
    values = np.asarray(values)
    return np.count_nonzero(values == 0) / values.size if values.size else float("nan")


def png(image):
    """A PNG file, as bytes, of a uint8 image [height, width, 1 or 3] (gray or RGB).

    Source: the PNG specification, third edition, sections 5 and 11: a signature, then chunks of length, type,
    data and checksum: header, rows (each after its filter type, here 0: none) deflated, end.
    """
    height, width, channels = image.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
