"""--fast_dev_run runs everything once, touches nothing of the user's, and ends as its stages do."""
import json
import os
import pathlib
import subprocess
import sys

import commands
import pytest

from trainer import fast_dev_run, flags, resolve
from trainer.config import UserError


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def resolved(*arguments: str) -> tuple[resolve.Run, list[str]]:
    argv = ["trainer", "--fast_dev_run", *arguments]
    return resolve.resolve(flags.parse(argv)), argv


@pytest.mark.slow
def test_one_step_of_everything_works_and_leaves_nothing(tmp_path):
    """In the user's folder nothing is written, and the temporary one is gone."""
    temporary, model_dir = tmp_path / "tmp", tmp_path / "run"
    temporary.mkdir()
    said = commands.run("trainer.main", "--fast_dev_run", f"--model_dir={model_dir}", "--warmup_steps=50",
                        "--early_stop_evals=1", "--eval_steps=100", TMPDIR=str(temporary))
    lines = said.out.splitlines()
    assert [line.split(": ")[1].split("/")[0] for line in lines[1:-1]] == ["1", "2", "3", "4", "5"]
    assert all(line.endswith(" s") for line in lines[1:-1]) and "everything works" in lines[-1]
    assert said.err == ""
    assert os.listdir(temporary) == [] and os.listdir(tmp_path) == ["tmp"]


def test_the_commands_are_the_users_with_one_step_of_each(tmp_path):
    run, argv = resolved("--model_dir=mine", "--train_epochs=3", "--warmup_steps=5", "--seed=7", "--profile_steps=10,20", "--")
    found = fast_dev_run.stages(run, argv, tmp_path)
    assert [command[2] for command in found.values()] == ["trainer.main", "trainer.main", "trainer.evaluator",
                                                          "trainer.export", "trainer.fast_dev_run"]
    first, second = [resolve.resolve(flags.parse(command[2:])).config for command in list(found.values())[:2]]
    for config, steps in ((first, 1), (second, 2)):
        assert (config.train_steps, config.seed, config.warmup_steps) == (steps, 7, 5)
        assert config.model_dir == str(tmp_path) and not config.fast_dev_run
        assert config.decay_steps == run.config.decay_steps == (68,)  # of the run that is tried
        assert config.summary_steps == config.histogram_steps == config.checkpoint_steps == 1
    assert (first.eval_steps, second.eval_steps) == (1, 0)
    assert not any("mine" in word for command in list(found.values())[2:] for word in command)


def test_a_run_that_exists_is_tried_with_its_own_configuration_and_only_read(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    recorded = resolved(f"--model_dir={mine}", "--optimizer=sgd")[0].config
    (mine / "config.json").write_text(json.dumps({"config": vars(recorded)}))
    seen = {}

    def run(self, commands):
        config = resolve.resolve(flags.parse(commands["train and evaluate one step"][2:])).config
        seen.update(optimizer=config.optimizer, decay_steps=config.decay_steps, folder=self.output.parent)
        return 7

    monkeypatch.setattr(fast_dev_run.Stages, "run", run)
    tried, argv = resolved(f"--model_dir={mine}")
    assert fast_dev_run.run(tried, argv) == 7
    assert seen["optimizer"] == "sgd" and seen["decay_steps"] == tried.config.decay_steps
    assert os.listdir(mine) == ["config.json"] and not seen["folder"].exists()


def test_several_workers_are_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]},
                                                "task": {"type": "worker", "index": 0}}))
    run, argv = resolved("--strategy=multi_worker", "--num_gpus=0")
    with pytest.raises(UserError, match="--strategy=multi_worker"):
        fast_dev_run.run(run, argv)


def test_a_failing_stage_shows_what_it_said_and_ends_the_run_with_its_code(tmp_path, capsys):
    later = tmp_path / "later"
    code = fast_dev_run.Stages(tmp_path / "output").run({
        "well": python("print('unseen')"),
        "ill": python("import sys; print('the reason'); print('more of it', file=sys.stderr); sys.exit(3)"),
        "later": python(f"open({str(later)!r}, 'w')")})
    said = capsys.readouterr()
    assert code == 3 and not later.exists()
    assert "1/3 well: " in said.out and "unseen" not in said.out + said.err
    assert "2/3 ill: failed with code 3" in said.err and "the reason" in said.err and "more of it" in said.err


def test_a_stage_that_a_signal_ended_fails_as_in_a_shell(tmp_path):
    killed = python("import os; os.kill(os.getpid(), 9)")
    assert fast_dev_run.Stages(tmp_path / "output").run({"killed": killed}) == 137


@pytest.mark.parametrize("number, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_forwarded_and_nothing_more_is_started(tmp_path, number, code):
    """The first stage waits for ever unless it gets the signal."""
    waits = f"""
import os, pathlib, signal
signal.signal(signal.{number}, lambda *_: pathlib.Path('ended').touch() or os._exit(0))
os.kill(os.getppid(), signal.{number})
signal.pause()
"""
    stages = {"waits": python(waits), "later": python("open('later', 'w')")}
    program = f"""
import os, pathlib, sys
from trainer import fast_dev_run, signals
signals.install()
os.chdir({str(tmp_path)!r})
sys.exit(fast_dev_run.Stages(pathlib.Path("output")).run({stages!r}))
"""
    done = subprocess.run(python(program), cwd=commands.ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert sorted(path.name for path in pathlib.Path(tmp_path).iterdir()) == ["ended", "output"]
