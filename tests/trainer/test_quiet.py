"""Which process takes the TPU of its machine: libtpu gives it to the first one that loads it, and to no other.

Mutations: everybody loads it (an evaluator that starts first has the trainer's TPU); nobody does.
"""
import subprocess

import pytest

import runs


@pytest.mark.parametrize("flags, loads", [
    (("--tpu=local",), "as TensorFlow likes"), ((), "0"), (("--tpu=grpc://127.0.0.1:1",), "0"), (("--tpu=pod",), "0")])
def test_only_who_trains_on_it_loads_libtpu(tmp_path, flags, loads):
    """A program in Keras's place, the first import, says what TensorFlow would be told."""
    (tmp_path / "keras.py").write_text("import os, sys\n"
                                       "sys.exit(os.environ.get('TPU_LOAD_LIBRARY', 'as TensorFlow likes'))\n")
    variables = runs.environment(PYTHONPATH=str(tmp_path))
    variables.pop("TPU_LOAD_LIBRARY", None)
    done = subprocess.run(runs.command("trainer.main", f"--model_dir={tmp_path / 'm'}", *flags), cwd=runs.ROOT, env=variables,
                          capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines() == [loads], done
