"""Runs tables of wrong commands, each table in one process of its own, and holds them to the contract of an error.

The contract: exit code 2, one line on stderr that names the flag, its value, the rule and a fix, nothing on stdout,
nothing written (so no --model_dir), less than two seconds, no TensorFlow.

    TABLE = [wrong("--seed=-1", says="--seed=-1 must be at least 0")]

    @pytest.fixture(scope="module")
    def outcomes():
        return run(TABLE)

    @each(TABLE)
    def test_a_wrong_command(row, outcomes):
        check(row, outcomes)
"""
import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 2.0
# No GPU, no TPU and no cluster, whatever the machine has.
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}
UNSET = ("TF_CONFIG", "TPU_NAME", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "COLAB_TPU_ADDR", "TPU_WORKER_HOSTNAMES")


def alone(folder: pathlib.Path, monkeypatch) -> None:
    """From now on the current folder is `folder`, on a machine without GPUs, TPUs and cluster."""
    monkeypatch.chdir(folder)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@dataclasses.dataclass(eq=False)  # a key by identity
class Wrong:
    """A wrong command. says: what its line must hold, pieces separated by " | ". files: there before it runs, by path;
    None for a folder. environment: variables."""

    arguments: list[str]
    says: str
    command: str = "trainer.main"
    files: dict[str, str | None] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        text = " ".join(self.arguments) or "nothing"
        return text if len(text) < 80 else f"{text[:60]}...{text[-15:]}"


def wrong(*arguments: str, says: str, **more) -> Wrong:
    """A row of a table."""
    return Wrong(list(arguments), says, **more)


def each(table):
    """Parametrizes a test by the rows of a table."""
    return pytest.mark.parametrize("row", table, ids=str)


def run(table: list[Wrong]) -> dict:
    """The outcome of every row, from one process."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    done = subprocess.run([sys.executable, __file__], input=json.dumps([vars(row) for row in table]),
                          text=True,
                          capture_output=True, timeout=300, cwd=ROOT,
                          env={**environment, **ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["imported"] == [], "the commands of this table imported it"
    return dict(zip(table, answer["outcomes"], strict=True))


def check(row: Wrong, outcomes: dict) -> None:
    """Asserts that the row's outcome keeps the contract."""
    outcome = outcomes[row]
    assert outcome["raised"] is None
    assert outcome["code"] == 2, outcome
    assert outcome["out"] == ""
    name = row.command.split(".")[-1].replace("main", "trainer")
    assert outcome["err"].startswith(f"{name}: ") and outcome["err"].endswith("\n")
    assert len(outcome["err"].splitlines()) == 1 and len(outcome["err"]) <= 1100
    for piece in row.says.split(" | "):
        assert piece in outcome["err"]
    assert outcome["written"] == []
    assert outcome["seconds"] < SECONDS


def _outcome(row: dict) -> dict:
    """Runs one row in a folder of its own."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in row["files"].items():
            path = pathlib.Path(name)
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_text(content)
        there = set(pathlib.Path().rglob("*"))
        os.environ.update(row["environment"])
        out, err, code, raised = io.StringIO(), io.StringIO(), None, None
        main = importlib.import_module(row["command"]).main
        begun = time.perf_counter()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([row["command"], *row["arguments"]])
            except BaseException as error:
                raised = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begun
        os.environ.clear()
        os.environ.update(before)
        written = sorted(map(str, set(pathlib.Path().rglob("*")) - there))
    return dict(code=code, out=out.getvalue(), err=err.getvalue(), raised=raised, seconds=seconds,
                written=written)


def _passed(*_, **__):
    raise RuntimeError("the command passed all checks")


def _main() -> None:
    from trainer import quiet
    quiet.import_tensorflow = time.sleep = _passed  # a command that is not wrong must not train or wait
    outcomes = [_outcome(row) for row in json.load(sys.stdin)]
    imported = [name for name in ("tensorflow", "keras", "sklearn") if name in sys.modules]
    json.dump({"outcomes": outcomes, "imported": imported}, sys.stdout)


if __name__ == "__main__":
    _main()
