"""The two sides of a ratio, as processes that are measured in turn.

    with Worker("steps:bare", recipe="digits") as one, Trainer("--recipe=digits") as other:
        one.measure(100), other.measure(100)        # examples a second, over about so many steps

A side that is not being measured stands still: a Worker waits for its input, a Trainer is stopped by SIGSTOP. So they share
the machine's mood without sharing the machine.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

START_SECONDS = 600  # after which a side that is not ready has failed
FOLDER = "{folder}"  # in a command: the side's own folder
END_SECONDS = 60  # until a launcher is killed
POLL_SECONDS = 0.05  # a look every 3 ms took 3 % of a core from the trainer that was looked at


class Failed(RuntimeError):
    """A side ended, or never began; what it wrote last."""


class Side:
    """A process, its log and a folder for what it writes. command: what is run; environment: added to this one's."""

    def __init__(self, command: list[str], **environment: str):
        self._log = tempfile.TemporaryFile()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-"))
        command = [part.replace(FOLDER, str(self.folder)) for part in command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._stdout(), stderr=self._log, text=True, start_new_session=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(self.folder), **environment})
        self.peak_bytes = 0

    def _stdout(self):
        return subprocess.PIPE

    def measure(self, amount: int) -> float:
        """The side's figure, over about `amount` steps."""
        raise NotImplementedError

    def failed(self) -> Failed:
        """What to raise where the process ended."""
        self._log.seek(0)
        text = self._log.read()[-2000:].decode(errors="replace").strip()
        return Failed(f"{' '.join(map(str, self.process.args[1:4]))} ended with {self.process.poll()}: {text}")

    def close(self) -> None:
        """Ends the process and all that it started; deletes what it wrote."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Program(Side):
    """A program that answers as `answering` says."""

    def __init__(self, command: list[str], **environment: str):
        super().__init__(command, **environment)
        self._answer()  # ready

    def measure(self, amount: int) -> float:
        """Its answer's "value"; all of it is in `answer`."""
        self.process.stdin.write(f"{amount}\n")
        self.process.stdin.flush()
        self.answer = self._answer()
        self.peak_bytes = self.answer["peak_bytes"]
        return self.answer["value"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise self.failed()
        return json.loads(line)


class Worker(Program):
    """A function of this project in a process of its own; what: MODULE:FUNCTION in launch.benches."""

    def __init__(self, what: str, **options):
        super().__init__([sys.executable, "-m", "launch.benches.worker", what, json.dumps(options)])


class Trainer(Side):
    """A whole trainer, as a user runs it, watched from outside: the lines of its metrics.jsonl and a clock.

    launcher: what starts it, with its own flags. log_steps: between lines; a figure begins and ends with a line.
    pausing: whether it stands still between measurements.
    """

    def __init__(self, *flags: str, launcher: tuple[str, ...] = ("trainer.main",), log_steps: int = 10,
                 pausing: bool = True):
        self._pausing = pausing
        self._batch, self._read = None, 0
        super().__init__([sys.executable, "-m", *launcher, f"--model_dir={FOLDER}/run", f"--log_steps={log_steps}", *flags])
        self._lines = self.folder / "run" / "train" / "metrics.jsonl"
        try:
            self._next_line()
        except BaseException:
            self.close()
            raise
        self._pause()

    def _stdout(self):
        return subprocess.DEVNULL

    def measure(self, amount: int) -> float:
        """Examples a second over the first `amount` steps from a line on, summaries and checkpoints included."""
        if self._batch is None:
            recorded = json.loads((self.folder / "run" / "config.json").read_text())
            self._batch = recorded["config"]["global_batch_size"]
        self._read = self._lines.stat().st_size  # a line from just before it was stopped is none to begin with
        os.killpg(self.process.pid, signal.SIGCONT)
        first, start = last, end = self._next_line()
        while last < first + amount:
            last, end = self._next_line()
        self._pause()
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        self.peak_bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024
        return (last - first) * self._batch / (end - start)

    def _pause(self):
        if self._pausing:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def _next_line(self) -> tuple[int, float]:
        """(step, when) of the last line, once there is a new one: when it was written, as the file's time says."""
        limit = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError):
                found = self._lines.stat()
                if found.st_size > self._read:
                    with open(self._lines, "rb") as file:
                        file.seek(self._read)
                        lines = file.read()
                        whole = os.fstat(file.fileno()).st_mtime_ns == found.st_mtime_ns and lines.endswith(b"\n")
                    if whole:
                        self._read += len(lines)
                        return json.loads(lines.splitlines()[-1])["step"], found.st_mtime_ns / 1e9
            if self.process.poll() is not None:
                raise self.failed()
            if time.monotonic() > limit:
                raise Failed(f"no line in {self._lines} for {START_SECONDS} s")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """As `Side.close`; a launcher ends its workers itself."""
        if not self._pausing:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        super().close()


def seconds(command: list[str], *, code: int | None = 0) -> float:
    """How long a command takes that ends by itself. Failed where its exit code is another."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if code is not None and done.returncode != code:
        raise Failed(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start
