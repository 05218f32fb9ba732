"""A network that does not fit in memory: said with numbers when TensorFlow finds it out, and on CPUs before that.

    print(capacity.warning(model, config, local_replicas=2))     # "" where it fits
    with capacity.named(model, config, replicas=2):
        metrics = loop.run(batches, until)

On a CPU nobody may be left to say it later: the system kills the process, and TensorFlow's allocator with oneDNN (2.21) ends
it with a segmentation fault.
"""
import contextlib
import os
import pathlib
import re
import resource

import tensorflow as tf

from models import memory
from trainer.config import Config, UserError

GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")  # of a container
# A full disk is a ResourceExhaustedError too.
_SAID = (re.compile(r"OOM when allocating tensor with shape\S+ and type \w+"),
         re.compile(r"[^\n]*(out of memory|allocat)[^\n]*", re.IGNORECASE))


def _said(error: tf.errors.ResourceExhaustedError) -> str:
    """What TensorFlow says of memory; another error is raised again."""
    found = next(filter(None, (pattern.search(error.message) for pattern in _SAID)), None)
    if not found:
        raise error
    return found[0]


@contextlib.contextmanager
def building(config: Config):
    """UserError with numbers and a way out where the weights that are made in here find no memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        said = _said(error)
        raise UserError(f"out of memory ({said}) before the first step: the weights of --model={config.model}, and what training "
                        f"keeps beside them, need more than this process can have ({memory.text(available())}); smaller images, "
                        "fewer blocks or a smaller --model need less") from error


@contextlib.contextmanager
def named(model, config: Config, *, replicas: int):
    """UserError with numbers and a way out where a step of `model` in here finds no memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        said = _said(error)
        advice = memory.advice(model, rows=config.global_batch_size, replicas=replicas,
                               grad_accum_steps=config.grad_accum_steps)
        raise UserError(f"out of memory ({said}): {advice}; another batch needs another --model_dir") from error


def warning(model, config: Config, *, local_replicas: int, replicas: int) -> str:
    """A line where the CPU devices of this process have less memory than training takes, "" where they have enough."""
    rows = config.global_batch_size // replicas // config.grad_accum_steps
    if local_replicas * memory.estimate(model).total(rows=rows) <= available():
        return ""
    advice = memory.advice(model, rows=config.global_batch_size, replicas=replicas, grad_accum_steps=config.grad_accum_steps)
    return f"warning: this process can have {memory.text(available())} of memory, and {advice}"


def available() -> int:
    """The most bytes that this process may have: of the machine, of its container, by its own limit."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
        found.append(int(GROUP.read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(found + [limit] * (limit != resource.RLIM_INFINITY))
