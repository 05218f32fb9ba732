"""A web server on loopback for the tests of downloads: it can honour ranges or not, cut, hold and lie.

    with Server({"/a.tar.gz": content}) as server:
        server.cut.append(1000)              # the next answer ends after 1000 bytes of its body
        ...
        assert server.requests == [("/a.tar.gz", None), ("/a.tar.gz", "bytes=1000-")]
"""

import hashlib
import http.server
import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import threading
import time

from input_pipeline import download

ROOT = pathlib.Path(__file__).parents[2]
TOP = "cifar-10-batches-bin"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.ranges = True                        # False: answers 200 and everything, as a plain server does
        self.wrong_range = False                  # True: answers a range that was not asked for
        self.length = True                        # False: no Content-Length
        self.status: list[int] = []               # the next answers are these errors
        self.cut: list[int] = []                  # the next answers end after so many bytes
        self.hold_after: int | None = None        # answers stop after so many bytes until `release` is set
        self.release = threading.Event()
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Clients that hang up are what these tests are about."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.requests.append((self.path, asked))
        if server.status:
            return self.send_error(server.status.pop(0))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if first >= len(content):
            return self.send_error(416)
        if asked and server.ranges:
            self.send_response(206)
            shown = first + 1 if server.wrong_range else first
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[first:]
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cut:
            body = body[:server.cut.pop(0)]
        if server.hold_after is not None:
            self.wfile.write(body[:server.hold_after])
            body = body[server.hold_after:]
            server.release.wait()
        self.wfile.write(body)


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), link
    return info, content


def tar_gz(*members: tuple) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar_like(size: int = 300_000) -> bytes:
    """A small tar of the real one's layout, about `size` bytes long, as its pixels do not compress."""
    pixels = hashlib.shake_256(b"pixels").digest(size)
    return tar_gz(member(TOP, kind=tarfile.DIRTYPE), member(f"{TOP}/data_batch_1.bin", pixels),
                  member(f"{TOP}/batches.meta.txt", b"airplane\n"))


def archive_of(content: bytes, url: str, **changes) -> download.Archive:
    """An Archive that fits `content`, but for `changes` (those of the file: sha256, size)."""
    of_file = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    of_file |= {name: changes.pop(name) for name in list(changes) if name in of_file}
    remote = download.Remote(url=url, name=url.rsplit("/", 1)[1], **of_file)
    return download.Archive(**{"name": "small", "folder": TOP, "kind": "tar", "files": (remote,),
                               "unpacked_limit": 1_000_000, "members_limit": 10} | changes)


def environment(**more: str) -> dict[str, str]:
    """This process's, without a proxy or mirror between the test and its server."""
    ours = {name: value for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and name != "LOCKSTEP_MIRROR"}
    return ours | {"no_proxy": "*", "PYTHONPATH": f"{ROOT}:{pathlib.Path(__file__).parent}"} | more


def start(*arguments: str, **more: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment(**more), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition, what: str, *, seconds: float = 20.0) -> None:
    """Returns as soon as `condition()` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        os.sched_yield()


def killed(process: subprocess.Popen, signum: int = signal.SIGKILL) -> int:
    process.send_signal(signum)
    process.communicate(timeout=30)
    return process.returncode
