"""TensorFlow's server on a host of a TPU slice, in a pod of GKE: python -m launch.tpu_server

It waits at port 8470 (TPU_TASK_PORT: at another) for the process that drives the TPU. TensorFlow's own start_grpc_tpu_worker
asks the metadata of a Cloud TPU VM which host it is on; a pod has none, but variables that GKE sets. Never run on a TPU.
"""
import os
import sys
from collections.abc import Mapping

from input_pipeline.rules import UserError, shown
from launch.spec import WRONG

PORT, MESH_PORT = 8470, 8476
JOB = "tpu_worker"


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """What libtpu must be told, from GKE's variables. UserError where they are not there."""
    hosts = [host for host in given.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    number = given.get("TPU_WORKER_ID", "")
    if not number.isdecimal() or int(number) >= len(hosts):
        raise UserError(f"TPU_WORKER_ID={shown(number)} must be the number of one of the {len(hosts)} hosts in "
                        "TPU_WORKER_HOSTNAMES; GKE sets both in pods that ask for google.com/tpu")
    return {"CLOUD_TPU_TASK_ID": number, "TPU_HOSTNAME_OVERRIDE": hosts[int(number)], "TPU_LOCK_DEVICE": "true",
            "TPU_MESH_CONTROLLER_ADDRESS": f"{hosts[0]}:{MESH_PORT}", "TPU_MESH_CONTROLLER_PORT": str(MESH_PORT)}


def main() -> int:
    """Serves until it is killed. Returns 2 if it cannot."""
    try:
        os.environ.update(variables(os.environ))
    except UserError as error:
        print(f"launch.tpu_server: {error}", file=sys.stderr)
        return WRONG
    import tensorflow as tf  # libtpu reads the variables as soon as it is loaded
    port = int(os.environ.get("TPU_TASK_PORT") or PORT)
    server = tf.distribute.Server({JOB: [f"localhost:{port}"]}, job_name=JOB, task_index=0)
    print(f"launch.tpu_server: port {port}, host {os.environ['CLOUD_TPU_TASK_ID']} of the slice", flush=True)
    server.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
