"""Processes that train together: the first failure ends them all, and they start again together.

    code = Gang(workers=lambda: [Command(name="worker-0", arguments=[...]), ...], logs=logs, max_restarts=3).run()

One thread waits for everything at once: what they say, their ends, signals, deadlines. No process outlives this one:
the kernel ends them with it, also after kill -9.
"""
import contextlib
import ctypes
import dataclasses
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from launch.logs import Log, Logs
from launch.spec import DIVERGED, HUNG, STOPPED, WRONG

PR_SET_PDEATHSIG = 1
MEANINGS = {WRONG: "wrong flag, configuration, path or data", DIVERGED: "diverged", 143: "stopped by SIGTERM",
            130: "stopped by SIGINT", HUNG: "a hang was ended: its log says whose"}
OUTPUT, SIGNAL, END = range(3)  # the order of what happens at once: an end closes pipes
_LIBC = ctypes.CDLL(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start. variables: what changes in the environment; None takes one away."""

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


class _Process:
    """A command that runs, or ran."""

    def __init__(self, command: Command, log: Log):
        variables = {**os.environ, **command.variables}
        self.name, self.log = command.name, log
        self.signalled = False  # whether it was told to stop from here
        self.code: int | None = None  # as a shell gives it: 137 after SIGKILL
        # A group of its own: Ctrl-C in a terminal reaches the launcher alone, which then tells each process once.
        self.popen = subprocess.Popen(
            command.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={name: value for name, value in variables.items() if value is not None}, start_new_session=True,
            preexec_fn=_dies_with(os.getpid()))
        self.handle = os.pidfd_open(self.popen.pid)
        self.pipes = {self.popen.stdout.fileno(): False, self.popen.stderr.fileno(): True}  # is it stderr?
        for pipe in self.pipes:
            os.set_blocking(pipe, False)

    def read(self, pipe: int) -> bool:
        """Takes what is there to read; whether more can come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(pipe, 1 << 16):
                self.log.feed(data, error=self.pipes[pipe])
            return False
        return True

    def send(self, number: int) -> None:
        """Sends a signal; SIGKILL also to the processes that it started itself."""
        self.signalled = True
        if number == signal.SIGKILL:
            os.killpg(self.popen.pid, number)  # not reaped yet, so the number is still this process's
        else:
            signal.pidfd_send_signal(self.handle, number)
            signal.pidfd_send_signal(self.handle, signal.SIGCONT)  # a stopped process hears nothing

    def end(self) -> None:
        """After its end: takes the rest of its words, its children and its exit code."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        for pipe in self.pipes:
            self.read(pipe)
        code = self.popen.wait()
        self.code = code if code >= 0 else 128 - code
        os.close(self.handle)
        self.popen.stdout.close()
        self.popen.stderr.close()
        self.log.close()


def _dies_with(parent: int) -> Callable[[], None]:
    """What a new process does first: asks the kernel for SIGKILL at its parent's end."""
    def ask():
        _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os._exit(137)
    return ask


class Gang:
    """Runs workers, of which the first is the chief, and an evaluator beside them.

    workers: makes their commands, anew for each start (other ports, say). max_restarts: of the workers together, and of
    the evaluator. grace_secs: between SIGTERM and SIGKILL.
    """

    def __init__(self, *, workers: Callable[[], Sequence[Command]], logs: Logs, evaluator: Command | None = None,
                 max_restarts: int = 3, grace_secs: float = 30.0, name: str = "launch"):
        self._workers, self._evaluator, self._logs = workers, evaluator, logs
        self._max_restarts, self._grace, self._name = max_restarts, grace_secs, name
        self._selector = selectors.DefaultSelector()
        self._running: list[_Process] = []
        self._told = 0  # the first signal that came
        self._told_again = False
        self._deadline: float | None = None  # when those that were told to stop are killed
        self._first: _Process | None = None  # the worker that failed first
        self._chief: _Process | None = None
        self._beside: _Process | None = None
        self._beside_restarts, self._beside_gave_up = 0, 0  # the code after which it is not started again

    def run(self) -> int:
        """The exit code: 0, the first failing worker's, or 128 + the signal that this process was told to stop by."""
        with self._signals():
            try:
                return self._run()
            finally:
                for process in [*self._running]:
                    process.send(signal.SIGKILL)
                    process.end()
                self._selector.close()

    def _run(self) -> int:
        if self._evaluator:
            self._beside = self._start(self._evaluator)
        restarts = 0
        while True:
            code = self._attempt()
            if code == 0 or self._told or code in (WRONG, DIVERGED):
                break
            if restarts == self._max_restarts:
                self._say(f"no restart: --max_restarts={restarts} is used up")
                break
            restarts += 1
            self._say(f"restart {restarts} of {self._max_restarts}")
        if code == 0 and self._evaluator:
            code = self._finish_evaluation()
        self._stop([*self._running])
        while self._running:
            self._turn()
        return code

    def _attempt(self) -> int:
        """Starts the workers; returns when all have ended: 0, or the code to report."""
        self._first, self._deadline, self._logs.muted = None, None, False
        workers = []
        for number, command in enumerate(self._workers()):
            workers.append(self._start(command, chief=number == 0))
            if number == 0:
                self._chief = workers[0]
        while any(worker in self._running for worker in workers):
            self._turn()
        if not self._told:
            return self._first.code if self._first else 0
        if self._told_again:
            return 128 + self._told
        unplanned = [worker.code for worker in workers if worker.code not in (0, *STOPPED)]
        return (unplanned or [0 if all(worker.code == 0 for worker in workers) else 128 + self._told])[0]

    def _finish_evaluation(self) -> int:
        """Training is done: waits until the evaluator has evaluated everything. Returns its code."""
        if self._beside not in self._running and not self._told and not self._beside_gave_up:
            # It ended before the workers did: DONE was there, of an earlier and shorter run.
            self._beside = self._start(self._evaluator)
        while self._beside in self._running and not self._told:
            self._turn()
        return 128 + self._told if self._told else self._beside_gave_up

    def _turn(self) -> None:
        """Waits for the next event, and for no longer than the deadline; acts on it."""
        wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        for key, _ in sorted(self._selector.select(wait), key=lambda event: event[0].data[0]):
            key.data[1]()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            for process in self._running:
                if process is not self._beside or process.signalled:
                    self._say(f"{process.name} has not ended within --grace_secs={self._grace:g}: SIGKILL")
                    process.send(signal.SIGKILL)

    def _start(self, command: Command, *, chief: bool = False) -> _Process:
        process = _Process(command, self._logs.open(command.name, everything=chief or command is self._evaluator))
        self._running.append(process)

        def read(pipe: int):
            if not process.read(pipe):
                self._selector.unregister(pipe)

        for pipe in process.pipes:
            self._selector.register(pipe, selectors.EVENT_READ, (OUTPUT, lambda pipe=pipe: read(pipe)))
        self._selector.register(process.handle, selectors.EVENT_READ, (END, lambda: self._ended(process)))
        return process

    def _ended(self, process: _Process) -> None:
        for file in (*process.pipes, process.handle):
            with contextlib.suppress(KeyError):  # a pipe that it had closed before
                self._selector.unregister(file)
        self._running.remove(process)
        process.end()
        if process is self._beside:
            self._evaluator_ended(process)
        elif process.code and self._first is None:
            self._first = process
            self._failed(process)

    def _failed(self, process: _Process) -> None:
        """The first worker that ended with anything but 0: says so, and ends the others."""
        self._logs.muted = process.code not in STOPPED
        if not (self._told and process.code in STOPPED):
            self._say(f"{process.name} {'failed' if self._logs.muted else 'ended'} first: {_meaning(process.code)}")
            if process.code not in (WRONG, *STOPPED):
                self._tail(process)
        others = [other for other in self._running if other is not self._beside]
        if process.code in STOPPED and self._chief in self._running:
            # All stop at the same step, and the chief saves it: a signal now could be its second, which ends it now.
            self._deadline = self._deadline or time.monotonic() + self._grace
        else:
            self._stop(others)

    def _evaluator_ended(self, process: _Process) -> None:
        if self._told or process.signalled or process.code == 0:
            return
        self._say(f"{process.name} ended: {_meaning(process.code)}; training goes on")
        if process.code == WRONG or self._beside_restarts == self._max_restarts:
            self._say(f"{process.name} is not started again; see {process.log.path}")
            self._beside_gave_up = process.code
            return
        self._tail(process)
        self._beside_restarts += 1
        self._say(f"{process.name}: restart {self._beside_restarts} of {self._max_restarts}")
        self._beside = self._start(self._evaluator)

    def _stop(self, processes: list[_Process], number: int = signal.SIGTERM) -> None:
        """Tells those that were not told yet to stop; they have until the deadline."""
        for process in processes:
            if not process.signalled:
                process.send(number)
        if processes and self._deadline is None:
            self._deadline = time.monotonic() + self._grace

    def _tail(self, process: _Process) -> None:
        last = process.log.last()
        if last:
            self._say(f"the last lines of {process.log.path}:")
            for line in last:
                self._logs.say(f"    {line}")

    def _say(self, text: str) -> None:
        self._logs.say(f"{self._name}: {text}")

    @contextlib.contextmanager
    def _signals(self):
        """SIGTERM and SIGINT become events of the one loop; afterwards they are as they were."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(read_end, False)
        wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}

        def heard():
            for number in os.read(read_end, 64):
                if number in handlers:
                    self._heard(number)

        self._selector.register(read_end, selectors.EVENT_READ, (SIGNAL, heard))
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(read_end)
            os.close(write_end)

    def _heard(self, number: int) -> None:
        if self._told:
            self._told_again = True
            self._say(f"{signal.Signals(number).name} again: everything ends now")
            for process in self._running:
                process.send(signal.SIGKILL)
            return
        self._told = number
        self._say(f"{signal.Signals(number).name}: every worker saves the current step, within "
                  f"--grace_secs={self._grace:g}; again: everything ends now")
        self._stop(self._running, number)


def _meaning(code: int) -> str:
    if code in MEANINGS:
        return f"exit code {code} ({MEANINGS[code]})"
    if code > 128 and code - 128 in list(signal.Signals):
        return f"killed by {signal.Signals(code - 128).name} ({code})"
    return f"exit code {code}"
