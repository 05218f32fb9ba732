"""The training loop, top to bottom.

    code = train.run(resolve.resolve(flags.parse(sys.argv)))

The order within one turn is the contract of a resume: steps are made inside the graph up to the next event; then the
lines and summaries of the step are written and flushed; only then is its checkpoint published. So whatever a
checkpoint's step has told is in the files, and a restart drops what lies beyond it.
"""
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import sys

import tensorflow as tf

from trainer import checkpoint, distribution, signals, summaries, watch
from trainer import start as start_lib
from trainer.events import Events
from trainer.experiment import Experiment, write_config
from trainer.inline import InlineEvaluation
from trainer.resolve import Run
from trainer.stopwatch import Stopwatch
from trainer.writers import Console, JsonLines, console_line, duration

DIVERGED = 3  # the exit code
COMPLETE, EARLY_STOP = "complete", "early stop"  # why training ended, in DONE


def every(step: int, interval: int, last: int) -> bool:
    """Whether `step` is due at this interval; the last step always is. Interval 0: never."""
    return interval > 0 and (step % interval == 0 or step == last)


def next_event(step: int, config, last: int) -> int:
    """The step at which the loop must come back to Python: the nearest that something is due at."""
    intervals = [n for n in (config.log_steps, config.summary_steps, config.histogram_steps, config.checkpoint_steps,
                             config.eval_steps) if n]
    targets = [last, *((step // n + 1) * n for n in intervals), *(k for k in config.profile_steps if k > step)]
    if config.steps_per_loop:
        targets.append(step + config.steps_per_loop)
    return min(targets)


def run(run: Run) -> int:
    """Trains; returns the exit code. UserError for what only the devices, the data or a checkpoint could show."""
    config, chief, folder = run.config, run.plan.is_chief, pathlib.Path(run.config.model_dir)
    stopwatch = Stopwatch()
    with contextlib.ExitStack() as stack:
        starting = stack.enter_context(contextlib.ExitStack())
        starting.enter_context(stopwatch.phase("starting"))
        strategy = distribution.build(config, run.plan)
        if config.dry_run:
            return start_lib.dry_run(run, strategy)
        if chief:
            (folder / "train").mkdir(parents=True, exist_ok=True)
            stack.enter_context(watch.exclusive(folder / "train" / ".lock", f"another trainer works on {folder}"))
        console = Console(config.progress if chief else "none", sys.stdout)
        experiment = Experiment(run, strategy)
        start, how = start_lib.begin(experiment, run)
        for line in [*distribution.describe(strategy, config, run.plan), summaries.layer_table(experiment.model), how]:
            console.message(line)
        if chief:
            write_config(config, run.info)
        done = watch.done(folder)
        if done and start >= (config.train_steps if done["why"] == COMPLETE or not config.early_stop_evals
                              else done["step"]):
            console.message(f"nothing to do: {folder} is done at step {start} ({done['why']})")
            return 0
        trainer, batches = Trainer(run, experiment, start, console, stopwatch), experiment.batches(start)
        starting.close()
        return trainer.train(batches)


def write_done(config, step: int, why: str) -> None:
    """DONE: training ended, for this number of steps."""
    watch.write_whole(pathlib.Path(config.model_dir, "DONE"),
                      json.dumps({"step": step, "train_steps": config.train_steps, "why": why}) + "\n")


class Trainer:
    """One process's training from step `start` to the end."""

    def __init__(self, run: Run, experiment: Experiment, start: int, console: Console, stopwatch: Stopwatch):
        self.run, self.config, self.experiment, self.console = run, run.config, experiment, console
        self.state, self.stopwatch, self.start = experiment.state, stopwatch, start
        self.chief = run.plan.is_chief
        folder = pathlib.Path(self.config.model_dir)
        self.metrics = JsonLines(folder / "train" / "metrics.jsonl")
        self.keeper = checkpoint.Checkpointer(
            folder / "checkpoints", self.state.variables(), keep=self.config.keep_checkpoints,
            protected=lambda old: watch.protected(folder, old)) if self.chief else None
        self.events = self._open_files(folder, start) if self.chief else None
        self.inline = InlineEvaluation(run, experiment, say=console.message)
        self.timed = 0
        self.told = {}  # the rates of the last line, for the summaries

    def _open_files(self, folder: pathlib.Path, start: int) -> Events:
        """Drops the lines beyond `start` and opens this process's event file."""
        if os.path.exists(self.metrics.path):
            self.metrics.drop_after(start)
        events = Events(str(folder / "train"))
        events.restart(start)
        summaries.start(events, start, self.experiment.model, vars(self.config),
                        summaries.layer_table(self.experiment.model))
        return events

    def train(self, batches) -> int:
        """The loop. batches: the iterator from the first step's on. Returns the exit code."""
        config, step, last = self.config, self.start, self.config.train_steps

        def shown(at: int) -> bool:
            return every(at, config.summary_steps, last) or every(at, config.histogram_steps, last)

        compiled = set()  # which of the two forms of the step were traced and compiled by their first call
        timed = 0  # steps made by later calls: what rates are of
        waited = 0.0
        self.stopwatch.begin(0, 0)
        signals.on_signal(self._on_signal)
        # 0. What an earlier process was killed before: the evaluation of the step that it saved, and the end.
        enough = step > 0 and every(step, config.eval_steps, last) and self.inline.run(step)
        if step >= last or enough:
            return self._finish(step, COMPLETE if step >= last else EARLY_STOP)
        while True:
            # 1. Steps, inside the graph, up to the next event; one observed step where summaries are due.
            observe = shown(step + 1)
            with self.stopwatch.phase("training" if observe in compiled else "compiling"):
                if observe:
                    metrics = self.experiment.loop.observe(batches)
                else:
                    until = next_event(step, config, last) if compiled else step + 1
                    metrics = self.experiment.loop.run(batches, until - 1 if shown(until) else until)
                metrics["losses"] = metrics["losses"].numpy()  # waits for the devices
                before, step = step, int(self.state.step.numpy())
            if observe in compiled:
                timed += step - before
                waited += float(metrics["waited"])
            compiled.add(observe)
            # 2. What there is to tell of it, before its checkpoint is published.
            diverged = int(self.state.skipped_in_row.numpy()) > config.max_skipped_steps
            stopping = bool(metrics["stop"])
            if every(step, config.log_steps, last) or diverged:
                self._log(step, metrics, timed, waited)
                timed = waited = 0
            if observe and self.chief:
                with self.stopwatch.phase("summaries"):
                    self._summarize(step, metrics)
            # 3. A run that diverged leaves the last good checkpoint as it is.
            if diverged:
                return self._diverged(step, metrics)
            # 4. The checkpoint of this step; an evaluation's step has one, so that the best can be kept.
            evaluate = every(step, config.eval_steps, last)
            if every(step, config.checkpoint_steps, last) or step == last or stopping or evaluate:
                self._save(step)
            if stopping:
                return self._stop(step)
            # 5. Evaluation inside the trainer.
            with self.stopwatch.phase("evaluating"):
                enough = evaluate and self.inline.run(step)
            if step in config.profile_steps and self.chief:
                self._profile(start=step == config.profile_steps[0])
            if step == last or enough:
                return self._finish(step, COMPLETE if step == last else EARLY_STOP)

    def _on_signal(self, number: int) -> None:
        """In the watching thread: before this process's first step there is nothing to save."""
        if int(self.state.step.numpy()) == self.start:
            signals.leave(number)
        self.experiment.stop.assign(True)

    def _log(self, step: int, metrics: dict, timed: int, waited: float) -> None:
        """timed, waited: steps since the last line whose time counts, and how long they had no data."""
        config, losses = self.config, metrics["losses"]
        self.timed += timed
        examples, seconds = self.stopwatch.rate(self.timed, self.timed * config.global_batch_size)
        sums = self.state.epoch_sums.numpy()
        means = {name: float(value / sums[-1]) if sums[-1] else 0.0
                 for name, value in zip(self.experiment.task.train_metrics, sums)}
        fraction = min(1.0, waited / (seconds * timed)) if timed else 0.0
        self.told = {"examples_per_second": examples, "data_wait_fraction": fraction}
        line = {"step": step, "loss": float(losses[-1]), self.experiment.task.loss_name: float(losses[0]), **means,
                "learning_rate": float(metrics["rate"]), **self.told, "gradient_norm": float(metrics["gradient_norm"]),
                "skipped_steps": int(self.state.skipped.numpy()),
                "batch_digest": hashlib.sha256(metrics["indices"].numpy().astype("<i8").tobytes()).hexdigest()[:16]}
        if self.chief:
            self.metrics.append(line)
        eta = duration(self.stopwatch.eta(step, config.train_steps))
        shown = ", ".join(f"{name.replace('_at_', ' @ ')} = {value:.3f}" for name, value in means.items())
        extra = f"{shown}; data wait {100 * fraction:.0f} %; {eta} left"
        if line["skipped_steps"]:
            extra += f"; {line['skipped_steps']} skipped as not finite"
        text = console_line(datetime.datetime.now(), step, line["loss"], examples, seconds, extra)
        self.console.log(text, step, config.train_steps,
                         f"loss {line['loss']:.4g}, {shown}, {examples:.0f} examples/s, {eta} left")

    def _summarize(self, step: int, metrics: dict) -> None:
        config, events = self.config, self.events
        if every(step, config.summary_steps, config.train_steps):
            averages = self.state.loss_averages.numpy()
            values = {"learning_rate": metrics["rate"], "gradient_norm": metrics["gradient_norm"],
                      "skipped_steps": self.state.skipped.numpy()}
            for name, value, average in zip(self.experiment.loss_names, metrics["losses"], averages):
                values |= {name: value, f"{name}/average": average}
            sums = self.state.epoch_sums.numpy()
            values |= {name: value / sums[-1] for name, value in zip(self.experiment.task.train_metrics, sums)
                       if sums[-1]}
            events.scalars(step, values | self.told)
            events.images(step, "images", summaries.displayable(metrics["extras"]["images"].numpy()))
        if every(step, config.histogram_steps, config.train_steps):
            summaries.histograms(events, step, metrics, self.experiment.model)
        events.flush()

    def _profile(self, *, start: bool) -> None:
        """Starts or ends TensorFlow's profiler, whose trace TensorBoard shows with its profile plugin."""
        if start:
            tf.profiler.experimental.start(os.path.join(self.config.model_dir, "train"))
        elif self.start < self.config.profile_steps[0]:
            tf.profiler.experimental.stop()

    def _save(self, step: int) -> None:
        if self.chief and self.keeper.last_saved != step:
            with self.stopwatch.phase("saving"):
                self.keeper.save(step)

    def _diverged(self, step: int, metrics: dict) -> int:
        print(f"trainer: diverged at step {step}: loss = {metrics['losses'][-1]:g}, gradient norm = "
              f"{float(metrics['gradient_norm']):g}; more than --max_skipped_steps={self.config.max_skipped_steps} steps "
              "in a row were not finite. The last good checkpoint is untouched; lower --learning_rate, or give "
              "--clip_norm", file=sys.stderr)
        self._close()
        return DIVERGED

    def _stop(self, step: int) -> int:
        self._close()
        self.console.message(f"signal {signals.received()}: saved step {step}; the same command goes on from there")
        return signals.exit_code()

    def _finish(self, step: int, why: str) -> int:
        self._close()
        self.console.close()
        if self.chief:
            write_done(self.config, step, why)
        self.console.message(self.stopwatch.report())
        self.console.message(f"traces: step {self.experiment.loop.traces['step']}, step with summaries "
                             f"{self.experiment.loop.traces['summaries']}, evaluation "
                             f"{self.inline.traces}")
        self.console.message(f"done: step {step} ({why}); see it with: tensorboard --logdir={self.config.model_dir}")
        return 0

    def _close(self) -> None:
        """Everything written and published."""
        if self.chief:
            with self.stopwatch.phase("saving"):
                self.keeper.wait()
            self.events.close()
