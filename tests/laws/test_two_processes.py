"""Two trainers on one --model_dir: the second refuses in one line with code 2 and touches nothing; when the first is gone,
however it went, the same command goes on.

Mutations: no lock; a lock that a dead process holds; the lines beyond the checkpoint are dropped before the lock is held.
"""
import signal
import subprocess

import pytest

import runs

FLAGS = ("--train_steps=1000000", "--log_steps=1", "--summary_steps=0", "--histogram_steps=0", "--checkpoint_steps=50",
         "--progress=none")


@pytest.fixture
def start(tmp_path):
    """A function that starts a trainer; what still runs at the end is killed."""
    started = []

    def begin() -> subprocess.Popen:
        started.append(subprocess.Popen(runs.command("trainer.main", f"--model_dir={tmp_path}", *FLAGS), cwd=runs.ROOT,
                                        env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def lines(folder) -> int:
    path = folder / "train" / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_the_second_refuses_until_the_first_is_gone(tmp_path, start):
    first = start()
    published = tmp_path / "checkpoints" / "ckpt-00000050.json"
    runs.wait_for(published.exists, first)
    before = lines(tmp_path)
    refused = runs.train(tmp_path, *FLAGS, code=2)
    said = refused.err.strip().splitlines()
    assert len(said) == 1 and f"another trainer works on {tmp_path} (process {first.pid} on " in said[0], refused.err
    assert first.poll() is None and (tmp_path / "train" / ".lock").read_text().startswith(f"{first.pid} ")
    runs.wait_for(lambda: lines(tmp_path) > before, first)  # it goes on, and no line of its was dropped
    assert [record["step"] for record in runs.read_lines(tmp_path / "train" / "metrics.jsonl")[:before]] == list(
        range(1, before + 1))

    first.kill()  # -9: the lock goes with it
    first.communicate()
    second = start()
    left = max(int(path.stem.split("-")[1]) for path in (tmp_path / "checkpoints").glob("*.json"))
    runs.wait_for((tmp_path / "checkpoints" / f"ckpt-{left + 50:08d}.json").exists, second)

    second.send_signal(signal.SIGTERM)  # the third is started while the second still saves
    third = start()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 143, err
    saved = int(out.rsplit("saved step ", 1)[1].split(";")[0])
    runs.wait_for((tmp_path / "checkpoints" / f"ckpt-{(saved // 50 + 1) * 50:08d}.json").exists, third)
    third.send_signal(signal.SIGTERM)
    out, err = third.communicate(timeout=60)
    assert third.returncode == 143, err
    assert f"resumed from {tmp_path}/checkpoints/ckpt-{saved:08d}" in out
