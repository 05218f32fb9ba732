"""The evaluation command: `python -m trainer.evaluator --model_dir=M`, a process of its own beside the trainer.

Evaluates every published checkpoint exactly once, in order, with the moving averages and with the raw weights, on the
CPU (so that it never takes the trainer's device memory), until training is done and nothing is left.
"""
from trainer import signals

if __name__ == "__main__":
    signals.install()  # any signal ends it at once: every file it writes is whole or absent

import contextlib
import functools
import os
import sys
import time

from absl import flags

from input_pipeline import command_line, datasets
from input_pipeline.rules import NotYet
from trainer import files, manifest, resolve, restored, watch
from trainer.config import UserError, data_options
from trainer.places import place
from trainer.recorded import check_data
from trainer.writers import duration

SPLITS = ("test", "validation", "train")
SAY_FIRST_SECS = 60  # without a new checkpoint, until it is said that no trainer runs,
SAY_AGAIN_SECS = 600  # and how often a wait in vain is said


def define() -> flags.FlagValues:
    """This command's flags."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "the run to evaluate", flag_values=values)
    flags.DEFINE_enum("split", "test", SPLITS, "the examples to evaluate on (validation where it is not given and the data has "
                      "none for tests)", flag_values=values)
    flags.DEFINE_float("poll_secs", 5, "seconds between looks for a new checkpoint", lower_bound=0.01,
                       upper_bound=86400, flag_values=values)
    flags.DEFINE_float("timeout_secs", 0, "end after so many seconds without a new checkpoint (0: wait for ever)",
                       lower_bound=0, upper_bound=1e9, flag_values=values)
    flags.DEFINE_bool("run_once", False, "evaluate what there is now, then end", flag_values=values)
    flags.DEFINE_string("data_dir", None, "another place for the data (default: the run's)", flag_values=values)
    return values


def main(argv: list[str]) -> int:
    """Evaluates until training is done. Returns the exit code: 0, 2, 130 or 143."""
    return command_line.run(argv, define(), start, name="evaluator", doc=__doc__)


def start(values: flags.FlagValues, _: list[str]) -> int:
    """Watches as the flags say."""
    if not values.model_dir:
        raise UserError("--model_dir must name the run to evaluate, such as --model_dir=runs/digits")
    for name in "model_dir", "data_dir":
        values[name].value = values[name].value and os.path.expanduser(values[name].value)  # as the trainer does
    files.check(values.model_dir, "model_dir", write=True)
    recorded = resolve.read_recorded(values.model_dir)
    if values.run_once and recorded is None:
        raise UserError(f"--model_dir={values.model_dir} has no config.json: no run was started there; give another")
    watcher = Watcher(values)
    with watcher.held:
        return watcher.watch()


class Watcher:
    """Follows one run. clock: seconds; sleep: waits so many."""

    def __init__(self, values: flags.FlagValues, clock=time.monotonic, sleep=time.sleep):
        self.flags, self.clock, self.sleep = values, clock, sleep
        self.folder = place(values.model_dir, "checkpoints")
        self.evaluation, self.announced = None, values.run_once
        self.complaints: set[str] = set()
        self.held = contextlib.ExitStack()  # the ledger's lock, once there is something to evaluate

    def watch(self) -> int:
        """Evaluates what is published, again and again. Returns 0 when nothing more can come."""
        ends = "after one look" if self.flags.run_once else "when training is done" + (
            f", or after {self.flags.timeout_secs:g} s without a new checkpoint" if self.flags.timeout_secs else "")
        print(f"evaluator: watches {self.folder} every {self.flags.poll_secs:g} s, split {self.flags.split}; ends {ends}",
              flush=True)
        since = self.clock()
        say_at = since + SAY_FIRST_SECS
        while True:
            # DONE is read before the folder: what was published before it is then seen for certain.
            done = watch.done(self.flags.model_dir, self.complain)
            started = resolve.read_recorded(self.flags.model_dir) is not None
            if started and not self.announced:  # before TensorFlow is imported: the first checkpoints must wait for that
                self.data  # what could never be evaluated must not wait
                watch.Ledger(self.flags.model_dir, self.flags.split).announce()
                self.announced = True
            if started and self.evaluate_pending():
                since = self.clock()
                say_at = since + SAY_FIRST_SECS
                continue
            if self.flags.run_once or done and self.is_over():
                self.say_end(done)
                return 0
            now = self.clock()
            if self.flags.timeout_secs and now - since > self.flags.timeout_secs:
                print(f"evaluator: no new checkpoint for {now - since:.0f} s (--timeout_secs={self.flags.timeout_secs:g})")
                return 0
            if now >= say_at and self.say_waiting(now - since):
                say_at = now + SAY_AGAIN_SECS
            self.sleep(self.flags.poll_secs)

    def is_over(self) -> bool:
        """Whether DONE is there still, and no trainer that goes on from it."""
        return watch.done(self.flags.model_dir) is not None and not watch.trains(self.flags.model_dir)

    @functools.cached_property
    def data(self) -> tuple:
        """The run's configuration, and its data set's facts. UserError: the data or the split are not there."""
        recorded = resolve.read_recorded(self.flags.model_dir)
        config = restored.settings(recorded, self.flags.model_dir,
                                   data_dir=self.flags.data_dir or recorded["data_dir"])
        try:
            info = datasets.describe(config.dataset, config.data_dir, **data_options(config))
            if not self.flags["split"].present and info.reported_split != self.flags.split:
                self.flags.split = info.reported_split
                print(f"evaluator: the data has no test examples: split {self.flags.split}", flush=True)
            datasets.check_split(info, self.flags.split)
            check_data(self.flags.model_dir, info, trains=False)
        except (ValueError, OSError) as error:
            raise UserError(f"--data_dir={config.data_dir}: {error}") from None
        return config, info

    def complain(self, text: str) -> None:
        """Says on stderr what is wrong, once."""
        if text not in self.complaints:
            self.complaints.add(text)
            print(f"evaluator: {text}", file=sys.stderr, flush=True)

    def say_waiting(self, waited: float) -> bool:
        """Says that nothing has come for `waited` seconds, at once where no trainer runs; whether there was a reason to."""
        trains = watch.trains(self.flags.model_dir)
        if trains and waited < SAY_AGAIN_SECS:
            return False
        newest = watch.newest(self.flags.model_dir)
        last = f"the last checkpoint, step {newest[0]}, is {duration(newest[1])} old" if newest else "there is no checkpoint"
        print(f"evaluator: nothing has come for {duration(waited)}, and training is not done: "
              f"{'a' if trains else 'no'} trainer runs in {self.flags.model_dir}; {last}", flush=True)
        return True

    def evaluate_pending(self) -> bool:
        """Evaluates the published checkpoints that have no result, in order; whether there were any."""
        if self.evaluation is None and not manifest.published(self.folder):
            return False
        if self.evaluation is None:
            self.build()
        pending = self.ledger.pending(manifest.published(self.folder))
        for step in pending[:1]:  # then look again: newer ones may have come, and older ones gone
            self.evaluate(step)
        return bool(pending)

    def build(self) -> None:
        """Takes the ledger's lock for good, imports TensorFlow, builds the network."""
        config, info = self.data
        self.held.enter_context(watch.Ledger(self.flags.model_dir, self.flags.split).lock())
        strategy = restored.strategy(config)
        from trainer import experiment, task
        from trainer.report import Reporter
        self.evaluation = experiment.evaluation(config, info, strategy, self.flags.split)
        self.ledger = watch.Ledger(self.flags.model_dir, self.flags.split,
                                   best=task.build(config, info).best)
        self.ledger.announce()
        self.ledger.write_best()  # a kill may have come before it
        self.reporter = Reporter(self.ledger, lambda line: print(line, flush=True))
        if not self.ledger.settled():
            images = self.evaluation.first_images()
            if images is not None:
                self.reporter.images(0, images)

    def evaluate(self, step: int) -> None:
        """One result or one recorded reason for `step`."""
        wrong = manifest.damage(self.folder, step)
        if not wrong:
            try:
                kinds = restored.weights(self.folder, step)
            except Exception as error:  # TensorFlow raises several kinds; the trainer may have retired it meanwhile
                wrong = manifest.damage(self.folder, step)
                # But the service, or this machine's disk or memory: another look may succeed.
                if not wrong and isinstance(error, UserError):
                    raise
                if not wrong and isinstance(error, (OSError, MemoryError)):
                    raise NotYet(f"checkpoint {step} cannot be read: {error or type(error).__name__}; see to that, then give the "
                                 "same command again") from error
                wrong = wrong or f"{type(error).__name__}: {error}"
        if wrong:
            if step not in manifest.published(self.folder):
                wrong = "retired by the trainer before it was evaluated"
            self.ledger.skip(step, wrong)
            print(f"evaluator: step {step} is left out: {wrong}", flush=True)
            return
        results = self.evaluation.run_kinds(kinds)
        if not self.reporter.report(step, results):
            print(f"evaluator: step {step} is left out: {self.ledger.folder} has it already", flush=True)

    def say_end(self, done: dict | None) -> None:
        """The last lines: why it ends, and the best checkpoint."""
        why = f"training is done at step {done['step']}" if done else "one look is over (--run_once)"
        print(f"evaluator: {why}; every published checkpoint is evaluated")
        best = self.ledger.best_line() if self.evaluation else None
        if best:
            name = self.ledger.best_metric
            print(f"best: step {best['step']}: {name.replace('_at_', ' @ ')} = {best[name]:.4f} "
                  f"({best['examples']} examples, {best['weights'].replace('ema', 'EMA')} weights)")


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
