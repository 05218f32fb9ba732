"""TensorBoard shows what was written, under its tag, once: by its reader and by both of its servers."""

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.util import tensor_util

from trainer.events import Events, histogram_table, png, sparsity

BOUND = 60.0  # seconds that a server may take to start and to load, on a busy machine
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
GRAPH = GraphDef()
GRAPH.node.add(name="conv1/weights", op="VarHandleOp")


def write_a_run_that_was_killed_at_10_and_goes_on_from_5(folder):
    """Steps 1 to 10, the very last record cut short; then 6 to 8 by another writer, not closed."""
    killed = Events(folder)
    killed.restart(0)
    killed.graph(GRAPH.SerializeToString())
    killed.text(0, "configuration", "# seed\n\n*7*")
    for step in range(1, 11):
        write_step(killed, step, 100 + step)
        killed.scalars(step, {"not_written_again": step})
    killed.close()
    (name,) = os.listdir(folder)
    file = os.path.join(folder, name)
    os.truncate(file, os.path.getsize(file) - 5)
    resumed = Events(folder)
    resumed.restart(5)
    for step in range(6, 9):
        write_step(resumed, step, 200 + step)
    resumed.flush()
    return resumed


def write_step(writer, step, value):
    writer.scalars(step, {"total_loss": value, "conv1/sparsity": 0.5})
    writer.histogram(step, "conv1/weights:0", *histogram_table([value, value + 1.0, math.inf]))
    writer.images(step, "images", IMAGES + np.uint8(value), max_images=2)


CURVE = [(step, 100 + step) for step in range(1, 6)] + [(step, 200 + step) for step in range(6, 9)]


def load(folder):
    """The reader behind TensorBoard's slow loader, told to sample nothing."""
    accumulator = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def series(accumulator, tag):
    """[(step, array)] of a tag, in the order of the files."""
    return [(item.step, tensor_util.make_ndarray(item.tensor_proto)) for item in accumulator.Tensors(tag)]


def pixels(file):
    """The image in a PNG file, given as bytes."""
    return np.array(Image.open(io.BytesIO(file)))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "train"


def test_a_file_begins_as_those_of_tensorflow_2_do(folder):
    Events(folder).close()
    (name,) = os.listdir(folder)
    assert re.fullmatch(r"events\.out\.tfevents\.\d{10}\..+\.\d+", name)
    first = next(iter(LegacyEventFileLoader(str(folder / name)).Load()))
    assert first.file_version == "brain.Event:2"
    assert abs(first.wall_time - time.time()) < 3600


def test_every_kind_of_summary_arrives_under_its_tag_and_plugin(folder):
    write_a_run_that_was_killed_at_10_and_goes_on_from_5(folder).close()
    accumulator = load(folder)
    names = ("scalars", "histograms", "images", "text")
    assert {name: set(accumulator.PluginTagToContent(name)) for name in names} == {
        "scalars": {"total_loss", "conv1/sparsity", "not_written_again", "conv1/weights:0/non_finite"},
        "histograms": {"conv1/weights:0"},
        "images": {"images"},
        "text": {"configuration"},
    }
    assert accumulator.Graph() == GRAPH
    ((step, text),) = series(accumulator, "configuration")
    assert (step, text.item()) == (0, b"# seed\n\n*7*")
    step, strings = series(accumulator, "images")[-1]
    assert (step, list(strings[:2]), len(strings)) == (8, [b"7", b"5"], 4)
    for string, image in zip(strings[2:], IMAGES):
        assert np.array_equal(pixels(string), image + np.uint8(208))
    step, table = series(accumulator, "conv1/weights:0")[-1]
    assert (step, table.shape, table[:, 2].sum(), table[0, 0], table[-1, 1]) == (8, (30, 3), 2, 208.0, 209.0)


