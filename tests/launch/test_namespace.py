"""A network of the run's own: what listens inside is reached from inside and from nowhere else.

Mutation: isolate does nothing.
"""
import contextlib
import os
import socket
import subprocess
import sys

import pytest

import runs
from launch import namespace

SERVER = """
import ctypes, encodings.idna, os, socket, sys  # what a user without rights could not read later
from launch import namespace
if sys.argv[1] == "user":
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/self stays root's after setuid
before = os.getuid(), os.getgid()
if sys.argv[1] != "open":
    problem = namespace.isolate()
    if problem:
        sys.exit(problem)
    assert socket.if_nameindex() == [(1, "lo")], socket.if_nameindex()
assert (os.getuid(), os.getgid()) == before
server = socket.create_server(("", 0), family=socket.AF_INET)
port = server.getsockname()[1]
with socket.create_connection(("127.0.0.1", port)):
    print(port, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def served(how: str):
    """The port of a server on all addresses, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, how], cwd=runs.ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        error = process.communicate()[1]
        if "Operation not permitted" in error or "Permission denied" in error or "No space left" in error:
            pytest.skip(f"this system lets {how} make no network namespace: {error.strip()}")
        pytest.fail(error)
    try:
        yield int(line)
    finally:
        assert process.communicate()[1] == "" and process.returncode == 0


def reached(port: int, address: str) -> bool:
    try:
        with socket.create_connection((address, port), timeout=10):
            return True
    except OSError:
        return False


def addresses() -> list[str]:
    """127.0.0.1 and what this machine is called outside, if it is called anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))  # sends nothing: asks which address it would be sent from
            return ["127.0.0.1", any_socket.getsockname()[0]]
        except OSError:
            return ["127.0.0.1"]


@pytest.mark.parametrize("how", ["self", "user"])
def test_nobody_outside_reaches_it(how):
    """As whoever runs the tests, and as a user without rights."""
    if how == "user" and os.getuid():
        pytest.skip("only root can become another user; the other case is this one already")
    with served(how) as port:
        assert not any(reached(port, address) for address in addresses())


def test_without_it_everybody_does():
    with served("open") as port:
        assert all(reached(port, address) for address in addresses())


def test_where_it_is_not_allowed_the_reason_is_said_and_nothing_changed(monkeypatch):
    """In the test's own process, which must not lose its network."""
    def refuse(_):
        raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(namespace, "_unshare", refuse)
    before = os.readlink("/proc/self/ns/net")
    assert namespace.isolate() == "[Errno 1] unshare: Operation not permitted"
    assert os.readlink("/proc/self/ns/net") == before


def test_a_failure_in_the_middle_is_the_attempts_alone(monkeypatch):
    """The namespace can be had, and its loopback cannot be brought up: this process stays where it is."""
    monkeypatch.setattr(namespace, "SIOCSIFFLAGS", 0)
    before = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "user")]
    assert namespace.isolate() != ""
    assert [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "user")] == before
