"""The training loop, top to bottom.

    code = train.run(resolve.resolve(flags.parse(sys.argv)))

The order within one turn is the contract of a resume: steps are made inside the graph up to the next event; then the
lines and summaries of the step are written and flushed; only then is its checkpoint published. So whatever a
checkpoint's step has told is in the files, and a restart drops what lies beyond it.
"""
import contextlib
import json
import os
import sys

import numpy as np
import tensorflow as tf

from trainer import capacity, checkpoint, distribution, files, reading, signals, stopping, summaries, transfer, watch, workers
from trainer import start as start_lib
from trainer.cadence import every, next_event, shown
from trainer.experiment import Experiment, write_config
from trainer.inline import InlineEvaluation
from trainer.places import place
from trainer.resolve import Run
from trainer.stopwatch import Stopwatch
from trainer.telling import Telling
from trainer.watchdog import Position, Watchdog
from trainer.writers import Console

DIVERGED = 3  # the exit code
COMPLETE, EARLY_STOP = "complete", "early stop"  # why training ended, in DONE
EVALUATIONS = ("eval_steps", "early_stop_evals")  # what an early stop hangs on


def run(run: Run) -> int:
    """Trains; returns the exit code. UserError for what only the devices, the data or a checkpoint could show."""
    with Watchdog(run.plan, timeout=run.config.hang_timeout_secs) as watchdog:
        try:
            code = _run(run, watchdog)
        except tf.errors.OpError as error:
            if run.plan.workers == 1:
                raise
            watchdog.failed(error)  # and ends here
        watchdog.end(code)
        return code


def _run(run: Run, watchdog: Watchdog) -> int:
    config, chief, folder = run.config, run.plan.is_chief, place(run.config.model_dir)
    stopwatch = Stopwatch()
    with contextlib.ExitStack() as stack:
        starting = stack.enter_context(contextlib.ExitStack())
        starting.enter_context(stopwatch.phase("starting"))
        if run.plan.workers > 1:
            watchdog.gather()
        strategy = distribution.build(config, run.plan)
        workers.meet(strategy, run, watchdog)
        if config.dry_run:
            return start_lib.dry_run(run, strategy)
        if chief:
            stack.enter_context(watch.exclusive(folder / "train" / ".lock", f"another trainer works on {folder}"))
        console = Console(config.progress if chief else "none", sys.stdout)
        with capacity.building(config):
            experiment = Experiment(run, strategy)
        start, how = start_lib.begin(experiment, run)
        workers.agree(strategy, run.plan, start, model_dir=config.model_dir)
        replicas, local = strategy.num_replicas_in_sync, run.plan.replicas // run.plan.workers
        short = run.plan.kind == "CPU" and capacity.warning(experiment.model, config, local_replicas=local, replicas=replicas)
        for line in [*run.info.notes, *distribution.describe(strategy, config, run.plan), summaries.layer_table(experiment.model), how,
                     *filter(None, [transfer.stages(config), short])]:
            console.message(line)
        if chief:
            write_config(config, run.info)
        if workers.Workers(strategy, run.plan).chief_says(lambda: bool(over(config, start))):
            console.message(f"nothing to do: {folder} is done at step {start} ({over(config, start)})")
            return 0
        if chief:  # it goes on: who waits for the end must not take that of before for it
            with files.writing(folder / "DONE"):
                (folder / "DONE").unlink(missing_ok=True)
        trainer, batches = Trainer(run, experiment, start, console, stopwatch), experiment.batches(start)
        watchdog.look, trainer.telling.slowest = trainer.position, watchdog.slowest
        starting.close()
        with reading.named(experiment.source, seed=config.seed, batch_size=config.global_batch_size,
                           step=lambda: int(experiment.state.step)), \
                capacity.named(experiment.model, config, replicas=replicas):
            return trainer.train(batches)


def write_done(config, step: int, why: str) -> None:
    """DONE: training ended, for this number of steps and these evaluations."""
    facts = {"step": step, "train_steps": config.train_steps, "why": why, **{name: getattr(config, name) for name in EVALUATIONS}}
    watch.write_whole(place(config.model_dir, "DONE"), json.dumps(facts) + "\n")


def over(config, step: int) -> str:
    """Why a run that would go on from `step` has nothing to do; "" where it has."""
    done = watch.done(config.model_dir)
    if done is None:
        return ""
    # Another patience, or other evaluations, would perhaps not have stopped it.
    stopped = done["why"] == EARLY_STOP and all(done.get(name) == getattr(config, name) for name in EVALUATIONS)
    return done["why"] if step >= (done["step"] if stopped else config.train_steps) else ""


