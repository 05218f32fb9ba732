"""Breaks the code on purpose, one mutation after the other, and expects a law's test to turn red.

    python -m tests.laws.mutations            # all of them; or words that must occur in a mutation's name

Each mutation is applied to a copy of the checkout, so the working tree is never touched. Prints a line a mutation; the exit code
is 0 if every one was noticed. Minutes, so not part of the test suite.
"""
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
LAW1 = "tests/laws/test_law1_same_run.py"
TWO = f"{LAW1}::test_same_batches_losses_and_weights[2 replicas, sgd]"
MICRO = f"{LAW1}::test_same_batches_losses_and_weights[2 replicas x 2 micro-batches, sgd]"
STOP = "tests/laws/test_law2_resume.py::test_a_stopped_run_ends_as_an_undisturbed_one"
BEYOND = "tests/laws/test_law2_resume.py::test_what_lies_beyond_the_newest_checkpoint_is_told_once"
DAMAGE = "tests/laws/test_law3_damage.py"
SIGNAL = "tests/laws/test_law4_signals.py::test_a_signal_while"
EXAMPLES = "tests/laws/test_law5_every_example.py"
CHECKPOINTS = "tests/laws/test_law5_every_checkpoint.py::test_once_in_order_also_after_a_kill"
BAD_EXAMPLE = "tests/laws/test_law6_not_finite.py::test_one_bad_example_is_skipped_by_all_replicas_alike"
TRACES = "tests/laws/test_law9_traces.py"
HOSTILE = "tests/laws/test_law8_hostile_files.py"
CHECKPOINT = "tests/trainer/test_checkpoint.py"
PIPELINE = "tests/input_pipeline/test_pipeline.py"
STEP = "tests/trainer/test_step.py"
MOMENT = f"{STEP}::test_what_another_thread_copies_of_a_state_that_stood_still_is_of_one_moment"
STOPPING = "tests/trainer/test_stopping.py"
WATCHDOG = "tests/trainer/test_watchdog.py"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """In `file`, `old` (which occurs exactly once) becomes `new`; `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation("a worker that waits for the others is blamed", "trainer/watchdog.py", "last = min((seen", "last = max((seen",
             f"{WATCHDOG}::test_who_waits_for_data_is_named_and_who_waits_because_of_that"),
    Mutation("the least progress counts", "trainer/watchdog.py", "elif now - max(seen.changed for seen in living.values()) > self",
             "elif now - min(seen.changed for seen in living.values()) > self",
             f"{WATCHDOG}::test_no_progress_only_if_nobody_has_any"),
    Mutation("a pause of one's own counts", "trainer/watchdog.py", "if late > PAUSED_SECS:", "if late < 0:",
             f"{WATCHDOG}::test_a_process_that_was_stopped_itself_blames_nobody_for_that_time"),
    Mutation("compiling has the bound of a step", "trainer/watchdog.py",
             "first = FIRST_STEP_SECS if any(", "first = 0 if any(",
             f"{WATCHDOG}::test_the_first_call_may_take_longer_and_a_slow_step_twice_as_long_as_the_slowest"),
    Mutation("silence is not counted", "trainer/watchdog.py", "        elif silent:", "        elif False:",
             f"{WATCHDOG}::test_a_silent_worker"),
    Mutation("no token", "trainer/heartbeat.py", 'first.get("token") == self.token and', "", "tests/trainer/test_heartbeat.py"),
    Mutation("nobody answers before TensorFlow", "trainer/rendezvous.py", "server((host, port), family", "server((host, 0), family",
             "tests/trainer/test_rendezvous.py"),
    Mutation("every worker asks the ledger", "trainer/inline.py", "if self._workers.chief_says(lambda: step not in self._ledger.settled()):",
             "if step not in self._ledger.settled():", "tests/trainer/test_inline.py"),
    Mutation("the evaluator announces itself late", "trainer/evaluator.py", "if started and not self.announced:", "if False:",
             "tests/trainer/test_evaluator.py"),
    Mutation("one signal on two ways counts twice", "trainer/signals.py", "if number == _received and", "if False and",
             "tests/trainer/test_signals.py"),
    Mutation("TensorFlow keeps SIGTERM", "trainer/signals.py", "    if signal.getsignal(signal.SIGTERM) is _handler:", "    if False:",
             "tests/trainer/test_signals.py"),
    Mutation("clip before the all-reduce", "trainer/step.py", "        # One message for everything",
             "        total = tf.clip_by_global_norm(total, config.clip_norm or 1e9)[0]\n        # One message for everything", TWO),
    Mutation("sum twice", "trainer/step.py", "        parts = _all_reduce(parts)\n",
             "        parts = _all_reduce(_all_reduce(parts))\n", TWO),
    Mutation("mean of scaled losses", "trainer/backward.py",
             "objective = tf.reduce_sum(losses) / config.global_batch_size * scale", "objective = tf.reduce_mean(losses) * scale", TWO),
    Mutation("weight decay on every replica", "trainer/step.py",
             "            total[k] += config.weight_decay * trainable[k].value",
             "            total[k] += replicas * config.weight_decay * trainable[k].value", TWO),
    Mutation("local batch statistics", "models/registry.py", "        options[\"sync_batch_norm\"] = sync_batch_norm",
             "        options[\"sync_batch_norm\"] = False", TWO),
    Mutation("dropout masks by replica", "trainer/backward.py", "first_row=batch[\"row\"][0], updates",
             "first_row=0 * batch[\"row\"][0], updates", TWO),
    Mutation("every micro-batch the first rows", "trainer/step.py", "value[k * rows:(k + 1) * rows]", "value[:rows]", MICRO),
    Mutation("distortions by place in the worker", "input_pipeline/pipeline.py",
             "rows=batch[\"row\"],", "rows=batch[\"row\"] - rows.start,", PIPELINE),
    Mutation("a killed save's folder is in the way", "trainer/checkpoint.py",
             "        shutil.rmtree(work)\n    work.mkdir(parents=True)\n",
             "        pass\n    work.mkdir(parents=True, exist_ok=True)\n    for left in work.iterdir():\n        left.unlink()\n", CHECKPOINT),
    Mutation("training waits until a save is written", "trainer/checkpoint.py", "        self._thread.start()\n        self.last_saved",
             "        self._thread.run()\n        self.last_saved", CHECKPOINT),
    Mutation("a save does not wait for the last one", "trainer/checkpoint.py", "        self.wait()\n        self._copy()",
             "        self._copy()", CHECKPOINT),
    Mutation("lines beyond the checkpoint stay", "trainer/telling.py", "            self._metrics.drop_after(start)\n",
             "            pass\n", BEYOND),
    Mutation("no evaluation after a kill", "trainer/train.py", "enough = step > 0 and self", "enough = False and self",
             f"{SIGNAL}[evaluating]"),
    Mutation("nobody ends the process from outside", "trainer/stopping.py", "        if self._alone:\n", "        if False:\n",
             f"{SIGNAL}[waiting for data]"),
    Mutation("a signal is heard only where steps are made", "trainer/train.py",
             "with self.stopwatch.phase(\"evaluating\"), self.stopping.allowed(below=step + 1):",
             "with self.stopwatch.phase(\"evaluating\"):", f"{SIGNAL}[evaluating]"),
    Mutation("a signal after DONE is not heard", "trainer/train.py", "        self.stopping.over()\n", "",
             "tests/laws/test_law4_signals.py::test_a_signal_after_the_end_changes_nothing"),
    Mutation("a step that is being written stands still", "trainer/step.py", "writing.assign(True, read_value=False)",
             "writing.assign(False, read_value=False)", MOMENT),
    Mutation("the number of the step is written before the rest", "trainer/step.py",
             "        with tf.control_dependencies([updated, *_account(state, metrics, config, examples)]):\n",
             "        _account(state, metrics, config, examples)\n        with tf.control_dependencies([metrics[\"ok\"]]):\n", MOMENT),
    Mutation("what a step has to tell does not count", "trainer/stopping.py", "step >= self._below or loop", "loop", STOPPING),
    Mutation("data starts again at batch 0", "trainer/experiment.py", "start_step=start_step,", "start_step=0,", STOP),
    Mutation("averages of the losses not saved", "trainer/state.py", "self.step, self.loss_averages,", "self.step,", STOP),
    Mutation("moving averages not saved", "trainer/state.py",
             "\"ema\": {v.path: average for v, average in zip(self.model.trainable_variables, self.ema)},", "\"ema\": {},", STOP),
    Mutation("digests not compared", "trainer/manifest.py", "if sha256(path) != digest:", "if False:", DAMAGE),
    Mutation("all damaged taken for none", "trainer/manifest.py", "    if notes:\n", "    if False:\n", DAMAGE),
    Mutation("padded rows count", "trainer/evaluate.py", "tf.where(batch[\"mask\"] > 0, value, 0)", "value", EXAMPLES),
    Mutation("only the newest is evaluated", "trainer/evaluator.py", "for step in pending[:1]:", "for step in pending[-1:]:", CHECKPOINTS),
    Mutation("the ledger is not read", "trainer/watch.py", "        settled = self.settled()\n        return",
             "        settled = set()\n        return", CHECKPOINTS),
    Mutation("a Python number of steps", "trainer/inner_loop.py", "tf.constant(until, tf.int64)", "until", TRACES),
    Mutation("updates that are not finite are applied", "trainer/step.py", "tf.cond(metrics[\"ok\"], update, lambda: False)",
             "update()", STEP),
    Mutation("every replica leaves out what is not finite of its own", "trainer/step.py", "        parts = _all_reduce(parts)\n",
             "        parts = _all_reduce([tf.where(tf.math.is_finite(part), part, 0) for part in parts])\n", BAD_EXAMPLE),
    Mutation("an unreadable example is a crash", "trainer/reading.py", "except pipeline.READ_ERRORS as error:",
             "except ZeroDivisionError as error:", f"{HOSTILE}::test_an_image_that_is_found_broken_in_mid_run_is_named_and_what_was_saved_stays"),
    Mutation("first weights from a pipe", "trainer/resolve.py", "place(f\"{path}.index\").is_file()", "place(f\"{path}.index\").exists()",
             f"{HOSTILE}::test_every_file_gets_one_line"),
    Mutation("what a link leads to is written", "trainer/files.py", "flags | os.O_NOFOLLOW", "flags", "tests/trainer/test_files.py"),
    Mutation("a pipe is waited for", "trainer/growing.py", "if not stat.S_ISREG(status.st_mode):", "if False:",
             "tests/trainer/test_writers.py"),
    Mutation("no warm-up of the averages", "trainer/step.py",
             "tf.minimum(tf.constant(config.ema_decay), (1 + count) / (10 + count))", "tf.constant(config.ema_decay)", STEP),
)


def noticed(mutation: Mutation) -> bool:
    """Whether the mutation's test fails on a mutated copy (and not for want of tests)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "data", "__pycache__"))
        path = copy / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise SystemExit(f"{mutation.name}: {mutation.old!r} occurs {text.count(mutation.old)} times in {mutation.file}")
        path.write_text(text.replace(mutation.old, mutation.new))
        done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-n", "0", mutation.test], cwd=copy,
                              capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        if done.returncode not in (0, 1):
            raise SystemExit(f"{mutation.name}: pytest could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 1


def main(words: list[str]) -> int:
    """Tries the mutations whose name holds every word."""
    missed = 0
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.name for word in words)]
    for mutation in chosen:
        red = noticed(mutation)
        missed += not red
        print(f"{'red  ' if red else 'MISSED'} {mutation.name} ({mutation.file}) by {mutation.test}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
