"""Waiting for a Cloud TPU until it is there and healthy, and saying what the Cloud says of it. Without TensorFlow.

    tpu.ready("pod", zone="europe-west4-a", project="mine", version=tf.__version__, say=print)

* NAME: asks the Cloud TPU API (v1, the one cloud-tpu-client speaks) every POLL_SECS, says what has changed, ends when the
  TPU is READY and HEALTHY. A TPU node whose software is not this TensorFlow's version is told to change it
  (Client.configure_tpu_version), and waited for again. A TPU VM (API v2) runs what was installed on its hosts: nothing is
  changed there. Asking for one (queued resources) is `python -m launch.tpu_vm`'s business, which waits for it as well.
* grpc://HOST:PORT: no API; waits until the port answers.
* local: this machine's own TPU; there is nothing to wait for.

What waiting cannot mend (no such TPU, no permission, preempted) is a UserError, exit code 2, at once. What may mend itself
(still being made, unhealthy, an API that does not answer) is waited for, WAIT_SECS at most, and then NotYet, exit code 75,
after which a launcher tries again. Tested against an API on loopback; never run on a TPU.
"""
import dataclasses
import functools
import http.client
import queue
import socket
import threading
import time
from collections.abc import Callable

from input_pipeline.rules import NotYet, shown
from trainer.config import UserError
from trainer.devices import host_and_port

WAIT_SECS, POLL_SECS = 1200.0, 15.0
ANSWER_SECS = 60.0  # of the API, for one question
LOST = {"PREEMPTED": "it was preempted", "TERMINATED": "it was terminated", "DELETING": "it is being deleted",
        "HIDDEN": "it is hidden", "HIDING": "it is being hidden", "STOPPED": "it is stopped"}
WORDS = {401: "no valid credentials; run gcloud auth application-default login",
         403: "no permission to see it; the account needs the role roles/tpu.viewer, and the project the Cloud TPU API",
         404: "there is no such TPU in this zone and project; see --tpu_zone, --gcp_project and gcloud compute tpus list",
         400: "the API does not understand the name, zone or project"}


class _Transient(Exception):
    """The API did not answer, or not as it should: worth another try."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """What the API says of a TPU. state, health: its words. symptoms: what it reports, newest last. version: of its
    software, "" where it is a TPU VM."""

    state: str
    health: str
    symptoms: tuple[str, ...]
    version: str
    accelerator: str

    @property
    def ready(self) -> bool:
        """Whether it can be used."""
        return self.state == "READY" and self.health == "HEALTHY"

    @property
    def recoverable(self) -> bool:
        """Whether waiting may help."""
        return self.state not in LOST

    def __str__(self):
        words = [f"state {self.state}", f"health {self.health}", *([self.accelerator] if self.accelerator else []),
                 *(f"symptom {symptom}" for symptom in self.symptoms[-3:]),
                 "recoverable" if self.recoverable else "not recoverable"]
        return ", ".join(words)


def ready(tpu: str, *, zone: str = "", project: str = "", version: str = "", say: Callable[[str], None] = print,
          credentials=None, wait_secs: float = WAIT_SECS, poll_secs: float = POLL_SECS, answer_secs: float = ANSWER_SECS,
          sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
    """Returns when `tpu` can be used. UserError: it never will be; NotYet: it was not within `wait_secs`.

    version: the software that a TPU node must run ("": any). say: takes lines for the user. credentials: oauth2client's,
    in place of the application default ones.
    """
    if tpu == "local":
        return
    what, end = f"--tpu={shown(tpu)}", clock() + wait_secs
    until = functools.partial(_until, say=say, end=end, poll_secs=poll_secs, sleep=sleep, clock=clock)
    if tpu.startswith("grpc://"):
        addresses = tpu.removeprefix("grpc://").split(",grpc://")  # Kubernetes gives those of all hosts
        until(lambda: [_answers(address, answer_secs) for address in addresses][-1], what)
        return
    client = _client(tpu, zone, project, credentials, what)
    where = f"{what} in {client._zone} of project {client._project}"
    node = until(lambda: _asked(client, where, answer_secs), where)
    if version and node.version and node.version != version:
        say(f"{where}: its software is {node.version}, this TensorFlow {version}: it is changed, and the TPU restarts")
        _configure(client, version, where)
        sleep(poll_secs)  # it takes a moment before the API knows of the restart
        until(lambda: _asked(client, where, answer_secs), where)


def _until(ask, where: str, *, say, end: float, poll_secs: float, sleep, clock):
    """What `ask` gives once it is ready, with a line at every change. UserError, NotYet."""
    told, start = None, clock()
    while True:
        try:
            found = ask()
            text = str(found)
            if found.ready:
                say(f"{where}: {text}")
                return found
            if not found.recoverable:
                raise UserError(f"{where} cannot be used, {LOST[found.state]}: {text}; make it anew, or start it, and run "
                                "the same command: it goes on from the last checkpoint")
        except _Transient as error:
            text = str(error)
        if text != told:
            say(f"{where}: {text}; waiting, {max(0, end - clock()):.0f} s at most")
            told = text
        if clock() + poll_secs > end:
            raise NotYet(f"{where} was not ready within {clock() - start:.0f} s: {text}; try again later")
        sleep(poll_secs)


def _client(tpu: str, zone: str, project: str, credentials, what: str):
    """cloud-tpu-client's Client. UserError where zone or project are not known."""
    from cloud_tpu_client import client
    try:
        return client.Client(tpu=tpu, zone=zone or None, project=project or None,
                             **({"credentials": credentials} if credentials else {}))
    except OSError as error:  # it asks the metadata server, which only machines of Google's have
        missing = " and ".join(name for name, value in (("--gcp_project", project), ("--tpu_zone", zone)) if not value)
        raise UserError(f"{what} without {missing}: outside Google Cloud they must be given "
                        f"(the metadata server does not answer: {error})") from None


