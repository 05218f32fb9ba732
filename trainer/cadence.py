"""When something is due: every so many steps, and at the last one.

    every(step, config.log_steps, last)
    next_event(step, config, last)          # where the loop inside the graph must come back to Python
"""
from trainer.config import Config


def every(step: int, interval: int, last: int) -> bool:
    """Whether `step` is due at this interval; the last step always is. Interval 0: never."""
    return interval > 0 and (step % interval == 0 or step == last)


def shown(step: int, config: Config, last: int) -> bool:
    """Whether `step` has summaries: then it is made by itself, with what they show."""
    return every(step, config.summary_steps, last) or every(step, config.histogram_steps, last)


def next_event(step: int, config: Config, last: int) -> int:
    """The step at which the loop must come back to Python: the nearest that something is due at, or the one before a step with
    summaries."""
    intervals = [n for n in (config.log_steps, config.summary_steps, config.histogram_steps, config.checkpoint_steps,
                             config.eval_steps) if n]
    targets = [last, *((step // n + 1) * n for n in intervals), *(k for k in config.profile_steps if k > step)]
    if config.steps_per_loop:
        targets.append(step + config.steps_per_loop)
    nearest = min(targets)
    return nearest - 1 if shown(nearest, config, last) else nearest
