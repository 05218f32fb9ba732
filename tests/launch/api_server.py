"""A fake Kubernetes API server on loopback: keeps objects, records requests, answers as told."""
import contextlib
import http.server
import json
import pathlib
import threading
import urllib.parse

POD = {"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"}}


class Server:
    """objects: by path. refuse: (method, part of a path) to (status, message). requests: (method, path, query, body)."""

    def __init__(self):
        self.objects, self.refuse, self.requests, self.pods, self.log = {}, {}, [], [], b""

    def answer(self, method: str, path: str, query: dict, body: dict | None) -> tuple[int, bytes]:
        self.requests.append((method, path, query, body))
        for (refused, part), (status, message) in self.refuse.items():
            if refused == method and part in path:
                return status, json.dumps({"kind": "Status", "status": "Failure", "message": message}).encode()
        if path.endswith("/log"):
            return 200, self.log
        if path.endswith("/pods"):
            return 200, json.dumps({"apiVersion": "v1", "kind": "PodList", "items": self.pods}).encode()
        if method == "POST":
            path += "/" + body["metadata"]["name"]
            if path in self.objects:
                return 409, json.dumps({"message": f"{body['kind']} already exists"}).encode()
            self.objects[path] = body
            return 201, json.dumps(body).encode()
        if path not in self.objects:
            return 404, json.dumps({"message": f"{path.rsplit('/', 1)[1]} not found"}).encode()
        found = self.objects.pop(path) if method == "DELETE" else self.objects[path]
        return 200, json.dumps(found).encode()


@contextlib.contextmanager
def running(kubeconfig: pathlib.Path):
    """Serves until the end of the block; `kubeconfig` is a file that points there."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            url = urllib.parse.urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, data = state.answer(self.command, url.path, dict(urllib.parse.parse_qsl(url.query)), body)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if url.path.endswith("/log") else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_):
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "fake", "user": {}}]}))
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