def _asked(client, where: str, answer_secs: float) -> Node:
    """What the API says now. UserError for what stays wrong, _Transient for what may not."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask():
        try:
            answers.put(client._fetch_cloud_tpu_metadata())  # one request; state(), health() ... would be one each
        except Exception as error:
            answers.put(error)

    # In a thread: a server that takes the question and says nothing would hold the trainer for ever.
    threading.Thread(target=ask, name="tpu-api", daemon=True).start()
    try:
        answer = answers.get(timeout=answer_secs)
    except queue.Empty:
        raise _Transient(f"the Cloud TPU API has not answered for {answer_secs:.0f} s") from None
    if isinstance(answer, Exception):
        raise _judged(answer, where)
    if not isinstance(answer, dict) or not isinstance(answer.get("state"), str):
        raise _Transient(f"the Cloud TPU API's answer is none: {shown(answer)}")
    symptoms = answer.get("symptoms") if isinstance(answer.get("symptoms"), list) else []
    described = tuple(shown(" ".join(str(symptom.get(name, "")) for name in ("symptomType", "details") if symptom.get(name)))
                      for symptom in symptoms if isinstance(symptom, dict))
    is_node = str(answer.get("apiVersion", "V1")).startswith("V1") or answer.get("apiVersion") == "API_VERSION_UNSPECIFIED"
    return Node(state=shown(answer["state"]), health=shown(answer.get("health", "unknown")), symptoms=described,
                version=str(answer.get("tensorflowVersion", "")) if is_node else "",
                accelerator=shown(answer.get("acceleratorType", "")))


def _judged(error: Exception, where: str) -> Exception:
    """A UserError or a _Transient for what the client raised."""
    cause = error.__context__ or error.__cause__ or error
    status = getattr(getattr(cause, "resp", None), "status", None)
    if status in WORDS:
        return UserError(f"{where}: {WORDS[status]} (the Cloud TPU API answered {status})")
    for one in (error, cause):
        if "Credentials" in type(one).__name__ or "RefreshError" in type(one).__name__ or "AccessToken" in type(one).__name__:
            return UserError(f"{where}: no credentials: {shown(one)}; run gcloud auth application-default login")
    if status is not None:
        return _Transient(f"the Cloud TPU API answered {status}")
    if isinstance(cause, (OSError, http.client.HTTPException, ValueError)) or "http" in type(cause).__module__:
        return _Transient(f"the Cloud TPU API cannot be understood or reached: {type(cause).__name__}: {shown(cause)}")
    return error


def _configure(client, version: str, where: str) -> None:
    """Tells a TPU node to run `version`. UserError where it cannot."""
    try:
        client.configure_tpu_version(version, restart_type="ifNeeded")
    except Exception as error:  # the client raises plain Exceptions
        raise UserError(f"{where}: its software could not be changed to {version}: {shown(error)}; run a TensorFlow of the "
                        "TPU's version, or open port 8475 between this machine and the TPU") from None


@dataclasses.dataclass(frozen=True)
class _Port:
    """A port that answers."""

    ready = recoverable = True

    def __str__(self):
        return "answers"


def _answers(address: str, answer_secs: float) -> _Port:
    """That something listens at HOST:PORT. _Transient where not."""
    try:
        socket.create_connection(host_and_port(address), timeout=answer_secs).close()
    except (OSError, OverflowError) as error:
        raise _Transient(f"{shown(address)} does not answer: {shown(error)}") from None
    return _Port()
