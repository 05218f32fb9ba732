"""One step of everything, in a temporary folder that is deleted afterwards: what `--fast_dev_run` does.

    code = fast_dev_run.run(resolve.resolve(flags.parse(argv)), argv)

Each stage is the real command in a process of its own, as a user would give it: training with everything
that is ever written, the same run resumed, the separate evaluator, the export, and a prediction with nothing
but the export. The folder of --model_dir is only read. A failing stage's output is shown, and its exit code
is the result.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from input_pipeline.rules import shown, text_of
from trainer import files, resolve, restored, signals
from trainer.config import UserError
from trainer.places import place

TRAIN = ("--nofast_dev_run", "--nodownload", "--train_epochs=0", "--early_stop_evals=0", "--profile_steps=",
         "--summary_steps=1", "--histogram_steps=1", "--checkpoint_steps=1", "--progress=none")


def run(run: resolve.Run, argv: list[str]) -> int:
    """Runs all stages of the command `argv`, which resolved to `run`. Returns 0 or a failing one's exit code.

    UserError for several workers, whose stages cannot be kept in step from here.
    """
    if run.info.selection_split not in run.info.splits:
        raise UserError(f"--fast_dev_run with --dataset={run.config.dataset}: all its examples are for training, and it "
                        "evaluates; set some apart in a folder called validation or test")
    if run.plan.strategy == "multi_worker":
        raise UserError("--fast_dev_run with --strategy=multi_worker: it tries one process; "
                        "give another strategy")
    with tempfile.TemporaryDirectory(prefix="fast_dev_run-", ignore_cleanup_errors=True) as folder:
        print(f"fast_dev_run: one step of everything in {folder}; {shown(run.config.model_dir)} is left "
              "alone", flush=True)
        model_dir = pathlib.Path(folder, "run")
        model_dir.mkdir()
        if run.recorded is not None:  # the command would go on with what is recorded there
            (model_dir / "config.json").write_text(json.dumps(files.read_json(place(run.config.model_dir, "config.json"))))
        return Stages(pathlib.Path(folder, "output")).run(stages(run, argv, model_dir))


def stages(run: resolve.Run, argv: list[str], model_dir: pathlib.Path) -> dict[str, list[str]]:
    """Each stage's command by what it does."""
    python = [sys.executable, "-m"]
    given = argv[1:argv.index("--") if "--" in argv else None]
    train = [*python, "trainer.main", *given, *TRAIN, f"--model_dir={model_dir}"]
    if run.recorded is None and run.config.lr_schedule != "constant":  # the whole run's, not two steps'
        train += [f"--decay_steps={text_of(run.config.decay_steps)}", "--decay_epochs=0"]
    export = model_dir.with_name("export")
    return {
        "train and evaluate one step": [*train, "--train_steps=1", "--eval_steps=1"],
        # Not evaluated here: that is left to the separate evaluator.
        "resume for one more": [*train, "--train_steps=2", "--eval_steps=0"],
        "evaluate separately": [*python, "trainer.evaluator", f"--model_dir={model_dir}", "--run_once"],
        "export": [*python, "trainer.export", f"--model_dir={model_dir}", f"--output={export}"],
        "predict with the export": [*python, "trainer.fast_dev_run", str(model_dir), str(export)],
    }


class Stages:
    """Runs commands one after the other, as long as they succeed. output: a file for what each prints; their
    temporary files go beside it.

    A signal is forwarded to the running one, and nothing more is started.
    """

    def __init__(self, output: pathlib.Path):
        self.output, self._process, self._lock = output, None, threading.Lock()

    def run(self, commands: dict[str, list[str]]) -> int:
        """Says each stage in a line with its time. Returns 0, a failing one's code, or 128 + the signal."""
        began = time.monotonic()
        signals.on_signal(self._forward)
        try:
            for number, (name, command) in enumerate(commands.items(), 1):
                start = time.monotonic()
                code = self._stage(command)
                if signals.received():
                    return signals.exit_code()
                said = f"fast_dev_run: {number}/{len(commands)} {name}: "
                if code:
                    print(f"{said}failed with code {code}; it said:", file=sys.stderr)
                    print(self.output.read_text(errors="replace"), file=sys.stderr, flush=True)
                    return code
                print(f"{said}{time.monotonic() - start:.1f} s", flush=True)
        finally:
            signals.on_signal(None)
        print(f"fast_dev_run: everything works ({time.monotonic() - began:.1f} s)", flush=True)
        return 0

    def _stage(self, command: list[str]) -> int:
        """The exit code, that of a process ended by a signal as a shell gives it."""
        environment = {**os.environ, "TMPDIR": str(self.output.parent)}
        with open(self.output, "w") as output:
            with self._lock:
                if signals.received():
                    return signals.exit_code()
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                                 stderr=subprocess.STDOUT, env=environment)
            code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _forward(self, number: int) -> None:
        """In the watching thread."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(number)


def predict(model_dir: str, export: str) -> None:
    """The last stage: one held-out example through the export. AssertionError if the answer is none."""
    import numpy as np
    import tensorflow as tf

    from trainer import experiment, task
    tf.config.set_visible_devices([], "GPU")
    found = restored.find(model_dir)
    example = experiment.load(found.config, found.info.reported_split).read(tf.constant([0], tf.int64))
    what = task.build(found.config, found.info)
    serve = tf.saved_model.load(export).signatures["serving_default"]
    answer = serve(**{what.input_name: tf.cast(example["input"], tf.float32)})[what.output_name].numpy()
    assert answer.shape == (1, *what.output_shape) and np.isfinite(answer).all(), answer
    print(what.answer(answer[0], found.classes))


if __name__ == "__main__":
    predict(*sys.argv[1:])
