"""What a step tells: a line in train/metrics.jsonl and on the console, and TensorBoard's summaries.

    telling = Telling(run, experiment, console, stopwatch, start=step)
    telling.count(10, waited=0.5)            # steps whose time counts, seconds that they had no data
    telling.line(10, metrics)
    telling.summaries(10, metrics)
"""
import datetime
import hashlib

from trainer import summaries
from trainer.cadence import every
from trainer.events import Events
from trainer.experiment import Experiment
from trainer.places import place
from trainer.resolve import Run
from trainer.stopwatch import Stopwatch
from trainer.writers import Console, JsonLines, console_line, duration

FLUSH_SECS = 30  # at most until lines and summaries can be seen at gs://; before a checkpoint is published they are there


class Telling:
    """One process's: every worker's console has the lines, the chief also writes files, from which it drops what lies
    beyond step `start`. metrics: of a step, as InnerLoop returns them."""

    def __init__(self, run: Run, experiment: Experiment, console: Console, stopwatch: Stopwatch, *, start: int):
        self._config, self._chief, self._experiment = run.config, run.plan.is_chief, experiment
        self._console, self._stopwatch = console, stopwatch
        self._timed = self._told_timed = 0
        self._waited = 0.0
        self._rates = {}  # of the last line, for the summaries
        self.slowest = lambda: ""  # which worker the others wait for
        folder = place(run.config.model_dir, "train")
        self._metrics = JsonLines(folder / "metrics.jsonl", flush_secs=FLUSH_SECS)
        if self._chief:
            self._metrics.drop_after(start)
            self._events = Events(str(folder), flush_secs=FLUSH_SECS)
            self._events.restart(start)
            summaries.start(self._events, start, experiment.model, vars(run.config),
                            summaries.layer_table(experiment.model))

    def count(self, steps: int, *, waited: float) -> None:
        """Steps that rates are of (those of a first call, which compiles, are not), and the seconds they had no data."""
        self._timed += steps
        self._waited += waited

    def line(self, step: int, metrics: dict) -> None:
        """The line of `step`, with the rates since the last one."""
        config, task, losses = self._config, self._experiment.task, metrics["losses"]
        examples, seconds = self._stopwatch.rate(self._timed, self._timed * config.global_batch_size)
        timed, waited = self._timed - self._told_timed, self._waited
        self._told_timed, self._waited = self._timed, 0.0
        means = dict.fromkeys(task.train_metrics, 0.0) | self._running_means(metrics)
        fraction = min(1.0, waited / (seconds * timed)) if timed else 0.0
        self._rates = {"examples_per_second": examples, "data_wait_fraction": fraction}
        skipped = int(metrics["skipped"])
        if self._chief:
            self._metrics.append({
                "step": step, "loss": float(losses[-1]), task.loss_name: float(losses[0]), **means,
                "learning_rate": float(metrics["rate"]), **self._rates, "gradient_norm": float(metrics["gradient_norm"]),
                "skipped_steps": skipped,
                "batch_digest": hashlib.sha256(metrics["indices"].numpy().astype("<i8").tobytes()).hexdigest()[:16]})
        eta = duration(self._stopwatch.eta(step, config.train_steps))
        shown = ", ".join(f"{name.replace('_at_', ' @ ')} = {value:.3f}" for name, value in means.items())
        extra = f"{shown}; data wait {100 * fraction:.0f} %; {eta} left"
        slowest = self.slowest()
        if slowest:
            extra += f"; {slowest}"
        if skipped:
            extra += f"; {skipped} skipped as not finite"
        loss = float(losses[-1])
        self._console.log(console_line(datetime.datetime.now(), step, loss, examples, seconds, extra), step,
                          config.train_steps, f"loss {loss:.4g}, {shown}, {examples:.0f} examples/s, {eta} left")

    def summaries(self, step: int, metrics: dict) -> None:
        """TensorBoard's summaries of an observed step."""
        if not self._chief:
            return
        config, events = self._config, self._events
        if every(step, config.summary_steps, config.train_steps):
            values = {"learning_rate": metrics["rate"], "gradient_norm": metrics["gradient_norm"],
                      "skipped_steps": metrics["skipped"]}
            for name, value, average in zip(self._experiment.loss_names, metrics["losses"], metrics["loss_averages"].numpy()):
                values |= {name: value, f"{name}/average": average}
            events.scalars(step, values | self._running_means(metrics) | self._rates)
            if "images" in metrics["extras"]:
                events.images(step, "images", summaries.displayable(metrics["extras"]["images"].numpy()))
        if every(step, config.histogram_steps, config.train_steps):
            summaries.histograms(events, step, metrics, self._experiment.model)
        events.flush()

    def settle(self) -> None:
        """What was told so far is in the files, whoever reads them. Any thread may call."""
        if self._chief:
            self._metrics.flush()
            self._events.settle()

    def close(self) -> None:
        """Everything is in the files."""
        if self._chief:
            self._metrics.flush()
            self._events.close()

    def _running_means(self, metrics: dict) -> dict[str, float]:
        """The task's metrics over the epoch so far; none as long as all its steps were skipped."""
        *sums, count = metrics["epoch_sums"].numpy()
        names = self._experiment.task.train_metrics
        return {name: float(value / count) for name, value in zip(names, sums)} if count else {}
