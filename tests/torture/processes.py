"""The product's commands as processes, with their output in files, so that nothing they print can block them.

    trainer = Process(runs.command("trainer.main", "--model_dir=m"), log)
    trainer.kill()
    code = trainer.wait(300)
"""
import pathlib
import signal
import subprocess
import time

from tests.laws import runs

_living: set["Process"] = set()


class Process:
    """A running command. log: path of its output without the ending; .out and .err are written."""

    def __init__(self, arguments: list[str], log: pathlib.Path):
        self.arguments, self.log = arguments, pathlib.Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err:
            self._process = subprocess.Popen(arguments, cwd=runs.ROOT, env=runs.environment(), stdin=subprocess.DEVNULL,
                                             stdout=out, stderr=err)
        self.pid, self.started = self._process.pid, time.monotonic()
        _living.add(self)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def out(self) -> str:
        return pathlib.Path(f"{self.log}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return pathlib.Path(f"{self.log}.err").read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        code = self._process.poll()
        if code is not None:
            _living.discard(self)
        return code

    def kill(self) -> bool:
        """kill -9; returns when it is gone: whether it was this signal that ended it."""
        self._process.kill()
        code = self._process.wait()
        _living.discard(self)
        return code == -signal.SIGKILL

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """The exit code; None after so many seconds, and then it is killed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        _living.discard(self)
        return code

    def told(self) -> str:
        """The ends of what it printed, for a report."""
        return f"{self.out[-1000:]}\n{self.err[-2000:]}".strip()


def end_all() -> None:
    """Kills what still runs of what this process started."""
    for process in list(_living):
        process.kill()
