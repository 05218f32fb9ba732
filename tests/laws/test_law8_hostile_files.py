"""Law 8: a hostile file at any flag that reads one runs nothing, writes nothing elsewhere, costs little, and gets one line;
an example that turns out to be broken in the middle of a run is named.

Mutations: `allow_pickle=True` in weight_files; the prefix of --init_from may be a pipe; READ_ERRORS that are not caught.
"""
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import hostile_files
import runs
from input_pipeline import image_folder, order

GIGABYTES = 2  # of TensorFlow and all files together; the largest file says that it has 1,000


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """The folder, and what hostile_files printed."""
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run([sys.executable, hostile_files.__file__, str(folder)], capture_output=True, text=True,
                          cwd=runs.ROOT, env=runs.environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flag", hostile_files.FLAGS)
def test_every_file_gets_one_line(given, flag):
    folder, found = given
    cases = {kind: case for kind, case in found["cases"].items() if kind.startswith(f"{flag}: ")}
    assert len(cases) >= 14
    for kind, case in cases.items():
        assert (case["code"], case["raised"], len(case["err"].splitlines())) == (2, None, 1), (kind, case)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_run_or_written_elsewhere_and_memory_is_bounded(given):
    folder, found = given
    assert sorted(path.name for path in folder.iterdir()) == ["at", "corpus"]
    assert not list((folder / "at").glob("*/model/config.json"))
    assert found["kilobytes"] < GIGABYTES * 2**20


@pytest.mark.slow
def test_an_image_that_is_found_broken_in_mid_run_is_named_and_what_was_saved_stays(tmp_path):
    from PIL import Image
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "photos" / name / f"{k}.png")
    flags = ("--dataset=image_folder", f"--data_dir={tmp_path / 'photos'}", "--image_size=32", "--augment=standardize",
             "--model=cifar10_book", "--global_batch_size=8", "--train_steps=40", "--checkpoint_steps=1", "--seed=1",
             "--keep_checkpoints=40", "--log_steps=1", "--summary_steps=0", "--histogram_steps=0")
    whole = runs.train(tmp_path / "whole", *flags, "--train_steps=2")
    names, _ = image_folder.listing(str(tmp_path / "photos")).of("train")
    third = order.indices(2, seed=1, batch_size=8, examples=len(names)).numpy()
    broken = tmp_path / "photos" / names[third[0]].decode()  # of the third batch
    content = broken.read_bytes()
    broken.write_bytes(content[:300])
    found = runs.train(tmp_path / "run", *flags, code=2)
    assert len(found.err.splitlines()) == 1 and str(broken) in found.err and "what was saved stays" in found.err
    saved = found.published()
    assert saved == [1, 2] and found.lines[0]["batch_digest"] == whole.lines[0]["batch_digest"]
    evaluated = runs.evaluate(tmp_path / "whole", "--split=train", "--run_once", code=2)
    assert str(broken) in evaluated.err and "Traceback" not in evaluated.err
    broken.write_bytes(content)
    assert runs.train(tmp_path / "run", *flags).published()[-1] == 40
