"""launch.kubernetes: the objects against the schemas of Kubernetes and of the JobSet, and what they promise.

Mutations: a field is misspelt; code 2 is restarted; the policy lets others in; a pod may write to its root.
"""
import copy
import json
import os
import pathlib
import re
import shlex
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

import runs
from input_pipeline.rules import UserError
from launch import cluster, kubernetes, manifest, spec

IMAGE = "--image=registry.example.org/lockstep:1"
GCS = ("--", "--model_dir=gs://b/m")
FORMS = {
    "CPU": (IMAGE, *GCS),
    "GPU workers": (IMAGE, "--num_workers=4", "--evaluator", "--accelerator=nvidia-l4", "--gpus_per_worker=2", *GCS),
    "volume": (IMAGE, "--num_workers=2", "--evaluator", "--claim=runs", "--", "--recipe=digits"),
    "TPU host": (IMAGE, "--evaluator", "--accelerator=tpu-v5-lite-podslice", "--topology=2x2", *GCS),
    "TPU slice": (IMAGE, "--evaluator", "--accelerator=tpu-v5-lite-podslice", "--topology=4x4", *GCS),
    "TPU multislice": (IMAGE, "--accelerator=tpu-v5p-slice", "--topology=2x2x4", "--slices=2", *GCS)}


def job(*argv: str) -> manifest.KubernetesJob:
    return spec.parse(["launch.kubernetes", *argv], manifest.KubernetesJob)


def objects(*argv: str) -> tuple[dict, dict]:
    """The JobSet and the NetworkPolicy, as a reader of the YAML sees them."""
    policy, jobset = yaml.safe_load_all(kubernetes.text(job(*argv)))
    return jobset, policy


def pods(jobset: dict) -> dict[str, dict]:
    return {each["name"]: each["template"]["spec"]["template"]["spec"] for each in jobset["spec"]["replicatedJobs"]}


def environment(pod: dict) -> dict[str, str]:
    return {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}


