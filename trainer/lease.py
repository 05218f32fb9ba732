"""Locks at gs://, where the system has none: an object that its holder renews, and that counts for nothing once it is old.

    with lease.hold(address, "another trainer works on gs://bucket/run", patience=3): ...
    lease.held(address)

The object is made on the condition that there is none, by one process therefore. Every RENEW_SECS its holder writes it again, on
the condition that nobody else has. Who finds one waits until it is renewed (then its holder lives), until its holder is known to
be dead (it ran on this machine), or until it is LEASE_SECS old by the server's clock; then it takes it over, on the condition that
it is still the same. So a dead process holds a lock for LEASE_SECS at most.

A holder that cannot renew its lock for LEASE_SECS, or finds it taken, ends its process at once: it was stopped or cut off, and
another one may be at work. What it was writing just then may still arrive.
"""
import contextlib
import json
import os
import pathlib
import re
import secrets
import sys
import threading
import time

from input_pipeline import bucket
from input_pipeline.rules import UserError
from trainer.places import Address

RENEW_SECS = 10
LEASE_SECS = 45
LOOK_SECS = 0.5  # between two looks at a lock that another one holds
LOST = 1  # the exit code of a process whose lock was taken


class Held(UserError):
    """Another process holds a lock."""


@contextlib.contextmanager
def hold(path: Address, message: str, *, patience: float):
    """Holds the lock. Held, with `message`, if a living process keeps it for so many seconds. OSError: no storage."""
    content = json.dumps({"holder": f"{os.getpid()} on {os.uname().nodename}", **_identity(),
                          "token": secrets.token_hex(8)}).encode()
    entry = _take(path, content, message, patience)
    renewal = _Renewal(path, content, entry.generation)
    try:
        yield
    finally:
        renewal.end()


def held(path: Address) -> bool:
    """Whether a living process holds the lock, as far as can be seen."""
    try:
        entry, holder = _look(path)
    except FileNotFoundError:
        return False
    return entry.age <= LEASE_SECS and not _is_dead(holder)


def _take(path: Address, content: bytes, message: str, patience: float) -> bucket.Entry:
    begun, seen, renewed, said = time.monotonic(), None, False, False
    while True:
        with contextlib.suppress(FileExistsError):
            return bucket.write(path, content, generation=0)
        try:
            entry, holder = _look(path)
        except FileNotFoundError:
            continue  # it was given back
        if entry.age > LEASE_SECS or _is_dead(holder):
            with contextlib.suppress(FileExistsError):
                return bucket.write(path, content, generation=entry.generation)
            continue
        renewed |= seen not in (None, entry.generation)
        seen = entry.generation
        waited = time.monotonic() - begun
        if waited >= patience and (renewed or not patience):
            raise Held(f"{message} (process {holder['holder']}); wait for it, or end it")
        if waited > patience and not said:
            said = True
            print(f"{path} is locked by process {holder['holder']}, which may be dead: up to {LEASE_SECS} s will tell",
                  file=sys.stderr, flush=True)
        time.sleep(LOOK_SECS)


def _look(path: Address) -> tuple[bucket.Entry, dict]:
    """The lock's object and who holds it."""
    entry = bucket.stat(path)
    try:
        holder = json.loads(bucket.read(path))
        assert isinstance(holder, dict)
    except (ValueError, AssertionError):
        holder = {}
    found = re.fullmatch(r"[0-9]{1,10}( on [\w.-]{1,100})?", str(holder.get("holder")))
    return entry, {**holder, "holder": found[0] if found else "unknown"}


def _identity() -> dict:
    """What tells whether this process lives to another one on this machine: the machine since its start, the process."""
    with contextlib.suppress(OSError, IndexError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino  # a container has process numbers of its own
        return {"machine": f"{boot} {space}", "process": os.getpid(), "since": _since(os.getpid())}
    return {}


def _since(process: int) -> str:
    """When a process began, in ticks since the machine's start. OSError: there is none."""
    return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]


def _is_dead(holder: dict) -> bool:
    """Whether the holder ran on this machine and does no more."""
    ours = _identity()
    if not ours or holder.get("machine") != ours["machine"] or type(holder.get("process")) is not int:
        return False
    try:
        return _since(holder["process"]) != holder.get("since")
    except OSError:
        return True


class _Renewal:
    """Renews a lock until `end`, which gives it back."""

    def __init__(self, path: Address, content: bytes, generation: int):
        self._path, self._content, self._generation = path, content, generation
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of {path}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Gives the lock back, if it still is ours; else it comes free by its age."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            bucket.delete(self._path, generation=self._generation)

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(RENEW_SECS):
            now = time.monotonic()
            try:
                self._generation = bucket.write(self._path, self._content, generation=self._generation).generation
                renewed = now
            except FileExistsError:
                self._lost("another process took it")
            except OSError as error:
                if time.monotonic() - renewed > LEASE_SECS:
                    self._lost(f"it could not be renewed for {LEASE_SECS} s ({error.strerror})")

    def _lost(self, why: str) -> None:
        print(f"{self._path}: {why}; this process ends, as another one may be at work. The same command goes on from the last "
              "checkpoint", file=sys.stderr, flush=True)
        os._exit(LOST)
