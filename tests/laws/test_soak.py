"""A long run takes no more of the machine at its end than early on: memory, open files and threads of the trainer, which saves,
evaluates and writes summaries all the while, and of the evaluator beside it.

Mutations: a data set is made for every evaluation; an event file is opened for every summary; a save's thread is not joined.
"""
import json
import os
import pathlib
import statistics
import subprocess
import time

import pytest

import runs

STEPS = 20_000
FLAGS = (f"--train_steps={STEPS}", "--global_batch_size=16", "--log_steps=100", "--checkpoint_steps=100", "--eval_steps=500",
         "--summary_steps=500", "--histogram_steps=500", "--progress=none")
# The median of the last quarter of the steps against that of the second; the first is warm-up. Memory wavers by 0.5 %.
MOST_MEMORY, MOST_THREADS, MOST_FILES = 1.01, 2, 1


def usage(pid: int) -> tuple[int, int, int]:
    """(resident memory in KiB, threads, open files) of a living process."""
    facts = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(facts["VmRSS"].split()[0]), int(facts["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))


def last_step(model_dir: pathlib.Path) -> int:
    path = model_dir / "train" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.slow
@pytest.mark.timeout(1500)  # 100 s alone on two cores
def test_nothing_grows(tmp_path):
    def start(module, *flags):
        return subprocess.Popen(runs.command(module, f"--model_dir={tmp_path}", *flags), cwd=runs.ROOT, env=runs.environment(),
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    trainer, evaluator = start("trainer.main", *FLAGS), start("trainer.evaluator", "--split=train", "--poll_secs=0.2")
    quarters = {name: [[], [], [], []] for name in ("trainer", "evaluator")}
    try:
        while (step := last_step(tmp_path)) < STEPS:
            for name, process in ("trainer", trainer), ("evaluator", evaluator):
                assert process.poll() is None, (name, process.communicate())
                quarters[name][4 * step // STEPS].append(usage(process.pid))
            time.sleep(0.2)  # between samples
        for process in (trainer, evaluator):
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    finally:
        for process in (trainer, evaluator):
            process.kill()
            process.communicate()
    for name, samples in quarters.items():
        memory, threads, files = zip(*[[statistics.median(column) for column in zip(*samples[k])] for k in (1, 3)])
        print(f"{name}: {memory} KiB, {threads} threads, {files} files, {[len(quarter) for quarter in samples]} samples")
        assert memory[1] <= MOST_MEMORY * memory[0], (name, memory)
        assert threads[1] <= threads[0] + MOST_THREADS, (name, threads)
        assert files[1] <= files[0] + MOST_FILES, (name, files)
