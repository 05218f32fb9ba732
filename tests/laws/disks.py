"""File systems of a test's own, in a mount namespace: nobody else sees them, and they go with the process that holds it.

    with disks.small(folder, kilobytes=1024) as disk:
        disk.path                # the file system's root, for any process of this machine
        disk.fill(leave=8192)    # bytes; disk.make_room()
        disk.mount("-o remount,ro", folder)
"""
import contextlib
import os
import pathlib
import shutil
import subprocess

import pytest


class Disk:
    """A small file system (tmpfs)."""

    def __init__(self, shell: subprocess.Popen, folder: pathlib.Path):
        self._shell, self.folder = shell, folder
        self.path = self.seen(folder)
        self._ballast = self.path / "ballast"

    def seen(self, path: pathlib.Path) -> pathlib.Path:
        """What `path` is in the namespace, as processes outside see it."""
        return pathlib.Path(f"/proc/{self._shell.pid}/root{path}")

    def mount(self, options: str, *arguments: pathlib.Path) -> None:
        """mount, in the namespace."""
        self._shell.stdin.write(f"mount {options} {' '.join(map(str, arguments))} && echo done || echo failed\n")
        self._shell.stdin.flush()
        answer = self._shell.stdout.readline()
        assert answer == "done\n", f"mount {options}: {answer}{self._shell.poll()}"

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.path).free

    def fill(self, *, leave: int) -> None:
        """Takes the room but for so many bytes."""
        with open(self._ballast, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self._ballast.stat().st_size + self.free - leave))

    def make_room(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small(folder: pathlib.Path, *, kilobytes: int):
    """A Disk on `folder`, in a namespace of its own. Skips where that is not allowed."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", folder],
                                                     capture_output=True).returncode:
        pytest.skip("needs unshare -m and mount, so root (or a user namespace) on Linux")
    shell = subprocess.Popen(["unshare", "-m", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    try:
        disk = Disk(shell, folder)
        disk.mount(f"-t tmpfs -o size={kilobytes}k none", folder)
        yield disk
    finally:
        shell.stdin.close()
        shell.wait()
        shell.stdout.close()
