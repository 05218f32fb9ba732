"""SIGTERM and SIGINT, heard within milliseconds whatever the main thread is doing.

A Python handler runs only between bytecodes, so not inside one long call into TensorFlow. Hence a daemon thread that
reads the wake-up pipe: before there is anything to save it ends the process at once, later it calls what the command
registered, while training trainer.stopping.

    signals.install()                   # the first thing a command does
    signals.take_back()                 # after a library has put handlers of its own in place
    signals.on_signal(callback)         # from now on: callback(number), in the watching thread
    signals.received()                  # the signal's number, 0 if none came
"""
import os
import signal
import threading
import time

# The same signal again within this time is one message on two ways: SLURM, systemd and terminals send it to every process of
# a group, and a launcher among them passes it on.
ONCE_SECS = 0.5

_callback = None
_received = 0
_since = 0.0  # when that was


def install() -> None:
    """Takes over SIGTERM and SIGINT. Only the main thread can."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _handle()
    threading.Thread(target=_watch, args=(read_end,), name="signals", daemon=True).start()


def take_back() -> None:
    """Takes SIGTERM over again where `install` had: MultiWorkerMirroredStrategy's C++ part takes it for itself."""
    if signal.getsignal(signal.SIGTERM) is _handler:  # as Python remembers it
        _handle()


def on_signal(callback) -> None:
    """From now on a first signal calls `callback(number)`; None: it ends the process again. A second one always does.

    A signal that came before is handed over at once.
    """
    global _callback
    _callback = callback
    if callback and _received:
        callback(_received)


def received() -> int:
    """The number of the first signal that came, 0 if none did."""
    return _received


def number() -> int:
    """The signal that ends this process: the first that came, SIGTERM where another worker was told to stop."""
    return _received or int(signal.SIGTERM)


def exit_code() -> int:
    """What a process that a signal ended exits with: 128 + its number (143, 130)."""
    return 128 + number()


def leave(number: int) -> None:
    """Ends the process now, without clean-up: every file is whole or absent at any moment."""
    os._exit(128 + number)


def _handle() -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _handler)


def _handler(*_) -> None:
    """The byte in the pipe is the message."""


def _watch(pipe: int) -> None:
    while True:
        _hear(os.read(pipe, 1)[0])


def _hear(number: int) -> None:
    global _received, _since
    if number == _received and time.monotonic() < _since + ONCE_SECS:
        return
    if _received or _callback is None:
        leave(_received or number)
    else:
        _received, _since = number, time.monotonic()
        _callback(number)
