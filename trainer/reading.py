"""An example that turns out to be unreadable in the middle of a run: named, code 2; what was saved stays.

    with reading.named(source, seed=0, batch_size=128, step=lambda: int(state.step)):
        metrics = loop.run(batches, until)
"""
import contextlib
from collections.abc import Callable

from input_pipeline import pipeline
from trainer.config import UserError


@contextlib.contextmanager
def named(source, *, seed: int = 0, batch_size: int = 0, step: Callable[[], int] | None = None):
    """UserError with the path and the reason where an example of `source` stops what is done in here.

    step: the number of completed steps, whose next batch, of this seed and size, it is; None: an evaluation of them all.
    """
    try:
        yield
    except pipeline.READ_ERRORS as error:
        found = pipeline.unreadable(source, seed=seed, batch_size=batch_size, step=step and step())
        if found is None:
            raise  # it was something else
        raise UserError(f"{found}; repair or remove it, then give the same command again: what was saved stays") from error
