"""Series: windows with their targets, splits that nothing leaks between, strict CSV, the forecast to beat."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import augment, datasets, pipeline, series
from models import forecaster

HEADER = "Date,Decimal Date,Average\n"
FIRST = 1990 * 12 + 6


def lines(months: int, *, first: int = FIRST, value=float) -> str:
    """A file whose value in month m is value(m)."""
    return HEADER + "".join(f"{m // 12}-{m % 12 + 1:02d},{m / 12:.3f},{value(m)},extra,-1\n"
                            for m in range(first, first + months))


def write(tmp_path, text: str) -> str:
    (tmp_path / "co2").mkdir(exist_ok=True)
    (tmp_path / "co2" / "co2-mm-mlo.csv").write_text(text)
    return str(tmp_path)


@pytest.fixture
def data_dir(tmp_path) -> str:
    """Months July 1990 to June 2026, each with its number as value."""
    return write(tmp_path, lines(36 * 12))


def windows(data_dir, split, **options):
    source = datasets.load("co2", split, data_dir, **options)
    batch = source.read(tf.range(len(source), dtype=tf.int64))
    return batch["input"].numpy()[..., 0], batch["target"].numpy()


@pytest.mark.parametrize("past", [24, 36, 60])
def test_every_window_is_the_past_and_what_followed(data_dir, past):
    """Mutations: an origin too few or too many; a target one month late."""
    info = datasets.describe("co2", data_dir, past=past)
    assert (info.input_shape, info.target_shape, info.classes) == ((past, 1), (12,), ())
    assert info.splits == datasets.SPLITS
    first_targets = {"train": (FIRST + past, 2011 * 12), "validation": (2011 * 12, 2016 * 12),
                     "test": (2016 * 12, 2026 * 12)}
    for split, (begin, end) in first_targets.items():
        past_values, targets = windows(data_dir, split, past=past)
        months = np.concatenate([past_values, targets], 1)
        assert np.array_equal(np.diff(months, axis=1), np.ones((len(months), past + 11)))  # one after the other
        # Rolling origin: every month in which a target of this split can begin, and no other.
        assert np.array_equal(targets[:, 0], np.arange(begin, end - 11))
        assert len(months) == info.examples[split]


def test_no_target_belongs_to_two_splits(data_dir):
    """Mutation: let the last training windows reach into the validation years."""
    months = {split: set(windows(data_dir, split)[1].ravel()) for split in datasets.SPLITS}
    assert not months["train"] & months["validation"]
    assert not months["train"] & months["test"] and not months["validation"] & months["test"]
    assert not set(windows(data_dir, "train")[0].ravel()) & (months["validation"] | months["test"])
    assert min(months["test"]) == 2016 * 12 and max(months["test"]) == 2026 * 12 - 1


def test_a_later_download_changes_no_split(tmp_path, data_dir):
    """Mutation: count the test years from the end of the file."""
    before = {split: windows(data_dir, split) for split in datasets.SPLITS}
    write(tmp_path, lines(40 * 12))
    for split, expected in before.items():
        for array, other in zip(windows(data_dir, split), expected):
            assert np.array_equal(array, other)


def test_the_pipeline_carries_targets_and_no_labels(data_dir):
    source = datasets.load("co2", "validation", data_dir)
    seen = []
    for batch in pipeline.evaluation(source, augment.parse(""), batch_size=20, replicas=2, local_replicas=2):
        assert batch["input"].shape == (10, 36, 1) and batch["target"].shape == (10, 12)
        assert "label" not in batch
        seen += batch["target"].numpy()[batch["mask"] > 0, 0].tolist()
    assert seen == list(range(2011 * 12, 2016 * 12 - 11))
    batch = next(iter(pipeline.training(source, augment.parse(""), seed=1, batch_size=6, start_step=0, replicas=1,
                                        local_replicas=1)))
    assert np.array_equal(batch["target"][:, 0], 2011 * 12 + batch["index"].numpy())


@pytest.mark.parametrize("old, new, words", [
    ("1990-09,", "1990-10,", "line 4: '1990-10' does not follow the month before it"),
    ("1990-09,", "Sep 1990,", "line 4: 'Sep 1990,.*' is not month as YYYY-MM"),
    ("1990-09,", "1990-13,", "is not month as YYYY-MM"),
    ("1990-09,", "\u0661\u0669\u0669\u0660-09,", "is not month as YYYY-MM"),
    (",23888,", ",-99.99,", "line 4: the value -99.99 must be 0 to 1e9; if the month is missing"),
    (",23888,", ",nan,", "is not month as YYYY-MM"),
    (",23888,", ",23_888,", "is not month as YYYY-MM"),
    (",23888,", ",23,888,", "has 6 columns, the line before it 5"),
    (",23888,", ",1e400,", "the value inf must be"),
    (",23888,", ",much,", "is not month as YYYY-MM"),
    ("1990-09,1990.667,23888,extra,-1", "1990-09,1990.667", "has 2 columns, the line before it 5"),
])
def test_a_wrong_line_is_refused_by_its_number(tmp_path, old, new, words):
    """Mutations: fill gaps; take nan."""
    text = lines(30, value=int)
    assert old in text
    with pytest.raises(ValueError, match=words) as error:
        series.read_csv(series.path(write(tmp_path, text.replace(old, new))))
    assert "co2-mm-mlo.csv" in str(error.value) and "\n" not in str(error.value)


def test_without_a_header_the_first_month_counts(tmp_path):
    """Mutation: the first line is passed over unseen."""
    text = lines(30, value=int)
    assert text.startswith(HEADER)
    months, values = series.read_csv(series.path(write(tmp_path, text)))
    for read, expected in zip(series.read_csv(series.path(write(tmp_path, text.removeprefix(HEADER)))), (months, values)):
        np.testing.assert_array_equal(read, expected)


def test_an_empty_or_endless_file_is_refused(tmp_path):
    path = series.path(write(tmp_path, HEADER))
    with pytest.raises(ValueError, match="no line after its header"):
        series.read_csv(path)
    write(tmp_path, HEADER + " " * series.MAX_BYTES)
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        series.read_csv(path)


@pytest.mark.parametrize("text, words", [
    (lines(35 * 12), "ends in 2025-06, before the last test year does"),
    (lines(24 * 12, first=2008 * 12), "begins in 2008-01, too late"),
])
def test_a_file_that_is_too_short_is_missing_data(tmp_path, text, words):
    with pytest.raises(datasets.MissingData, match=words):
        datasets.describe("co2", write(tmp_path, text))


def test_no_file_is_missing_data(tmp_path):
    with pytest.raises(datasets.MissingData, match="no file .*co2-mm-gl.csv; get it with: .*--dataset=co2"):
        datasets.describe("co2", str(tmp_path), series="gl")
    with pytest.raises(datasets.MissingData, match="no data_dir"):
        datasets.describe("co2")


@pytest.mark.parametrize("options, words", [
    ({"past": 23}, "past=23 must be 24 .* to 600"), ({"past": 601}, "past=601"),
    ({"series": "x"}, "series='x' must be")])
def test_a_wrong_option_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        datasets.facts("co2", **options)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(
    st.sampled_from(["1990-01", ",", "1990.5", "315.1", "\n", "\r", '"', "\0", "-99.99", "1990-02", "2001-01-31"]),
    st.text(max_size=6)), max_size=40).map("".join))
def test_any_text_gives_values_or_a_value_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        months, values = series.read_csv(str(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert len(months) == len(values) > 0 and np.isfinite(values).all()
        assert np.array_equal(np.diff(months), np.ones(len(months) - 1))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"x\n1990-01,1990.0,300\n" + content)
    try:
        series.read_csv(str(path))
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name, naive, last_year", [("mlo", 0.653, 2.597), ("gl", 0.457, 2.562)])
def test_real_data(co2, name, naive, last_year):
    """The errors in ppm of the naive forecast of the ten test years, and of the last year's values alone."""
    assert datasets.describe("co2", co2, series=name).examples == datasets.facts("co2", series=name).examples
    past, targets = windows(co2, "test", series=name)
    assert len(past) == 109
    assert abs(np.abs(forecaster.naive(past[..., None], 12) - targets).mean() - naive) < 0.005
    assert abs(np.abs(past[:, -12:] - targets).mean() - last_year) < 0.005
