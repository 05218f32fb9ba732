"""Imports TensorFlow without the lines that it prints on import, which no variable silences (2.21: oneDNN, CUDA), and
without the machine's TPU where the process does not train on it: libtpu gives a TPU to the first process that loads it.

    quiet.import_tensorflow(errors=True)
"""
import os
import sys
import tempfile


def import_tensorflow(*, errors: bool, local_tpu: bool = False) -> None:
    """Imports TensorFlow and Keras. errors: whether C++ errors are shown later on; on CPUs the missing GPU is one.
    local_tpu: whether this process takes the machine's own TPU.

    What they print on import is kept back, and shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if errors else "3")
    if not local_tpu:
        os.environ.setdefault("TPU_LOAD_LIBRARY", "0")
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
        except BaseException:
            kept.seek(0)
            os.write(real, kept.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
