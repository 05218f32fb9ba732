"""--download: the trainer fetches what is missing, verified, before TensorFlow is imported; else one line and code 2."""
import pathlib
import tarfile

import pytest

import runs
from input_pipeline import download
import loopback
from trainer import config, main, resolve

TUTORIAL = {"recipe": "cifar10_tutorial", "download": True}


def test_the_data_set_is_there_afterwards(tmp_path, fake_cifar10, monkeypatch):
    packed = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
        archive.add(pathlib.Path(fake_cifar10, "cifar-10-batches-bin"), "cifar-10-batches-bin")
    with loopback.Server({"/cifar.tar.gz": packed.read_bytes()}) as server:
        monkeypatch.setitem(download.ARCHIVES, "cifar10", loopback.archive_of(
            packed.read_bytes(), f"http://127.0.0.1:{server.server_port}/cifar.tar.gz", unpacked_limit=300_000_000))
        run = resolve.resolve({**TUTORIAL, "data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "m")})
        assert run.info.train_examples == 50_000  # known before the files are there
        main.get_data(run)
        asked = len(server.requests)
        main.get_data(run)
        assert len(server.requests) == asked  # present: no request
    resolve.resolve({"recipe": "cifar10_tutorial", "data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "m")})


def test_a_wrong_archive_is_one_line_and_publishes_nothing(tmp_path):
    """A real process against a mirror that has something else under the archive's name."""
    with loopback.Server({"/cifar-10-binary.tar.gz": b"not what it should be"}) as server:
        wrong = runs.train(tmp_path / "m", "--recipe=cifar10_tutorial", f"--data_dir={tmp_path / 'data'}", "--download",
                           code=2, env={"LOCKSTEP_MIRROR": f"http://127.0.0.1:{server.server_port}"})
    lines = [line for line in wrong.err.splitlines() if line.startswith("trainer: ")]
    assert len(lines) == 1 and "--download" in lines[0] and "cifar-10-binary.tar.gz" in lines[0], wrong.err
    assert not (tmp_path / "m").exists() and not (tmp_path / "data" / "cifar-10-batches-bin").exists()


def test_a_server_that_is_away_may_come_back(tmp_path, monkeypatch):
    """Code 75, after which a launcher tries again. Mutation: code 2, as of what is wrong."""
    def away(*_):
        raise ConnectionError("no connection")

    monkeypatch.setattr(download, "fetch", away)
    run = resolve.resolve({**TUTORIAL, "data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "m")})
    with pytest.raises(config.UserError, match="--download: no connection") as error:
        main.get_data(run)
    assert error.value.exit_code == 75


def test_nothing_is_fetched_without_the_flag(tmp_path):
    with pytest.raises(config.UserError, match="python -m input_pipeline.prepare --dataset=cifar10"):
        resolve.resolve({"recipe": "cifar10_tutorial", "data_dir": str(tmp_path), "model_dir": str(tmp_path / "m")})
