"""Many steps in one call into TensorFlow: the loop inside the graph.

    loop = InnerLoop(step, state, model, max_skipped_steps=10)
    metrics = loop.run(iterator, until=1000)      # ends early on a signal, or after too many skipped steps
    metrics = loop.observe(iterator)              # one step that also returns activations and gradients

Two traces for an iterator: the plain loop, and one step with what the summaries show.
"""
import time

import keras
import tensorflow as tf

from trainer import summaries
from trainer.state import State
from trainer.step import PLACES, Step, at

KEPT = ("losses", "gradient_squares", "gradient_norm", "rate", "indices", "stop")  # of the last step's metrics


class InnerLoop:
    """traces: how often Python traced a step, for the law that this happens once (twice with summaries)."""

    def __init__(self, step: Step, state: State, model: keras.Model, *, max_skipped_steps: int,
                 deterministic: bool):
        self._step, self._state, self._max_skipped = step, state, max_skipped_steps
        self._clock = _python_clock if deterministic else tf.timestamp
        self._plain = lambda images: (model(images, training=True), ())
        self._observed = summaries.observed(model)
        self.traces = {"step": 0, "summaries": 0}
        self._iterator, self._traced = None, {}

    def run(self, iterator, until: int) -> dict:
        """Steps until `state.step` is `until`; the last step's metrics, and `waited`, seconds without data. `step`, `skipped`,
        `epoch_sums`, `loss_averages`: the state's after it. `diverged`: whether that is why it ended."""
        return self._function(iterator, observed=False)(tf.constant(until, tf.int64))

    def observe(self, iterator) -> dict:
        """One step; as `run`, with `extras` and `gradients`."""
        return self._function(iterator, observed=True)()

    def trace(self, iterator, *, observed: bool) -> tf.Graph:
        """Traces `run`, or `observe`, for the iterator's batches without running it; its graph."""
        return self._function(iterator, observed=observed).graph

    def _function(self, iterator, *, observed: bool):
        """The traced loop over `iterator`. It holds the iterator: an argument of this kind TensorFlow looks at for a millisecond
        in every call."""
        if iterator is not self._iterator:
            self._iterator, self._traced = iterator, {}
        if observed not in self._traced:
            function, signature = (self._single, ()) if observed else (self._loop, (tf.TensorSpec([], tf.int64),))
            traced = tf.function(lambda *until: function(iterator, *until), autograph=False)
            self._traced[observed] = traced.get_concrete_function(*signature)
        return self._traced[observed]

    @property
    def diverged(self) -> bool:
        """Whether more steps in a row were not finite than are allowed."""
        return bool(self._too_many_skipped())

    @property
    def place(self) -> str:
        """For another thread: where in a step the loop is, one of step.PLACES."""
        return PLACES[int(self._step.place)]

    def still(self, step: int) -> bool:
        """For another thread: whether what it read since it read `step` from the state is of that one moment."""
        return not bool(self._step.writing) and int(self._state.step) == step

    def _loop(self, iterator, until):
        self.traces["step"] += 1
        state = self._state

        def more(last, _):
            return (state.step < until) & ~last["stop"] & ~self._too_many_skipped()

        def body(_, waited):
            batch, seconds = self._next(iterator)
            metrics = self._step(batch, self._plain)
            return {name: metrics[name] for name in KEPT}, waited + seconds

        losses, batch_size = len(self._step.loss_names), self._step.batch_size
        none = {"losses": tf.zeros([losses]), "gradient_squares": tf.zeros([self._step.variables]),
                "gradient_norm": tf.zeros([]), "rate": tf.zeros([]), "indices": tf.zeros([batch_size], tf.int64),
                "stop": tf.constant(False)}
        metrics, waited = tf.while_loop(more, body, [none, tf.constant(0.0, tf.float64)], parallel_iterations=1)
        return {**metrics, **self._after(), "waited": waited}

    def _single(self, iterator):
        self.traces["summaries"] += 1
        batch, waited = self._next(iterator)
        return {**self._step(batch, self._observed), **self._after(), "waited": waited}

    def _after(self):
        """What the state has to tell after the last step: read in the same call, as each read from Python takes its time."""
        state = self._state
        return {"step": state.step.read_value(), "skipped": state.skipped.read_value(), "epoch_sums": state.epoch_sums.read_value(),
                "loss_averages": state.loss_averages.read_value(), "diverged": self._too_many_skipped()}

    def _too_many_skipped(self) -> tf.Tensor:
        return self._state.skipped_in_row.read_value() > self._max_skipped

    def _next(self, iterator):
        """(the next batch, seconds that it took to come)."""
        start = self._clock()
        with tf.control_dependencies([start, at(self._step.place, "data")]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            end = self._clock()
            computing = at(self._step.place, "computing")
        # Else a thread that has the whole step to run may read the clock behind it.
        with tf.control_dependencies([end, computing]):
            return tf.nest.map_structure(_same, batch, expand_composites=True), end - start


def _same(part: tf.Tensor) -> tf.Tensor:
    """The tensor, on its own device, as an operation that can wait for others."""
    with tf.device(part.device):
        return tf.identity(part)


def _python_clock():
    """tf.timestamp refuses to run where operations must be deterministic; nothing computed depends on this one."""
    seconds = tf.numpy_function(time.monotonic, [], tf.float64)
    return tf.ensure_shape(seconds, [])