def largest(names: list[str], squares: np.ndarray) -> str:
    """Which variable has the largest gradient, and its norm: of one that is not finite, if there is one."""
    k = int(np.argmax(squares))  # a NaN, if there is one
    return f"{names[k]}, " + (f"of norm {squares[k] ** 0.5:g}" if np.isfinite(squares[k]) else "not finite")


class Trainer:
    """One process's training from step `start` to the end."""

    def __init__(self, run: Run, experiment: Experiment, start: int, console: Console, stopwatch: Stopwatch):
        self.run, self.config, self.experiment, self.console = run, run.config, experiment, console
        self.stopwatch, self.start, self.chief = stopwatch, start, run.plan.is_chief
        folder = place(self.config.model_dir)
        self.telling = Telling(run, experiment, console, stopwatch, start=start)
        self.keeper = checkpoint.Checkpointer(
            folder / "checkpoints", experiment.state.variables(), keep=self.config.keep_checkpoints,
            protected=lambda old: watch.protected(folder, old, best=experiment.task.best),
            before=self.telling.settle) if self.chief else None
        self.inline = InlineEvaluation(run, experiment, say=console.message)

    def position(self) -> Position:
        """Where this process is, for the thread that looks after it."""
        phase, place = self.stopwatch.current, self.experiment.loop.place
        if phase == "compiling" and place in ("other", "updating"):  # this call has not come to a step
            place = phase
        return Position(step=int(self.experiment.state.step), place=place if phase in ("compiling", "training") else phase,
                        compiling=phase == "compiling", count=self.inline.batches)

    def train(self, batches) -> int:
        """The loop. batches: the iterator from the first step's on. Returns the exit code."""
        config, step, last = self.config, self.start, self.config.train_steps
        loop = self.experiment.loop
        compiled = set()  # which of the two forms of the step were traced and compiled by their first call
        self.stopwatch.begin(0, 0)
        self.stopping = stopping.Stopping(self.experiment, self.keeper, start=step, alone=self.run.plan.workers == 1,
                                          say=self.console.message)
        # 0. What an earlier process was killed before: the evaluation of the step that it saved, and the end.
        enough = step > 0 and self._evaluate(step)
        while step < last and not enough:
            # 1. Steps, inside the graph, up to the next event; one observed step where summaries are due.
            observe = shown(step + 1, config, last)
            until = step + 1 if observe or not compiled else next_event(step, config, last)
            with self.stopwatch.phase("training" if observe in compiled else "compiling"), self.stopping.allowed(below=until):
                metrics = loop.observe(batches) if observe else loop.run(batches, until)
                metrics["losses"] = metrics["losses"].numpy()  # waits for the devices
            before, step, diverged = step, int(metrics["step"]), bool(metrics["diverged"])
            if observe in compiled:
                self.telling.count(step - before, waited=float(metrics["waited"]))
            compiled.add(observe)
            # 2. What there is to tell of it, before its checkpoint is published.
            if every(step, config.log_steps, last) or diverged:
                self.telling.line(step, metrics)
            if observe:
                with self.stopwatch.phase("summaries"):
                    self.telling.summaries(step, metrics)
            # 3. A run that diverged leaves the last good checkpoint as it is.
            if diverged:
                return self._diverged(step, metrics)
            # 4. The checkpoint of this step; an evaluation's step has one, so that the best can be kept.
            stop = bool(metrics["stop"])
            if every(step, config.checkpoint_steps, last) or every(step, config.eval_steps, last) or step == last or stop:
                self._save(step)
            if stop:
                return self._stop(step)
            # 5. Evaluation inside the trainer.
            enough = self._evaluate(step)
            if step in config.profile_steps and self.chief:
                self._profile(start=step == config.profile_steps[0])
        return self._finish(step, EARLY_STOP if step < last else COMPLETE)

    def _evaluate(self, step: int) -> bool:
        """Evaluates this step if that is due; whether --early_stop_evals says that it is enough."""
        if not every(step, self.config.eval_steps, self.config.train_steps):
            return False
        with self.stopwatch.phase("evaluating"), self.stopping.allowed(below=step + 1):
            return self.inline.run(step)

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
        names = [variable.path for variable in self.experiment.model.trainable_variables]
        print(f"trainer: diverged at step {step}: loss = {metrics['losses'][-1]:g}, largest gradient "
              f"{largest(names, metrics['gradient_squares'].numpy())}; more than "
              f"--max_skipped_steps={self.config.max_skipped_steps} steps in a row were not finite. The last good "
              "checkpoint is untouched; lower --learning_rate, or give --clip_norm", file=sys.stderr)
        self._close()
        return DIVERGED

    def _stop(self, step: int) -> int:
        self._close()
        self.console.message(stopping.message(step))
        return signals.exit_code()

    def _finish(self, step: int, why: str) -> int:
        self._close()
        self.console.close()
        if self.chief:
            write_done(self.config, step, why)
        self.stopping.over()
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
        self.telling.close()
