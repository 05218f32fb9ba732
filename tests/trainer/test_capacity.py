"""A network that does not fit in memory is said with numbers, before TensorFlow finds it out and when it does."""
import dataclasses
import subprocess

import pytest
import runs
import tensorflow as tf

from models import registry
from trainer import capacity
from trainer.config import Config, UserError

ROWS = 500_000
FLAGS = ("--model=resnet18", "--blocks=1", f"--global_batch_size={ROWS}", "--train_steps=1", "--precision=float32",
         "--summary_steps=0", "--histogram_steps=0", "--intra_op_threads=2", "--inter_op_threads=2", "--progress=none")
FIRST_LAYER = ROWS * 8 * 8 * 64 * 4  # bytes, more than the limit: nothing of it is ever touched
LIMIT = 7 * 2**30


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_one_line_with_numbers(tmp_path):
    """Without oneDNN, whose allocator (2.21) ends the process with a segmentation fault instead of an error.

    Mutation: the iterator of the batches, which is busy, is deleted on the way out: that is one, too.
    """
    assert FIRST_LAYER > LIMIT
    command = runs.command("trainer.main", f"--model_dir={tmp_path / 'm'}", *FLAGS)
    done = subprocess.run(["bash", "-c", f'ulimit -v {LIMIT // 1024}; exec "$@"', "bash", *command], cwd=runs.ROOT, text=True,
                          capture_output=True, timeout=300, env=runs.environment(TF_ENABLE_ONEDNN_OPTS="0"))
    assert done.returncode == 2, done.stderr[-4000:]
    told = [line for line in done.stdout.splitlines() if "warning: this process can have 7.0 GiB of memory" in line]
    assert len(told) == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        f"trainer: out of memory (OOM when allocating tensor with shape[{ROWS},")
    for line in (*told, done.stderr):
        assert "the network takes at least" in line and f"{ROWS} rows x" in line and "--global_batch_size=250000" in line
        assert "'conv1'" in line and "fewer blocks" in line


def test_weights_that_do_not_fit_are_one_line_with_numbers(tmp_path):
    """33 GB for the first layer. Mutation: the network is built outside: a traceback, and code 1, after which launchers start anew."""
    command = runs.command("trainer.main", f"--model_dir={tmp_path / 'm'}", "--model=flowers_dense", "--augment=resize:4096",
                           *FLAGS[3:])
    done = subprocess.run(["bash", "-c", f'ulimit -v {LIMIT // 1024}; exec "$@"', "bash", *command], cwd=runs.ROOT, text=True,
                          capture_output=True, timeout=300, env=runs.environment())
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr[-4000:]
    assert done.stderr.startswith("trainer: out of memory (OOM when allocating tensor with shape[16777216,500]")
    assert "--model=flowers_dense" in done.stderr and "(7.0 GiB)" in done.stderr and "a smaller --model" in done.stderr


def small() -> tuple:
    return registry.build("digits_cnn", input_shape=(8, 8, 1), classes=10), Config(global_batch_size=64)


@pytest.mark.parametrize("text", ["OOM when allocating tensor with shape[1] and type float on /job:localhost",
                                  "Ran out of memory in memory space hbm. Used 20.00G of 15.48G hbm.",
                                  "Out of memory while trying to allocate 1024 bytes."])
def test_what_tensorflow_says_of_memory_is_a_users_error(text):
    model, config = small()
    with pytest.raises(UserError, match="with 16 rows .--global_batch_size=32, or --grad_accum_steps=2"), \
            capacity.named(model, config, replicas=2):
        raise tf.errors.ResourceExhaustedError(None, None, text)


def test_other_exhaustion_is_not():
    model, config = small()
    with pytest.raises(tf.errors.ResourceExhaustedError), capacity.named(model, config, replicas=1):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


def test_all_replicas_of_this_process_and_their_micro_batches_count(monkeypatch):
    model, config = small()
    needs = capacity.memory.estimate(model)

    def warned(config, **replicas) -> bool:
        return bool(capacity.warning(model, config, **replicas))

    monkeypatch.setattr(capacity, "available", lambda: needs.total(rows=64))
    assert not warned(config, local_replicas=1, replicas=1)
    assert warned(config, local_replicas=2, replicas=2) and not warned(config, local_replicas=1, replicas=2)
    double = dataclasses.replace(config, global_batch_size=128)
    assert warned(double, local_replicas=1, replicas=1)
    assert not warned(dataclasses.replace(double, grad_accum_steps=2), local_replicas=1, replicas=1)


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(capacity, "GROUP", tmp_path / "memory.max")
    whole = capacity.available()
    for text, limit in ("max\n", whole), ("1048576\n", 2**20):
        capacity.GROUP.write_text(text)
        assert capacity.available() == limit
