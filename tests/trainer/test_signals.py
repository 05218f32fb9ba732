"""SIGTERM and SIGINT: what counts as one signal, what it ends with, and that no library keeps them.

Mutations: the same signal counts on every way that it comes; TensorFlow keeps what it took; a worker that another one's
signal stops ends with 128.
"""
import signal
import subprocess
import sys

import pytest

import runs
from trainer import signals, stopping

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def hears(monkeypatch):
    """A `Hearing` whose clock stands at `at[0]`, what it called back, and what it ended with."""
    called, ended, at = [], [], [100.0]
    monkeypatch.setattr(signals, "_received", 0)
    monkeypatch.setattr(signals, "_callback", called.append)
    monkeypatch.setattr(signals, "leave", ended.append)
    monkeypatch.setattr(signals.time, "monotonic", lambda: at[0])

    def hear(number, later=0.0):
        at[0] += later
        signals._hear(number)
        return called, ended

    return hear


def test_the_same_signal_on_two_ways_counts_once(hears):
    """A group of processes gets it from the system, and each of them again from the launcher."""
    hears(TERM)
    assert hears(TERM, later=signals.ONCE_SECS / 2) == ([TERM], [])


@pytest.mark.parametrize("number, later", [(TERM, signals.ONCE_SECS * 2), (INT, 0.0)])
def test_a_second_one_ends_the_process(hears, number, later):
    """Later, or another signal: with the code of the first."""
    hears(TERM)
    assert hears(number, later=later) == ([TERM], [TERM])


def test_before_anything_can_be_saved_the_first_one_ends_the_process(hears, monkeypatch):
    monkeypatch.setattr(signals, "_callback", None)
    assert hears(INT)[1] == [INT]


@pytest.mark.parametrize("received, code", [(0, 143), (INT, 130), (TERM, 143)])
def test_the_exit_code_is_a_stopped_processs_also_where_another_worker_was_told(monkeypatch, received, code):
    monkeypatch.setattr(signals, "_received", received)
    assert signals.exit_code() == code
    assert stopping.message(7) == f"signal {code - 128}: saved step 7; the same command goes on from there"


TAKEN = """
import ctypes, os, signal, threading
from trainer import signals
heard = threading.Event()
signals.install()
signals.on_signal(lambda number: heard.set())
ctypes.CDLL(None).signal(signal.SIGTERM, 1)  # ignored: Python does not know of it
signals.take_back()
os.kill(os.getpid(), signal.SIGTERM)
assert heard.wait(10)
"""


def test_what_a_library_took_is_taken_back():
    subprocess.run([sys.executable, "-c", TAKEN], cwd=runs.ROOT, check=True, timeout=60)
