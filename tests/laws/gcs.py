"""Google Cloud Storage on loopback, for tests: gcp-storage-emulator behind a proxy that both TensorFlow and gcsfs can use.

TensorFlow's gs:// insists on https://www.googleapis.com: it gets a proxy (https_proxy), which speaks TLS with a certificate
of its own (CURL_CA_BUNDLE). gcsfs takes STORAGE_EMULATOR_HOST. What the emulator (2026.7.19) lacks the proxy adds:
preconditions (ifGenerationMatch), an https address of a resumable upload, a body where an upload is empty.

    with gcs.Store(tmp_path) as store:
        runs.train("gs://bucket/run", env=store.environment)
        store.read("run/DONE"); store.names("run/"); store.refuse(403)
"""
import http.client
import http.server
import json
import logging
import os
import pathlib
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.parse

from gcp_storage_emulator.server import create_server

BUCKET = "bucket"
HOP = {"connection", "transfer-encoding", "expect", "proxy-connection", "accept-encoding", "content-length", "date", "server"}


class Store:
    """A bucket named `bucket`, in memory. environment: what a process needs to use it. requests: (method, path) of all."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._refused, self._lock, self.requests = pathlib.Path(folder), None, threading.RLock(), []

    def __enter__(self) -> "Store":
        certificate, key = self._folder / "ca.pem", self._folder / "key.pem"
        names = "subjectAltName=DNS:www.googleapis.com,DNS:storage.googleapis.com"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                        "/CN=www.googleapis.com", "-keyout", key, "-out", certificate, "-addext", names], check=True,
                       capture_output=True)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self._emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
        self._emulator.start()
        self._port = self._emulator._api._httpd.server_address[1]
        self._proxy = _Server(("127.0.0.1", 0), type("Bound", (_Forward,), {"store": self}))
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self.environment = {"https_proxy": address, "CURL_CA_BUNDLE": str(certificate), "STORAGE_EMULATOR_HOST": address,
                            "NO_GCE_CHECK": "true", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "t", "no_proxy": "",
                            "CLOUDSDK_CONFIG": str(self._folder), "GOOGLE_APPLICATION_CREDENTIALS": ""}
        return self

    def __exit__(self, *_) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._emulator.stop()

    def refuse(self, status: int | None, methods: str = "GET PUT POST DELETE") -> None:
        """From now on requests of these methods are answered with this error; None: no longer."""
        self._refused = status and (status, methods.split())

    def names(self, prefix: str = "") -> list[str]:
        """The names of all objects that begin so."""
        _, _, data = self._ask("GET", f"/storage/v1/b/{BUCKET}/o?" + urllib.parse.urlencode({"prefix": prefix}))
        return sorted(item["name"] for item in json.loads(data).get("items", ()))

    def read(self, name: str) -> bytes:
        """An object's content."""
        status, _, data = self._ask("GET", f"/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}?alt=media")
        assert status == 200, (name, status)
        return data

    def write(self, name: str, content: bytes) -> None:
        """Makes `content` the object's, past every precondition."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        assert self._ask("POST", f"/upload/storage/v1/b/{BUCKET}/o?{query}", content)[0] == 200

    def delete(self, name: str) -> None:
        """Deletes an object."""
        assert self._ask("DELETE", f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}")[0] < 300

    def put_folder(self, folder: pathlib.Path, name: str) -> None:
        """Copies the files of a local folder to objects below `name`."""
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                self.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def get_folder(self, name: str, folder: pathlib.Path) -> pathlib.Path:
        """Copies the objects below `name` to files in a local folder."""
        for found in self.names(name + "/"):
            path = pathlib.Path(folder, found.removeprefix(name + "/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(found))
        return pathlib.Path(folder)

    def answer(self, method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        """What the service says to a request: status, headers, content."""
        with self._lock:
            self.requests.append((method, urllib.parse.unquote(path)))
            if self._refused and method in self._refused[1]:
                return self._refused[0], {}, json.dumps({"error": {"code": self._refused[0], "message": "refused"}}).encode()
            if method == "DELETE" and "upload_id=" in path:
                return 499, {}, b""  # an upload is given up
            if not self._holds(path, headers, body):
                return 412, {}, b'{"error": {"code": 412, "message": "conditionNotMet"}}'
            return self._ask(method, path, body, headers)

    def _ask(self, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> tuple[int, dict, bytes]:
        with self._lock:
            upstream = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            upstream.request(method, path, body, {**(headers or {}), "Content-Length": str(len(body))})
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def _holds(self, path: str, headers: dict, body: bytes) -> bool:
        """Whether the object has the generation that the request asks for."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        if "ifGenerationMatch" not in query:
            return True
        found = re.search(r"/o/([^/?]+)", path)
        name = found[1] if found else query.get("name", [None])[0]
        if name is None:
            name = json.loads(re.search(rb"\r?\n\r?\n(\{.*\})\r?\n--", body)[1])["name"]
        name = urllib.parse.quote(urllib.parse.unquote(name), safe="")
        status, _, data = self._ask("GET", f"/storage/v1/b/{BUCKET}/o/{name}")
        now = json.loads(data)["generation"] if status == 200 else "0"
        return now == query["ifGenerationMatch"][0]


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Forward(http.server.BaseHTTPRequestHandler):
    """One connection: plain HTTP, or after CONNECT, TLS."""

    protocol_version = "HTTP/1.1"
    store: Store
    secure = False

    def log_message(self, *_) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass  # the other process was killed

    def do_CONNECT(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        secured = self.store._tls.wrap_socket(self.connection, server_side=True)
        secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        type("Secured", (type(self),), {"secure": True})(secured, self.client_address, self.server)
        self.close_connection = True

    def _forward(self) -> None:
        body = self._body() or (b"\n" if "uploadType=media" in self.path else b"")
        path = re.sub(r"^https?://[^/]+", "", self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        status, found, data = self.store.answer(self.command, path, headers, body)
        self.send_response(status)
        for name, value in found.items():
            if name.lower() == "location":
                host = "https://www.googleapis.com" if self.secure else f"http://{self.headers['Host']}"
                value = f"{host}/{value.split('/', 3)[3]}"
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _forward


def use(store: Store, monkeypatch) -> None:
    """This process uses the store from now on."""
    from input_pipeline import bucket_calls
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    bucket_calls.client.cache_clear()
    assert os.environ["STORAGE_EMULATOR_HOST"]
