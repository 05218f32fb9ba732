"""launch.kubernetes: submission, state, logs and cancellation, against a fake API server on loopback.

Mutations: the policy is created last; a refused JobSet leaves it behind.
"""
import pytest

import api_server
from launch import kubernetes, manifest, spec

FLAGS = ("--image=registry.example.org/lockstep:1", "--num_workers=4", "--evaluator", "--", "--model_dir=gs://b/m")


@pytest.fixture
def server(tmp_path, monkeypatch):
    import kubernetes.config.kube_config as library
    monkeypatch.setattr(library, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    with api_server.running(tmp_path / "kubeconfig") as running:
        yield running


JOBSET = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets/lockstep"
POLICY = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/lockstep"


def command(capsys, *argv: str) -> tuple[int, str, str]:
    code = spec.command(["x", *argv], manifest.KubernetesJob, kubernetes.start, name="launch.kubernetes", doc="")
    return code, *capsys.readouterr()


def test_submission_creates_the_policy_first(server, capsys):
    code, out, _ = command(capsys, *FLAGS)
    assert code == 0 and "--action=logs --name=lockstep --namespace=default" in out
    assert [(method, path.rsplit("/", 1)[1]) for method, path, *_ in server.requests] == [
        ("POST", "networkpolicies"), ("POST", "jobsets")]
    job = spec.parse(["x", *FLAGS], manifest.KubernetesJob)
    assert server.objects == {JOBSET: manifest.jobset(job), POLICY: manifest.network_policy(job)}


def test_a_refused_jobset_leaves_no_policy_behind(server, capsys):
    server.refuse["POST", "jobsets"] = (403, "jobsets is forbidden\nfor you")
    code, _, error = command(capsys, *FLAGS)
    assert code == 2 and server.objects == {}
    assert error == "launch.kubernetes: JobSet: the API server says 403 Forbidden: jobsets is forbidden for you\n"


def test_the_same_name_twice_is_an_error_and_leaves_the_first(server, capsys):
    assert command(capsys, *FLAGS)[0] == 0
    code, _, error = command(capsys, *FLAGS)
    assert code == 2 and "409" in error and "already exists; give --action=cancel first, or another --name" in error and set(server.objects) == {JOBSET, POLICY}


def test_status(server, capsys):
    command(capsys, *FLAGS)
    server.objects[JOBSET]["status"] = {"restarts": 2, "terminalState": "Failed", "conditions": [
        {"type": "Failed", "status": "True", "message": "code 2"},
        {"type": "Suspended", "status": "False", "message": "no"}]}
    server.pods = [{**api_server.POD, "metadata": {"name": "lockstep-worker-0-0-abcde"}}]
    code, out, _ = command(capsys, "--action=status")
    assert code == 0 and out.splitlines() == ["lockstep: Failed, 2 restarts", "  Failed: code 2",
                                              "  lockstep-worker-0-0-abcde: Running"]
    assert server.requests[-1][2] == {"labelSelector": "jobset.sigs.k8s.io/jobset-name=lockstep"}


def test_logs_are_those_of_the_newest_chief(server, capsys):
    server.log = b"step 10\nstep 20\nno end"
    born = {"lockstep-worker-0-0-new": 2, "lockstep-worker-0-0-old": 1, "lockstep-worker-0-1-x": 3}
    server.pods = [{**api_server.POD, "metadata": {"name": name, "creationTimestamp": f"2026-01-0{day}T00:00:00Z"}}
                   for name, day in born.items()]
    code, out, _ = command(capsys, "--action=logs")
    assert code == 0 and out == "step 10\nstep 20\nno end\n"
    method, path, query, _ = server.requests[-1]
    assert path.endswith("/pods/lockstep-worker-0-0-new/log") and query["follow"].lower() == "true"


def test_logs_wait_for_a_chief_that_is_not_there_yet(server):
    waiting = {**api_server.POD, "metadata": {"name": "lockstep-worker-0-0-a"}, "status": {"phase": "Pending"}}
    server.pods, server.log, shown = [waiting], b"now\n", []

    def sleep(_):
        server.pods = [{**waiting, "status": {"phase": "Running"}}]

    kubernetes.Cluster("default").follow("lockstep", shown.append, sleep)
    assert shown == ["now"]


def test_cancel_deletes_both_and_the_pods_before_the_jobset(server, capsys):
    command(capsys, *FLAGS)
    assert command(capsys, "--action=cancel")[0] == 0 and server.objects == {}
    deletion = next(request for request in server.requests if request[0] == "DELETE" and "jobsets" in request[1])
    assert "Foreground" in (deletion[2].get("propagationPolicy"), (deletion[3] or {}).get("propagationPolicy"))
    code, _, error = command(capsys, "--action=cancel")
    assert code == 2 and "there is no JobSet default/lockstep" in error


def test_cancel_keeps_the_policy_until_no_pod_is_left(server):
    """They save for --grace_secs, and their servers execute what they are sent. Mutation: deleted at once."""
    kept = []
    server.objects[POLICY] = {"kind": "NetworkPolicy"}
    server.pods = [{**api_server.POD, "metadata": {"name": "lockstep-worker-0-0-a"}}]

    def sleep(_):
        kept.append(POLICY in server.objects)
        server.pods = []

    kubernetes.Cluster("default").cancel("lockstep", sleep)
    assert kept == [True] and POLICY not in server.objects


def test_a_server_that_is_away_and_no_configuration_are_one_line(tmp_path, monkeypatch, capsys):
    import kubernetes.config.kube_config as library
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr(library, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    code, _, error = command(capsys, *FLAGS)
    assert code == 2 and error.startswith("launch.kubernetes: no cluster: ") and error.count("\n") == 1
    with api_server.running(path):
        pass
    code, _, error = command(capsys, *FLAGS)
    assert code == 2 and "the API server cannot be reached" in error and error.count("\n") == 1