@pytest.fixture(scope="module")
def jobset_schema() -> jsonschema.Draft4Validator:
    """The schema of the JobSet's definition, in which no unknown field passes."""
    place = pathlib.Path(os.environ.get("LOCKSTEP_TEST_DATA") or pathlib.Path(__file__).parents[3] / "shared" / "data")
    path = place / "jobset.x-k8s.io_jobsets.yaml"
    if not path.is_file():
        pytest.skip(f"needs the JobSet's definition: set LOCKSTEP_TEST_DATA to a folder with {path.name}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(), loader)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    close(schema)
    return jsonschema.Draft4Validator(schema)


def close(schema) -> None:
    """Forbids what the schema does not name, as the API server prunes or refuses it. metadata is the API server's own."""
    if isinstance(schema, list):
        for each in schema:
            close(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for each in schema.values():
            close(each)


def valid_policy(policy: dict) -> None:
    kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_both_objects_keep_to_the_schemas(jobset_schema, form):
    jobset, policy = objects(*FORMS[form])
    jobset_schema.validate(jobset)
    for each in jobset["spec"]["replicatedJobs"]:  # the jobs in it once more, by Kubernetes's own schema
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": each["name"]},
                 "spec": each["template"]["spec"]}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
    valid_policy(policy)


def nodes(value, path=()):
    """Every (path, value) of a document."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from nodes(each, (*path, key))


def changed(document: dict, path: tuple, change) -> dict:
    """A copy in which change(parent, key) was called for the value at path."""
    document = copy.deepcopy(document)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return document


FREE = ("matchLabels", "nodeSelector", "requests", "limits", "annotations")  # dictionaries in which any name is right


def misspell(parent, key):
    parent[f"{key}s"] = parent.pop(key)


def mistype(parent, key):
    parent[key] = [{"wrong": parent[key]}] if not isinstance(parent[key], list) else {"wrong": 1}


@pytest.mark.parametrize("change", [misspell, mistype])
@pytest.mark.parametrize("form", ["volume", "TPU multislice"])
def test_no_misspelt_or_mistyped_field_passes(jobset_schema, form, change):
    """Every single one, in turn: so the test above would notice any."""
    for document, check in zip(objects(*FORMS[form]), (jobset_schema.validate, valid_policy)):
        tried, passed = 0, []
        for path, _ in nodes(document):
            if not path or isinstance(path[-1], int) or path[0] in ("apiVersion", "kind", "metadata") \
                    or any(name in path[:-1] for name in FREE) or path[-1] == "replicatedJobs":
                continue
            tried += 1
            try:
                check(changed(document, path, change))
                passed.append(path)
            except (jsonschema.ValidationError, kubernetes_validate.ValidationError):
                pass
        assert tried > 15 and passed == []


@pytest.mark.parametrize("form", FORMS)
def test_pods_may_nothing_but_their_work(form):
    jobset, _ = objects(*FORMS[form])
    for pod in pods(jobset).values():
        assert pod["automountServiceAccountToken"] is False and pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        [container] = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"] == container["resources"]["requests"] != {}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert all(volume.keys() <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])


@pytest.mark.parametrize("form", FORMS)
def test_only_its_own_pods_reach_a_pod(form):
    jobset, policy = objects(*FORMS[form])
    own = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == own and policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]
    egress = policy["spec"]["egress"]
    assert egress[0] == {"to": [{"podSelector": own}]}
    ports = sorted(port["port"] for rule in egress[1:] for port in rule["ports"])
    assert ports == ([53, 53] if form == "volume" else [53, 53, 80, 443, 988])
    assert all(rule["to"] for rule in egress), "an empty list would allow every destination"


@pytest.mark.parametrize("form", FORMS)
def test_restarts_by_exit_code(form):
    """2 and 3 end it for good; anything else starts all pods again, a bounded number of times."""
    jobset, _ = objects("--max_restarts=7", "--grace_secs=45.5", *FORMS[form])
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 7, "rules": [
        {"name": "neveragain", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]}
    for each in jobset["spec"]["replicatedJobs"]:
        [rule] = each["template"]["spec"]["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3]
        assert rule["onExitCodes"]["containerName"] == each["template"]["spec"]["template"]["spec"]["containers"][0]["name"]
        assert each["template"]["spec"]["backoffLimit"] == (7 if each["name"] == "evaluator" else 0)
        assert each["template"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 46


def test_workers_find_each_other_by_their_host_names():
    """NAME-JOB-JOBINDEX-PODINDEX.SUBDOMAIN, as the JobSet names pods; TF_CONFIG is built in the pod."""
    jobset, _ = objects(*FORMS["GPU workers"])
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "lockstep",
                                         "publishNotReadyAddresses": True}
    [worker] = [each for each in jobset["spec"]["replicatedJobs"] if each["name"] == "worker"]
    assert worker["template"]["spec"]["completions"] == worker["template"]["spec"]["parallelism"] == 4
    assert worker["template"]["spec"]["completionMode"] == "Indexed" and worker["replicas"] == 1
    pod = pods(jobset)["worker"]
    assert pod["containers"][0]["command"] == [
        "python", "-m", "launch.cluster", "--", "python", "-m", "trainer.main", "--model_dir=gs://b/m",
        "--strategy=multi_worker"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    config = json.loads(cluster.from_kubernetes({**environment(pod), "JOB_COMPLETION_INDEX": "2"}))
    assert config == {"cluster": {"worker": [f"lockstep-worker-0-{k}.lockstep:2222" for k in range(4)]},
                      "task": {"type": "worker", "index": 2}}
    for index in ("4", "-1", "", "x"):
        with pytest.raises(UserError, match="JOB_COMPLETION_INDEX"):
            cluster.from_kubernetes({**environment(pod), "JOB_COMPLETION_INDEX": index})
    *shell, script, name = pods(jobset)["evaluator"]["containers"][0]["command"][:4]
    assert shell == ["sh", "-c"] and name == "sh" and pods(jobset)["evaluator"]["containers"][0]["command"][4:] == [
        "python", "-m", "trainer.evaluator", "--model_dir=gs://b/m"]
    for code, pod_code in (0, 0), (1, 1), (2, 0), (75, 75):  # what is wrong for the evaluator ends it, and not the training
        assert subprocess.run(["sh", "-c", script, "sh", "sh", "-c", f"exit {code}"]).returncode == pod_code


def test_a_pod_that_is_to_stop_tells_its_evaluator(tmp_path):
    """Mutation: the shell, the pod's first process, is told alone."""
    program = f"trap 'touch {tmp_path}/told; exit 0' TERM; touch {tmp_path}/ready; while :; do sleep 1000 & wait; done"
    process = subprocess.Popen(["sh", "-c", manifest.ALONE, "sh", "bash", "-c", program])
    runs.wait_for((tmp_path / "ready").exists, process, seconds=30)
    process.terminate()
    assert process.wait(30) == 143
    runs.wait_for((tmp_path / "told").exists, seconds=30)


@pytest.mark.parametrize("topology, chips, hosts", [("1x1", 1, 1), ("2x2", 4, 1), ("4x4", 4, 4)])
def test_a_slice_of_less_than_a_host_asks_for_its_chips(topology, chips, hosts):
    """GKE's 1x1 nodes have one chip. Mutation: the pod asks for a host's, and never starts."""
    jobset, _ = objects(IMAGE, "--accelerator=tpu-v5-lite-podslice", f"--topology={topology}", *GCS)
    job = "tpu" if hosts > 1 else "worker"
    assert pods(jobset)[job]["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    [found] = [each for each in jobset["spec"]["replicatedJobs"] if each["name"] == job]
    assert found["template"]["spec"]["completions"] == hosts


def test_the_evaluators_resources_have_no_gpu():
    jobset, _ = objects(*FORMS["GPU workers"])
    assert "nvidia.com/gpu" not in pods(jobset)["evaluator"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("form, slices, hosts", [("TPU slice", 1, 4), ("TPU multislice", 2, 4)])
def test_tpu_hosts_serve_and_one_worker_drives(form, slices, hosts):
    jobset, _ = objects(*FORMS[form])
    jobs = {each["name"]: each for each in jobset["spec"]["replicatedJobs"]}
    assert jobs["tpu"]["replicas"] == slices and jobs["tpu"]["template"]["spec"]["parallelism"] == hosts
    pod = pods(jobset)["tpu"]
    assert pod["containers"][0]["command"] == ["python", "-m", "launch.tpu_server"]
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["nodeSelector"].keys() == {"cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"}
    worker = pods(jobset)["worker"]
    assert worker["containers"][0]["command"][-1] == "--tpu=auto"
    assert environment(worker)["KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS"].split(",") == [
        f"grpc://lockstep-tpu-{s}-{h}.lockstep:8470" for s in range(slices) for h in range(hosts)]
    assert "tpu" not in jobset["spec"]["successPolicy"]["targetReplicatedJobs"], "its servers never end"
    given = environment(pod)
    assert ("MEGASCALE_SLICE_ID" in given) == (slices > 1)
    assert given.get("MEGASCALE_NUM_SLICES") == ("2" if slices > 1 else None)
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"  # a node pool to each job that has it
    assert {name for name, each in jobs.items() if exclusive in each["template"].get("metadata", {}).get("annotations", {})} == {
        "tpu"}, "the worker and the evaluator would each want a node pool"
    assert "annotations" not in jobset["metadata"]


def test_a_slice_of_one_host_is_driven_there():
    """No server, no other pod: the documented way."""
    jobset, _ = objects(*FORMS["TPU host"])
    assert pods(jobset).keys() == {"worker", "evaluator"}
    worker = pods(jobset)["worker"]
    assert worker["containers"][0]["command"][-1] == "--tpu=local" and "KUBE" not in " ".join(environment(worker))
    assert worker["containers"][0]["resources"]["limits"]["google.com/tpu"] == 4
    assert worker["nodeSelector"] == {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                                      "cloud.google.com/gke-tpu-topology": "2x2"}
    assert "google.com/tpu" not in pods(jobset)["evaluator"]["containers"][0]["resources"]["limits"]


def test_the_volume_holds_the_run_and_every_pod_has_it():
    jobset, _ = objects(*FORMS["volume"])
    for pod in pods(jobset).values():
        assert {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]
        assert "--model_dir=/data/runs/digits" in pod["containers"][0]["command"]


def test_trainer_flags_stay_what_they_are():
    """Kubernetes would replace $(NAME); YAML must not read numbers, and dry_run's text is what is created."""
    jobset, _ = objects(IMAGE, *GCS, "--augment=$(HOME) $HOME", "--seed", "007", "--data_dir=yes: no")
    words = pods(jobset)["worker"]["containers"][0]["command"]
    assert words[4:8] == ["--augment=$$(HOME) $HOME", "--seed", "007", "--data_dir=yes: no"]
    assert objects(*FORMS["CPU"]) == (manifest.jobset(job(*FORMS["CPU"])), manifest.network_policy(job(*FORMS["CPU"])))


def test_the_dockerfile_follows():
    """Its user is the pods'; it copies what exists and installs what is pinned; python is in its PATH."""
    lines = (runs.ROOT / "launch" / "Dockerfile").read_text().splitlines()
    assert f"USER {manifest.USER}:{manifest.USER}" in lines
    for line in lines:
        if line.startswith("COPY"):
            for source in shlex.split(line)[1:-1]:
                assert (runs.ROOT / source).exists(), source
    packages = [line for line in lines if line.startswith("ARG PACKAGES=")]
    assert packages == ['ARG PACKAGES="-r requirements.lock"']
    assert any(re.match(r"FROM python:3\.1\d-slim", line) for line in lines)
    copied = {shlex.split(line)[1] for line in lines if line.startswith("COPY")}
    assert {"models", "input_pipeline", "trainer", "launch"} <= copied


@pytest.mark.parametrize("flags, said", [
    ((), "--image must name"), ((IMAGE,), "--model_dir=runs/digits would be gone"),
    ((IMAGE, "--name=A", *GCS), "--name=A must"), ((IMAGE, "--accelerator=tpu-v5p-slice", *GCS), "needs --topology"),
    ((IMAGE, "--topology=4x4", *GCS), "--topology is of TPUs"), ((IMAGE, "--slices=2", *GCS), "--slices is of TPUs"),
    ((IMAGE, "--memory=lots", *GCS), "--memory=lots must be a quantity"),
    ((IMAGE, "--accelerator=tpu-a", "--topology=4x4", "--num_workers=2", *GCS), "--num_workers=2"),
    ((IMAGE, "--claim=c", "--", "--model_dir=/elsewhere"), "--model_dir=/elsewhere would be gone"),
    ((IMAGE, *GCS, "--tpu=x"), "leave it out"), ((IMAGE, "--image=a b", *GCS), "--image=a b must be"),
    (("--action=status", "--dry_run"), "--dry_run prints what --action=submit creates")])
def test_wrong_commands(flags, said):
    with pytest.raises(UserError, match=said):
        job(*flags)


def test_dry_run_needs_no_cluster(tmp_path):
    done = subprocess.run(runs.command("launch.kubernetes", "--dry_run", *FORMS["GPU workers"]), cwd=runs.ROOT, text=True,
                          capture_output=True, env=runs.environment(KUBECONFIG=str(tmp_path / "none"), HOME=str(tmp_path)))
    assert done.returncode == 0 and done.stderr == "" and done.stdout == kubernetes.text(job(*FORMS["GPU workers"]))
