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
from collections.abc import Callable

import tensorflow as tf

from models import memory
from trainer.config import Config, UserError

GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")  # of a container
# A full disk is a ResourceExhaustedError too.
_SAID = (re.compile(r"OOM when allocating tensor with shape\S+ and type \w+", re.IGNORECASE),
         re.compile(r"[^\n]*(out of memory|allocat)[^\n]*", re.IGNORECASE))


@contextlib.contextmanager
def _told(words: Callable[[str], str]):
    """UserError, of what TensorFlow says of memory, where there is none left in here."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        found = next(filter(None, (pattern.search(error.message) for pattern in _SAID)), None)
        if not found:
            raise
        raise UserError(words(f"out of memory ({found[0]})")) from error


def building(config: Config):
    """A context: UserError with numbers and a way out where the weights that are made in it find no memory."""
    return _told(lambda said: f"{said} before the first step: the weights of --model={config.model}, and what training keeps beside "
                 f"them, need more than this process can have ({memory.text(available())}); smaller images, fewer blocks or a "
                 "smaller --model need less")


def named(model, config: Config, *, replicas: int):
    """A context: UserError with numbers and a way out where a step of `model` in it finds no memory."""
    def words(said):
        advice = memory.advice(model, rows=config.global_batch_size, replicas=replicas, grad_accum_steps=config.grad_accum_steps)
        return f"{said}: {advice}; another batch needs another --model_dir"

    return _told(words)


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
