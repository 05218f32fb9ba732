"""Imports TensorFlow without the lines that it prints on import, which no variable silences (2.21: oneDNN, CUDA).

    quiet.import_tensorflow(errors=True)
"""
import os
import sys
import tempfile


def import_tensorflow(*, errors: bool) -> None:
    """Imports TensorFlow and Keras. errors: whether C++ errors are shown later on; on CPUs the missing GPU is one.

    What they print on import is kept back, and shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if errors else "3")
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
