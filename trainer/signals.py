"""SIGTERM and SIGINT, heard within milliseconds whatever the main thread is doing.

A Python handler runs only between bytecodes, so not inside one long call into TensorFlow. Hence a daemon thread that
reads the wake-up pipe: before there is anything to save it ends the process at once, later it calls what the command
registered, while training trainer.stopping.

    signals.install()                   # the first thing a command does
    signals.on_signal(callback)         # from now on: callback(number), in the watching thread
    signals.received()                  # the signal's number, 0 if none came
"""
import os
import signal
import threading

_callback = None
_received = 0


def install() -> None:
    """Takes over SIGTERM and SIGINT. Only the main thread can."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the byte in the pipe is the message
    threading.Thread(target=_watch, args=(read_end,), name="signals", daemon=True).start()


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


def exit_code() -> int:
    """What a process that a signal ended exits with: 128 + its number (143, 130)."""
    return 128 + _received


def leave(number: int) -> None:
    """Ends the process now, without clean-up: every file is whole or absent at any moment."""
    os._exit(128 + number)


def _watch(pipe: int) -> None:
    global _received
    while True:
        number = os.read(pipe, 1)[0]
        if _received or _callback is None:
            leave(_received or number)
        _received = number
        _callback(number)
