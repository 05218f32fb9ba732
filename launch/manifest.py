"""A training run as Kubernetes objects: a JobSet and a NetworkPolicy, as dictionaries.

    jobset, policy = manifest.jobset(job), manifest.network_policy(job)

Workers with GPUs or CPUs are the pods of one indexed job; each builds TF_CONFIG from its completion index and the host
names that the JobSet's headless service gives them. A TPU slice of one host is driven there; the hosts of larger ones,
and of several slices, run TensorFlow's server, and one worker drives them. The first failure ends all pods; the JobSet
starts them again, except after codes 2 and 3. An evaluator's code 2 ends the evaluator alone.
"""
import dataclasses
import math

from input_pipeline.rules import UserError
from launch import spec
from launch.spec import DIVERGED, WRONG
from trainer.config import option

WORKER, EVALUATOR, TPU_HOST = "worker", "evaluator", "tpu"  # names of the JobSet's jobs
CONTAINER = "trainer"
PORT, TPU_PORT = 2222, 8470
USER = 65532
VOLUME = "/data"  # where --claim is mounted
LABEL = "jobset.sigs.k8s.io/jobset-name"  # which JobSet's controller puts on every pod
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"  # a slice's pods in one node pool, and no other slice's there
SLICE = "metadata.annotations['jobset.sigs.k8s.io/job-index']"
# Of the evaluator: a command that is wrong for it, such as a split that the data have not, ends it, and not the training.
ALONE = f'"$@" & trap "kill $!" TERM; wait $!; code=$?; [ $code = {WRONG} ] || exit $code'
DNS_LABEL = "[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
QUANTITY = r"[0-9]+(\.[0-9]+)?(m|[kMGTP]i?)?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KubernetesJob(spec.Job):
    """What launch.kubernetes is told."""

    name: str = option("lockstep", "the JobSet's name", pattern=DNS_LABEL,
                       form="lower-case letters, digits and -, at most 40")
    namespace: str = option("default", "where it is created", pattern="[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
                            form="a namespace's name, such as default")
    image: str = option("", "the container image, see launch/Dockerfile", pattern=r"[A-Za-z0-9][A-Za-z0-9._/:@-]*",
                        form="an image's name, such as gcr.io/mine/lockstep:1")
    accelerator: str = option("", "GKE's name of the GPU (nvidia-l4) or TPU (tpu-v5-lite-podslice) (none: CPU)",
                              pattern="[a-z0-9-]+", form="an accelerator's name, such as nvidia-l4")
    topology: str = option("", "of a TPU slice, such as 4x4", pattern="[0-9]{1,4}(x[0-9]{1,4}){1,2}",
                           form="like 4x4 or 2x2x4")
    slices: int = option(1, "TPU slices; several are a multislice", at_least=1, at_most=1024)
    chips_per_host: int = option(4, "TPU chips of a host", at_least=1, at_most=8)
    gpus_per_worker: int = option(1, "GPUs of each worker, where --accelerator is one", at_least=1, at_most=64)
    cpus: str = option("4", "CPU cores of each pod", pattern=QUANTITY, form="a quantity such as 4 or 500m")
    memory: str = option("16Gi", "memory of each pod", pattern=QUANTITY, form="a quantity such as 16Gi")
    claim: str = option("", f"a PersistentVolumeClaim that all pods mount at {VOLUME} (ReadWriteMany)",
                        pattern="[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", form="a claim's name, such as runs")
    service_account: str = option("default", "the pods' Kubernetes service account, to which Workload Identity gives "
                                  "gs://", pattern="[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
                                  form="an account's name, such as trainer")
    action: str = option("submit", "what to do", choices=("submit", "status", "logs", "cancel"))

    def __post_init__(self):
        super().__post_init__()
        if self.action != "submit":
            if self.dry_run:
                raise UserError(f"--dry_run prints what --action=submit creates, --action={self.action} creates "
                                "nothing; give one of them")
            return
        if not self.image:
            raise UserError("--image must name the container image, such as --image=gcr.io/mine/lockstep:1; see "
                            "launch/Dockerfile")
        if self.tpu and not self.topology:
            raise UserError(f"--accelerator={self.accelerator} needs --topology, such as --topology=4x4")
        if self.topology and not self.tpu or self.slices > 1 and not self.tpu:
            raise UserError(f"--{'topology' if self.topology else 'slices'} is of TPUs; give --accelerator=tpu-..., or "
                            "leave it out")
        if self.tpu and self.num_workers > 1:
            raise UserError(f"--num_workers={self.num_workers}: one worker drives all TPUs; leave it out")
        if "tpu" in self.trainer or self.tpu and {"num_gpus", "emulate"} & self.trainer.keys():
            raise UserError("--tpu, --num_gpus or --emulate after --: --accelerator says it; leave it out")
        if "://" not in self.model_dir and not (self.claim and self.model_dir.startswith(VOLUME + "/")):
            raise UserError(f"--model_dir={self.model_dir} would be gone with the pods; give --model_dir=gs://..., or "
                            f"--claim=NAME and a --model_dir in {VOLUME}")

    @property
    def tpu(self) -> bool:
        return self.accelerator.startswith("tpu")

    @property
    def model_dir(self) -> str:
        """The trainer's --model_dir; in the volume, if there is one and nothing else is said."""
        given = super().model_dir
        return f"{VOLUME}/{given}" if self.claim and "model_dir" not in self.trainer else given

    @property
    def chips(self) -> int:
        """Of one TPU slice."""
        return math.prod(int(side) for side in self.topology.split("x"))

    @property
    def hosts(self) -> int:
        """Of one TPU slice."""
        return math.ceil(self.chips / self.chips_per_host)

    @property
    def chips_of_pod(self) -> int:
        """Of each pod of a TPU slice, which may be a part of a host."""
        return min(self.chips, self.chips_per_host)

    @property
    def served(self) -> bool:
        """Whether the TPU is of several hosts, which serve the one worker that drives them."""
        return self.tpu and self.hosts * self.slices > 1

    def pods(self, kind: str, jobs: int, pods: int) -> list[str]:
        """The pods' host names, which the headless service makes known."""
        return [f"{self.name}-{kind}-{j}-{p}.{self.name}" for j in range(jobs) for p in range(pods)]