def test_a_restart_leaves_no_zig_zag(folder):
    write_a_run_that_was_killed_at_10_and_goes_on_from_5(folder).close()
    accumulator = load(folder)
    assert series(accumulator, "total_loss") == CURVE
    assert [step for step, _ in series(accumulator, "images")] == [step for step, _ in CURVE]
    assert [step for step, _ in series(accumulator, "conv1/weights:0")] == [step for step, _ in CURVE]
    assert [step for step, _ in series(accumulator, "not_written_again")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("announced", [True, False])
def test_a_fresh_start_in_a_used_folder_leaves_nothing_of_the_old(folder, announced):
    first = Events(folder)
    if announced:
        first.restart(0)
    for step in range(4):
        first.scalars(step, {"total_loss": step})
    first.close()
    second = Events(folder)
    second.restart(0)
    second.scalars(0, {"total_loss": 7})
    second.close()
    assert series(load(folder), "total_loss") == [(0, 7)]


def test_a_new_file_sorts_behind_all_others_whatever_the_clock_says(folder, monkeypatch):
    for seconds in (1_800_000_000.9, 1_800_000_000.9, 1_700_000_000.0, 1_800_000_000.5):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        before = set(os.listdir(folder)) if folder.exists() else set()
        writer = Events(folder)
        writer.restart(0)
        writer.scalars(1, {"total_loss": len(before)})
        writer.close()
        (name,) = set(os.listdir(folder)) - before
        assert all(name > other for other in before)
    assert series(load(folder), "total_loss") == [(1, 3)]


def test_what_was_flushed_is_in_the_hands_of_the_system(folder):
    writer = Events(folder)
    for step in range(1, 4):
        writer.scalars(step, {"total_loss": step})
        writer.flush()
        assert series(load(folder), "total_loss")[-1] == (step, step)
    writer.close()


def test_scalars_that_are_not_finite_are_written(folder):
    writer = Events(folder)
    writer.scalars(3, {"a": math.nan, "b": math.inf, "c": np.float32(1.5), "d": 7})
    writer.close()
    accumulator = load(folder)
    assert [repr(series(accumulator, tag)[0][1].item()) for tag in "abcd"] == ["nan", "inf", "1.5", "7.0"]


def test_values_that_are_not_finite_are_counted_in_bad_runs_only(folder):
    writer = Events(folder)
    writer.histogram(1, "good", *histogram_table([1.0, 2.0]))
    writer.histogram(1, "bad", *histogram_table([1.0, 2.0, math.nan, -math.inf, 1e300]))
    writer.close()
    accumulator = load(folder)
    assert set(accumulator.PluginTagToContent("scalars")) == {"bad/non_finite"}
    assert series(accumulator, "bad/non_finite") == [(1, 3)]
    assert np.array_equal(series(accumulator, "good")[0][1], series(accumulator, "bad")[0][1])


def test_a_closed_file_takes_no_more(folder):
    writer = Events(folder)
    writer.close()
    with pytest.raises(Exception, match="closed|Writer"):
        writer.scalars(1, {"total_loss": 1.0})


def test_buckets_to_the_letter():
    table, not_finite = histogram_table(np.float32([[0, 1, 1], [2, 3, 4]]), 4)
    assert table.tolist() == [[0, 1, 1], [1, 2, 2], [2, 3, 1], [3, 4, 2]]
    assert (table.dtype, not_finite) == (np.float64, 0)


def test_an_edge_that_float32_lacks_is_not_rounded():
    """0.7 as float32 is below the edge 0.7. Mutation: edges rounded to float32."""
    assert histogram_table(np.float32([0, 0.7, 1]), 10)[0][:, 2].tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0, 1]


FLOATS = arrays.arrays(np.float32, arrays.array_shapes(max_dims=3), elements=some.floats(width=32))


@settings(deadline=None)
@given(FLOATS, some.integers(1, 40))
def test_every_value_is_in_one_bucket_or_counted(values, buckets):
    table, not_finite = histogram_table(values, buckets)
    finite = values[np.isfinite(values)]
    assert table.shape == (buckets, 3) and np.isfinite(table).all()
    assert table[:, 2].sum() == finite.size and not_finite == values.size - finite.size
    assert np.array_equal(table[1:, 0], table[:-1, 1]) and (table[:, 0] <= table[:, 1]).all()
    if finite.size:
        assert (table[0, 0], table[-1, 1]) == (finite.min(), finite.max())
        below = [(finite < edge).sum() for edge in table[1:, 0]]
        assert np.ptp(finite) == 0 or table[:-1, 2].cumsum().tolist() == below


@pytest.mark.parametrize("values", [[], [0.0] * 5, [2.5] * 3, [1.0, 2.0, 4.0], np.arange(31.0)])
def test_buckets_are_those_of_tensorboards_own_writer(values):
    own = tensor_util.make_ndarray(histogram_pb("tag", np.array(values)).value[0].tensor)
    assert np.array_equal(histogram_table(values, 30)[0], own)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, float, np.int32, bool, ml_dtypes.bfloat16])
def test_any_real_type_has_a_histogram(dtype):
    table, not_finite = histogram_table(np.array([0, 1, 1]).astype(dtype), 2)
    assert (table.tolist(), not_finite) == ([[0, 0.5, 1], [0.5, 1, 2]], 0)


def test_a_large_histogram_is_fast():
    values = np.random.default_rng(0).standard_normal(4_700_000).astype(np.float32)
    times = []
    for _ in range(5):
        start = time.thread_time()
        histogram_table(values, 30)
        times.append(time.thread_time() - start)
    assert min(times) < 0.3  # 0.05 on an idle core


