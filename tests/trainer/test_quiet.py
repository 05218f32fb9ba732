"""What TensorFlow is told before it is imported.

Which process takes the TPU of its machine: libtpu gives it to the first one that loads it, and to no other. Mutations:
everybody loads it (an evaluator that starts first has the trainer's TPU); nobody does.
Whether it uses oneDNN's kernels on a CPU that has AVX2 alone. Mutation: the line in trainer/__init__.py left out.
"""
import subprocess
import sys

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


@pytest.mark.parametrize("variable, told", [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_kernels_are_onednns_unless_the_user_says_otherwise(variable, told):
    variables = runs.environment()
    variables.pop("TF_ENABLE_ONEDNN_OPTS", None)
    program = "import os; from trainer import flags; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, env={**variables, **variable}, capture_output=True,
                          text=True, timeout=60)
    assert done.stdout.split() == [told], done