def jobset(job: KubernetesJob) -> dict:
    """The JobSet."""
    jobs = [_worker(job)]
    if job.served:
        jobs.append(_tpu_hosts(job))
    if job.evaluator:
        command = ["sh", "-c", ALONE, "sh", *job.evaluator_command("python")]
        pod = _pod(job, command, {"CUDA_VISIBLE_DEVICES": "-1"})
        jobs.append(_replicated(job, EVALUATOR, pod, restarts=job.max_restarts))
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": job.name, "namespace": job.namespace},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": job.name, "publishNotReadyAddresses": True},
            # The TPU's servers never end by themselves.
            "successPolicy": {"operator": "All",
                              "targetReplicatedJobs": [each["name"] for each in jobs if each["name"] != TPU_HOST]},
            "failurePolicy": {"maxRestarts": job.max_restarts, "rules": [
                {"name": "neveragain", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]},
            "replicatedJobs": jobs}}


def network_policy(job: KubernetesJob) -> dict:
    """Pods of the job talk to each other, and ask DNS; to https and GKE's metadata server only where the run needs it.

    TensorFlow's servers execute what they are sent: nobody else may reach them.
    """
    own = {"podSelector": {"matchLabels": {LABEL: job.name}}}
    dns = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
           {"ipBlock": {"cidr": "169.254.20.10/32"}},  # the cache on the node
           {"ipBlock": {"cidr": "169.254.169.254/32"}}]  # Cloud DNS
    egress = [{"to": [own]}, {"to": dns, "ports": [_port("UDP", 53), _port("TCP", 53)]}]
    if job.remote_paths() or job.tpu:
        metadata = [{"ipBlock": {"cidr": f"169.254.169.{k}/32"}} for k in (252, 254)]
        egress += [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [_port("TCP", 443)]},
                   {"to": metadata, "ports": [_port("TCP", 80), _port("TCP", 988)]}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": job.name, "namespace": job.namespace},
            "spec": {"podSelector": {"matchLabels": {LABEL: job.name}}, "policyTypes": ["Ingress", "Egress"],
                     "ingress": [{"from": [own]}], "egress": egress}}