def test_sparsity():
    assert sparsity(np.float32([[0.0, -0.0], [1e-45, math.nan]])) == 0.5
    assert sparsity(np.zeros(3)) == 1.0
    assert sparsity(np.ones((2, 2), ml_dtypes.bfloat16)) == 0.0
    assert math.isnan(sparsity([]))


SIZES = some.integers(1, 9)


@settings(deadline=None)
@given(arrays.arrays(np.uint8, some.tuples(SIZES, SIZES, some.sampled_from([1, 3]))))
def test_a_png_is_the_image(image):
    assert Image.open(io.BytesIO(png(image))).mode == {1: "L", 3: "RGB"}[image.shape[2]]
    assert np.array_equal(pixels(png(image)).reshape(image.shape), image)


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES[..., :2], IMAGES / 255])
def test_images_of_another_shape_or_type_are_refused(folder, images):
    with pytest.raises(ValueError, match=r"images 'input': .*must be uint8 \[n, height, width, 1 or 3\]"):
        Events(folder).images(1, "input", images)


# The servers


# TensorBoard without TensorFlow starts in a third of the time; load() reads with it.
MAIN = "import sys; sys.modules['tensorflow'] = None; from tensorboard.main import run_main; run_main()"


class Server:
    """A TensorBoard on the loopback interface; its address is known after a while."""

    def __init__(self, logdir, fast):
        flags = ["--logdir", logdir, "--load_fast", fast, "--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._said, self._address = [], None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._process.stderr:
            self._said.append(line)
            if match := re.search(r"at (http://127\.0\.0\.1:\d+)/", line):
                self._address = match[1]

    def get(self, route, **arguments):
        """The JSON or the bytes under a route of a plugin, None while there are none."""
        if self._address is None:
            assert self._process.poll() is None, self._said
            return None
        try:
            query = urllib.parse.urlencode(arguments)
            url = f"{self._address}/data/plugin/{route}?{query}"
            with urllib.request.urlopen(url, timeout=BOUND) as answer:
                body = answer.read()
                return json.loads(body) if "json" in answer.headers["Content-Type"] else body
        except urllib.error.HTTPError as error:
            assert error.code in (400, 404), error  # not loaded yet
            return None

    def wait_for(self, wanted, route, **arguments):
        """Polls until `wanted` holds for the answer, which it returns."""
        deadline = time.monotonic() + BOUND
        while not (answer := self.get(route, **arguments)) or not wanted(answer):
            assert time.monotonic() < deadline, (route, answer, self._said)
            threading.Event().wait(0.1)
        return answer

    def stop(self):
        self._process.kill()  # the fast loader's own process ends when this one has
        self._process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One for each of its two loaders, started side by side: {load_fast: Server}."""
    logdir = tmp_path_factory.mktemp("runs")
    writer = write_a_run_that_was_killed_at_10_and_goes_on_from_5(logdir / "train")
    with contextlib.ExitStack() as stack:
        started = {}
        for fast in ("true", "false"):
            started[fast] = Server(logdir, fast)
            stack.callback(started[fast].stop)
        yield started
    writer.close()


@pytest.mark.parametrize("fast", ["true", "false"])
def test_the_server_shows_everything_once(servers, fast):
    server, of = servers[fast], {"run": "train"}
    curve = server.wait_for(lambda rows: rows[-1][1] == 8, "scalars/scalars", tag="total_loss", **of)
    assert [(step, value) for _, step, value in curve] == CURVE

    scalars = server.get("scalars/tags")["train"]
    assert {"total_loss", "conv1/sparsity", "conv1/weights:0/non_finite"} <= set(scalars)
    assert set(server.get("histograms/tags")["train"]) == {"conv1/weights:0"}
    assert set(server.get("images/tags")["train"]) == {"images"}
    assert server.get("text/tags")["train"] == ["configuration"]

    tables = server.get("histograms/histograms", tag="conv1/weights:0", **of)
    assert [(step, table[0][0]) for _, step, table in tables] == CURVE
    pictures = server.get("images/images", tag="images", sample=1, **of)
    assert [picture["step"] for picture in pictures] == [step for step, _ in CURVE]
    picture = server.get("images/individualImage", **dict(urllib.parse.parse_qsl(pictures[-1]["query"])))
    assert np.array_equal(pixels(picture), IMAGES[1] + np.uint8(208))
    (text,) = server.get("text/text", tag="configuration", **of)
    assert (text["step"], "<em>7</em>" in text["text"]) == (0, True)
    assert server.get("graphs/info")["train"]["run_graph"] is True
    assert b'name: "conv1/weights"' in server.get("graphs/graph", **of)
