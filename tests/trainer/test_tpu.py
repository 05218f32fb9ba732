"""Waiting for a TPU, against a Cloud TPU API on loopback: healthy, being made, unhealthy, preempted, missing, forbidden,
garbage, an API that says nothing; its software's version; a signal in between.

What must make these red: waiting on for what cannot come, giving up on what may, hiding what the API says, changing the
software of a TPU VM or of one that has the right version already, an unbounded wait.
"""
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest
import tpu_api
from oauth2client.client import AccessTokenCredentials, ApplicationDefaultCredentialsError

import runs
from trainer import tpu
from trainer.config import UserError

CREATING = {"state": "CREATING", "health": "UNHEALTHY_MAINTENANCE"}
SICK = {"state": "READY", "health": "UNHEALTHY_TENSORFLOW",
        "symptoms": [{"symptomType": "OUT_OF_MEMORY", "details": "worker 3 ran out", "createTime": "2026-01-01T00:00:00Z"}]}
CREDENTIALS = AccessTokenCredentials("token", "test")


class Time:
    """A clock that only sleeping moves, so that a wait of minutes takes none."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def clock(self):
        return self.now


def wait(answers: list, name: str = "pod", **options) -> tuple[list[str], tpu_api.Api, float]:
    """(lines, what the API was asked, seconds that it took by the false clock)."""
    lines, time = [], Time()
    given = {"zone": "europe-west4-a", "project": "mine", "credentials": CREDENTIALS, **options}
    host = given.pop("version_host", "")
    with tpu_api.serve(answers, host) as api:
        try:
            tpu.ready(name, say=lines.append, sleep=time.sleep, clock=time.clock, **given)
        finally:
            wait.lines, wait.api = lines, api
    return lines, api, time.now


def test_ready_and_healthy_is_one_line_and_one_question():
    lines, api, seconds = wait([tpu_api.READY])
    assert api.asked == ["/v1/projects/mine/locations/europe-west4-a/nodes/pod"] and seconds == 0
    assert lines == ["--tpu=pod in europe-west4-a of project mine: state READY, health HEALTHY, v3-32, recoverable"]


def test_being_made_is_waited_for_with_a_line_a_change():
    lines, api, seconds = wait([CREATING] * 3 + [{**CREATING, "state": "STARTING"}] + [tpu_api.READY])
    assert len(api.asked) == 5 and seconds == 4 * tpu.POLL_SECS
    assert [line.split("state ")[1].split(",")[0] for line in lines] == ["CREATING", "STARTING", "READY"]
    assert "waiting, 1200 s at most" in lines[0] and "waiting, 1155 s at most" in lines[1]


def test_ready_but_unhealthy_is_waited_for_to_the_bound_and_says_the_symptoms():
    with pytest.raises(tpu.NotYet, match="UNHEALTHY_TENSORFLOW.*OUT_OF_MEMORY worker 3 ran out.*recoverable") as caught:
        wait([SICK], wait_secs=100, poll_secs=10)
    assert caught.value.exit_code == 75 and "within 100 s" in str(caught.value)
    assert len(wait.api.asked) == 11 and len(wait.lines) == 1


@pytest.mark.parametrize("state", sorted(tpu.LOST))
def test_lost_ends_at_once_with_code_2(state):
    with pytest.raises(UserError, match=f"{tpu.LOST[state]}: state {state}.*not recoverable; make it anew") as caught:
        wait([CREATING, {"state": state, "health": "HEALTHY"}])
    assert caught.value.exit_code == 2 and len(wait.api.asked) == 2


@pytest.mark.parametrize("code, words", [(404, "--tpu_zone"), (403, "roles/tpu.viewer"), (400, "does not understand")])
def test_what_the_api_refuses_ends_at_once_with_code_2(code, words):
    with pytest.raises(UserError, match=words) as caught:
        wait([tpu_api.status(code)])
    assert caught.value.exit_code == 2 and f"answered {code}" in str(caught.value) and len(wait.api.asked) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad, words", [
    (tpu_api.status(500), "answered 500"), (tpu_api.status(429), "answered 429"),
    (lambda handler: tpu_api.reply(handler, b"<html>not JSON"), "cannot be understood"),
    (lambda handler: tpu_api.reply(handler, b"[1, 2]"), "is none"),
    ({"health": "HEALTHY"}, "is none"), ({"state": 7}, "is none"),
    (lambda handler: handler.wfile.write(b"\0\1\2 no HTTP at all"), "cannot be understood"),
    (lambda handler: handler.connection.close(), "cannot be understood"),
])
def test_an_api_that_talks_nonsense_is_asked_again(bad, words):
    lines, api, _ = wait([bad] * 4 + [tpu_api.READY])  # httplib2 asks again by itself where a connection breaks
    assert words in lines[0] and "HEALTHY" in lines[-1]
    with pytest.raises(tpu.NotYet, match=words) as caught:
        wait([bad], wait_secs=50, poll_secs=10)
    assert len(str(caught.value)) < 600


def test_an_api_that_says_nothing_does_not_hold_the_wait():
    release = threading.Event()
    try:
        lines, api, _ = wait([lambda handler: release.wait(60) or tpu_api.reply(handler, b"{}"), tpu_api.READY],
                             answer_secs=1.5)
    finally:
        release.set()
    assert "has not answered" in lines[0] and "HEALTHY" in lines[1]


def test_credentials_and_places_that_are_not_there(monkeypatch):
    with pytest.raises(UserError, match="no credentials: .*expired or invalid"):
        wait([tpu_api.status(401)])
    def none():
        raise ApplicationDefaultCredentialsError("The Application Default Credentials are not available.")

    from cloud_tpu_client import client
    monkeypatch.setattr(client.client.GoogleCredentials, "get_application_default", none)
    with pytest.raises(UserError, match="no credentials: .*gcloud auth application-default login") as caught:
        wait([tpu_api.READY], credentials=None)
    assert caught.value.exit_code == 2
    monkeypatch.setattr(client, "_GCE_METADATA_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(UserError, match="without --gcp_project and --tpu_zone: outside Google Cloud"):
        wait([tpu_api.READY], zone="", project="")
    with pytest.raises(UserError, match="without --tpu_zone: "):
        wait([tpu_api.READY], zone="")


def test_the_software_of_a_node_is_changed_only_where_it_differs():
    host = "127.77.0.1"
    node = {**tpu_api.READY, "tensorflowVersion": "2.19.0", "networkEndpoints": [{"ipAddress": host, "port": 8470}]}
    after = {**node, "tensorflowVersion": "2.20.0"}
    # The client asks once more for the endpoints; then the node restarts.
    lines, api, _ = wait([node, node, {**node, "state": "RESTARTING"}, after], version="2.20.0", version_host=host)
    assert api.versions == ["/requestversion/2.20.0?restartType=ifNeeded"]
    assert "its software is 2.19.0, this TensorFlow 2.20.0" in lines[1] and "RESTARTING" in lines[2] and "HEALTHY" in lines[3]
    for same in (after, {**node, "apiVersion": "V2_ALPHA1"}, {**node, "apiVersion": "V2", "runtimeVersion": "tpu-ubuntu2204"},
                 tpu_api.READY):
        assert wait([same], version="2.20.0", version_host=host)[1].versions == []
    with pytest.raises(UserError, match="could not be changed to 9.9.9: Tensorflow version 9.9.9 is not available") as caught:
        wait([node], version="9.9.9", version_host=host)
    assert caught.value.exit_code == 2


def test_an_address_needs_no_api():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        lines, api, _ = wait([tpu_api.READY], f"grpc://127.0.0.1:{port}")
        both = f"grpc://127.0.0.1:{port},grpc://127.0.0.1:{port}"
        assert wait([tpu_api.READY], both)[0] == [f"--tpu={both}: answers"]
    assert lines == [f"--tpu=grpc://127.0.0.1:{port}: answers"] and api.asked == []
    with pytest.raises(tpu.NotYet, match="does not answer: .*refused"):
        wait([tpu_api.READY], f"grpc://127.0.0.1:{port}", wait_secs=30)
    assert wait([tpu_api.READY], "local")[0] == []


def test_sigterm_while_it_waits_ends_at_once(tmp_path):
    program = """
import sys
sys.path.insert(0, "tests/trainer")
from trainer import signals
signals.install()
import tpu_api
from oauth2client.client import AccessTokenCredentials
from trainer import tpu
with tpu_api.serve([{"state": "CREATING"}]):
    tpu.ready("pod", zone="z", project="p", credentials=AccessTokenCredentials("t", "t"),
              say=lambda line: print(line, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=pathlib.Path(runs.ROOT), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert "CREATING" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143  # it would have polled again after 15 s
    process.communicate()