def _port(protocol: str, number: int) -> dict:
    return {"protocol": protocol, "port": number}


def _worker(job: KubernetesJob) -> dict:
    """The job of the workers, or of the one that drives the TPUs."""
    command, variables, resources, nodes = job.worker_command("python"), {}, {}, {}
    if job.served:
        command.append("--tpu=auto")
        servers = job.pods(TPU_HOST, job.slices, job.hosts)
        variables["KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS"] = ",".join(f"grpc://{host}:{TPU_PORT}" for host in servers)
    elif job.tpu:
        command.append("--tpu=local")
        resources, nodes = {"google.com/tpu": job.chips_of_pod}, _tpu_nodes(job)
    elif job.num_workers > 1:
        command = ["python", "-m", "launch.cluster", "--", *command]
        workers = job.pods(WORKER, 1, job.num_workers)
        variables["LAUNCH_WORKERS"] = ",".join(f"{host}:{PORT}" for host in workers)
    if job.accelerator and not job.tpu:
        resources["nvidia.com/gpu"] = job.gpus_per_worker
        nodes = {"cloud.google.com/gke-accelerator": job.accelerator}
    pod = _pod(job, command, variables, resources, nodes)
    return _replicated(job, WORKER, pod, pods=job.num_workers)


def _tpu_hosts(job: KubernetesJob) -> dict:
    """The jobs of the TPU's hosts: a job a slice, a pod a host."""
    variables = {}
    if job.slices > 1:
        variables = {"MEGASCALE_NUM_SLICES": str(job.slices),
                     "MEGASCALE_COORDINATOR_ADDRESS": job.pods(TPU_HOST, 1, 1)[0]}
    pod = _pod(job, ["python", "-m", "launch.tpu_server"], variables, {"google.com/tpu": job.chips_of_pod}, _tpu_nodes(job))
    if job.slices > 1:
        number = {"valueFrom": {"fieldRef": {"fieldPath": SLICE}}}
        pod["containers"][0]["env"].append({"name": "MEGASCALE_SLICE_ID", **number})
    hosts = _replicated(job, TPU_HOST, pod, jobs=job.slices, pods=job.hosts)
    # Here and not at the JobSet, where it would ask for a node pool for the worker too, and one for the evaluator.
    hosts["template"]["metadata"] = {"annotations": {EXCLUSIVE: "cloud.google.com/gke-nodepool"}}
    return hosts


def _tpu_nodes(job: KubernetesJob) -> dict:
    return {"cloud.google.com/gke-tpu-accelerator": job.accelerator, "cloud.google.com/gke-tpu-topology": job.topology}


def _replicated(job: KubernetesJob, name: str, pod: dict, *, jobs: int = 1, pods: int = 1, restarts: int = 0) -> dict:
    """A job of the JobSet. restarts: of its pods alone; the workers' are the whole JobSet's."""
    codes = {"containerName": CONTAINER, "operator": "In", "values": [WRONG, DIVERGED]}
    return {"name": name, "replicas": jobs, "template": {"spec": {
        "completionMode": "Indexed", "completions": pods, "parallelism": pods, "backoffLimit": restarts,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]}, "template": {"spec": pod}}}}


def _pod(job: KubernetesJob, command: list[str], variables: dict[str, str], more: dict | None = None,
         nodes: dict | None = None) -> dict:
    """A pod that may nothing but its work. more: resources beside CPU and memory. nodes: the labels of those it runs on."""
    resources = {**(more or {}), "cpu": job.cpus, "memory": job.memory}
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    if job.claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": job.claim}})
        mounts.append({"name": "data", "mountPath": VOLUME})
    env = [{"name": name, "value": value} for name, value in
           {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}.items()]
    return {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": math.ceil(job.grace_secs),
        "automountServiceAccountToken": False, "serviceAccountName": job.service_account, "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": CONTAINER, "image": job.image, "env": env, "volumeMounts": mounts,
            "command": [word.replace("$(", "$$(") for word in command],  # which Kubernetes would take for a variable
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
            "resources": {"requests": resources, "limits": resources}}],
        "volumes": volumes} | ({"nodeSelector": nodes} if nodes else {})
