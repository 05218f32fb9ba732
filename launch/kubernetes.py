"""A run on Kubernetes: python -m launch.kubernetes --image=IMAGE --num_workers=4 --accelerator=nvidia-l4 -- FLAGS

Creates a JobSet (https://jobset.sigs.k8s.io must be installed in the cluster) and a NetworkPolicy that lets its pods
talk to each other alone; --dry_run prints both. TPUs: --accelerator=tpu-v5-lite-podslice --topology=4x4, several slices
with --slices. Pods run as nobody on a read-only root; --model_dir is on gs://, or in the volume of --claim.

    --action=submit    creates both, in the cluster of the current kubectl context
    --action=status    the JobSet's conditions and its pods
    --action=logs      the chief's log, until it ends
    --action=cancel    deletes both; the workers are told to stop, and save

Needs the packages PyYAML (--dry_run) and kubernetes (the rest). TPUs: written to the documentation, never run on one.
"""
import sys
import time
from collections.abc import Callable

from input_pipeline.rules import UserError
from launch import manifest, spec
from launch.manifest import LABEL, WORKER, KubernetesJob

GROUP = {"group": "jobset.x-k8s.io", "version": "v1alpha2", "plural": "jobsets"}
POLL_SECS, GONE_SECS = 2.0, 300.0
EVERYTHING_GONE = "Foreground"  # deletion: the JobSet goes after its pods


def text(job: KubernetesJob) -> str:
    """The manifest as YAML, for kubectl apply -f."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, _):
            return True

    documents = [manifest.network_policy(job), manifest.jobset(job)]
    return yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=120)


class Cluster:
    """The API server of the current kubectl context. UserError where it cannot be reached, or refuses."""

    def __init__(self, namespace: str):
        import kubernetes
        self.namespace, self._library = namespace, kubernetes
        try:
            kubernetes.config.load_kube_config()
        except kubernetes.config.ConfigException as error:
            raise UserError(f"no cluster: {error}; see kubectl config current-context") from None
        self._jobsets, self._core = kubernetes.client.CustomObjectsApi(), kubernetes.client.CoreV1Api()
        self._policies = kubernetes.client.NetworkingV1Api()

    def ask(self, what: str, call: Callable, *arguments, missing=None, **options):
        """call(...), its errors as one line. missing: what "not found" is answered with, instead of an error."""
        try:
            return call(*arguments, **options)
        except self._library.client.ApiException as error:
            if error.status == 404 and missing is not None:
                return missing
            fix = "; give --action=cancel first, or another --name" * (error.status == 409)
            raise UserError(f"{what}: the API server says {error.status} {error.reason}: {_reason(error)}{fix}") from None
        except (OSError, self._library.client.rest.urllib3.exceptions.HTTPError) as error:
            raise UserError(f"{what}: the API server cannot be reached: {error}") from None

    def submit(self, job: KubernetesJob) -> None:
        """Creates both objects: the policy first, so that no pod is ever open."""
        self.ask("NetworkPolicy", self._policies.create_namespaced_network_policy, self.namespace,
                 manifest.network_policy(job))
        try:
            self.ask("JobSet", self._jobsets.create_namespaced_custom_object, namespace=self.namespace,
                     body=manifest.jobset(job), **GROUP)
        except UserError:
            self._delete_policy(job.name)
            raise

    def status(self, name: str) -> list[str]:
        """Lines about the JobSet and its pods."""
        found = self.ask("JobSet", self._jobsets.get_namespaced_custom_object, namespace=self.namespace, name=name,
                         **GROUP)
        state = found.get("status", {})
        lines = [f"{name}: {state.get('terminalState') or 'not ended'}, {state.get('restarts', 0)} restarts"]
        lines += [f"  {each['type']}: {each.get('message') or each.get('reason', '')}"
                  for each in state.get("conditions", []) if each.get("status") == "True"]
        return lines + [f"  {pod.metadata.name}: {pod.status.phase}" for pod in self._pods(name)]

    def follow(self, name: str, show: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> None:
        """Shows the chief's log, from its start to its end."""
        while True:
            chiefs = [pod for pod in self._pods(name) if pod.metadata.name.startswith(f"{name}-{WORKER}-0-0-")]
            if not chiefs:
                raise UserError(f"{name} has no pod of its chief; see --action=status")
            if chiefs[-1].status.phase != "Pending":
                break
            sleep(POLL_SECS)
        stream = self.ask("log", self._core.read_namespaced_pod_log, chiefs[-1].metadata.name, self.namespace,
                          follow=True, _preload_content=False)
        rest = b""
        for part in stream.stream():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                show(line.decode(errors="replace"))
        if rest:
            show(rest.decode(errors="replace"))

    def cancel(self, name: str, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Deletes both objects, the policy once no pod is left that it guards; whether there was a JobSet."""
        found = self.ask("JobSet", self._jobsets.delete_namespaced_custom_object, namespace=self.namespace, name=name,
                         propagation_policy=EVERYTHING_GONE, missing={}, **GROUP)
        end = time.monotonic() + GONE_SECS
        while self._pods(name):
            if time.monotonic() > end:
                raise UserError(f"{name} is deleted, but pods of it are still there, and so is its NetworkPolicy; give the command again")
            sleep(POLL_SECS)
        self._delete_policy(name)
        return bool(found)

    def _delete_policy(self, name: str) -> None:
        self.ask("NetworkPolicy", self._policies.delete_namespaced_network_policy, name, self.namespace, missing=False)

    def _pods(self, name: str) -> list:
        pods = self.ask("pods", self._core.list_namespaced_pod, self.namespace, label_selector=f"{LABEL}={name}").items
        return sorted(pods, key=lambda pod: (str(pod.metadata.creation_timestamp), pod.metadata.name))


def _reason(error) -> str:
    """The API server's own words."""
    import json
    try:
        return json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return error.body or "no reason given"


def start(job: KubernetesJob) -> int:
    """Does what --action says. Returns 0."""
    try:
        if job.dry_run:
            print(text(job), end="")
            return 0
        cluster = Cluster(job.namespace)
    except ModuleNotFoundError as error:
        raise UserError(f"the package {error.name} is missing; install it: pip install "
                        f"{'PyYAML' if error.name == 'yaml' else error.name}") from None
    if job.action == "submit":
        cluster.submit(job)
        more = f"--name={job.name} --namespace={job.namespace}"
        print(f"JobSet {job.namespace}/{job.name} is created; follow: python -m launch.kubernetes --action=logs {more}")
    elif job.action == "status":
        print("\n".join(cluster.status(job.name)))
    elif job.action == "logs":
        cluster.follow(job.name, lambda line: print(line, flush=True))
    elif not cluster.cancel(job.name):
        raise UserError(f"there is no JobSet {job.namespace}/{job.name}; see kubectl get jobsets")
    return 0


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, KubernetesJob, start, name="launch.kubernetes", doc=__doc__))
