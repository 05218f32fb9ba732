"""A Cloud TPU API (v1) on loopback for tests, and the port at which a TPU node is told its software's version.

    with tpu_api.serve([{"state": "CREATING"}, {"state": "READY", "health": "HEALTHY"}]) as api: ...

Each question for a node is answered by the next entry, the last one again and again: a dictionary, or a function of the
handler. `api.asked` are the names asked for, `api.versions` the requests to the version port.
"""
import contextlib
import http.server
import json
import os
import threading

READY = {"state": "READY", "health": "HEALTHY", "acceleratorType": "v3-32"}
METHOD = {"id": "tpu.projects.locations.nodes.get", "path": "v1/{+name}", "httpMethod": "GET", "parameterOrder": ["name"],
          "response": {"$ref": "Node"}, "parameters": {"name": {"type": "string", "location": "path", "required": True,
                                                                "pattern": "^projects/[^/]+/locations/[^/]+/nodes/[^/]+$"}}}


class Api:
    """The running server: its address, what it was asked."""

    def __init__(self, answers: list):
        self.answers, self.asked, self.versions, self.url = list(answers), [], [], ""

    def next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def reply(handler, body: bytes, status: int = 200) -> None:
    """Sends a whole answer."""
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int):
    """An answer that is an error of the API."""
    return lambda handler: reply(handler, json.dumps({"error": {"code": code, "message": "no"}}).encode(), code)


def _handler(api: Api):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            if self.path.startswith("/discovery/"):
                nodes = {"methods": {"get": METHOD}}
                resources = {"projects": {"resources": {"locations": {"resources": {"nodes": nodes}}}}}
                return reply(self, json.dumps({
                    "kind": "discovery#restDescription", "name": "tpu", "version": "v1", "id": "tpu:v1", "rootUrl": api.url,
                    "baseUrl": api.url, "servicePath": "", "batchPath": "batch", "protocol": "rest", "resources": resources,
                    "parameters": {"alt": {"type": "string", "location": "query", "default": "json"}},
                    "schemas": {"Node": {"id": "Node", "type": "object"}}}).encode())
            api.asked.append(self.path.split("?")[0])
            answer = api.next()
            return answer(self) if callable(answer) else reply(self, json.dumps(answer).encode())

        def do_POST(self):
            api.versions.append(self.path)
            reply(self, b"{}", 404 if "9.9.9" in self.path else 200)

    return Handler


@contextlib.contextmanager
def serve(answers: list, version_host: str = ""):
    """The API on a free port, which TPU_API_DISCOVERY_URL names; version_host: an address of loopback for port 8475."""
    api = Api(answers)
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))]
    if version_host:
        servers.append(http.server.ThreadingHTTPServer((version_host, 8475), _handler(api)))
    api.url = f"http://127.0.0.1:{servers[0].server_port}/"
    before = os.environ.get("TPU_API_DISCOVERY_URL")
    os.environ["TPU_API_DISCOVERY_URL"] = api.url + "discovery/v1/apis/{api}/{apiVersion}/rest"
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield api
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        if before is None:
            del os.environ["TPU_API_DISCOVERY_URL"]
        else:
            os.environ["TPU_API_DISCOVERY_URL"] = before
