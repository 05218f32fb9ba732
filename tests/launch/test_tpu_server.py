"""launch.tpu_server: what GKE's variables become for libtpu, and a server that a TPU's driver can connect to.

Mutations: the mesh's address is this host's and not the first one's; it does not wait for the driver.
"""
import subprocess
import sys

import pytest

import runs
from input_pipeline.rules import UserError
from launch import cluster, tpu_server

GKE = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "m-tpu-0-0.m,m-tpu-0-1.m,m-tpu-0-2.m,m-tpu-0-3.m"}
DRIVER = """
import sys
from trainer import quiet
quiet.import_tensorflow(errors=False)
import tensorflow as tf
resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=sys.argv[1])
tf.config.experimental_connect_to_cluster(resolver)
with tf.device("/job:worker/task:0"):
    print((tf.constant(20) + 1).device)
"""


def test_every_host_knows_itself_and_the_first():
    found = tpu_server.variables(GKE)
    assert found["CLOUD_TPU_TASK_ID"] == "2" and found["TPU_HOSTNAME_OVERRIDE"] == "m-tpu-0-2.m"
    assert found["TPU_MESH_CONTROLLER_ADDRESS"] == "m-tpu-0-0.m:8476" and found["TPU_MESH_CONTROLLER_PORT"] == "8476"


@pytest.mark.parametrize("changes, said", [
    ({"TPU_WORKER_ID": ""}, "TPU_WORKER_ID= must be"), ({"TPU_WORKER_ID": "4"}, "TPU_WORKER_ID=4 must be the number of one"),
    ({"TPU_WORKER_ID": "x"}, "TPU_WORKER_ID=x must"), ({"TPU_WORKER_HOSTNAMES": ""}, "of the 0 hosts")])
def test_outside_of_a_tpus_pod_one_line(changes, said):
    with pytest.raises(UserError, match=said):
        tpu_server.variables({**GKE, **changes})


@pytest.mark.slow
def test_a_driver_connects_and_computes():
    """Without TPU support in TensorFlow: the host's CPU answers."""
    [port] = cluster.free_ports(1)
    one = {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_TASK_PORT": str(port)}
    server = subprocess.Popen(runs.command("launch.tpu_server"), cwd=runs.ROOT, env=runs.environment(**one),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert f"port {port}, host 0" in server.stdout.readline()
        done = subprocess.run([sys.executable, "-c", DRIVER, f"grpc://localhost:{port}"], cwd=runs.ROOT, text=True,
                              env=runs.environment(), capture_output=True, timeout=200)
    finally:
        server.kill()
        server.communicate()
    assert done.stdout == "/job:worker/replica:0/task:0/device:CPU:0\n", done
