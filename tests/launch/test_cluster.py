"""TF_CONFIG: of this machine's workers, of an evaluator, and from what SLURM tells a task."""
import json
import socket
import subprocess
import sys

import pytest
from hypothesis import given, strategies

import runs
from input_pipeline.rules import UserError
from launch import cluster

SLURM = {"SLURM_JOB_ID": "17", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2,1"}


def test_every_worker_knows_all_and_itself():
    addresses = cluster.local(3)
    assert len(set(addresses)) == 3 and all(address.startswith("127.0.0.1:") for address in addresses)
    config = json.loads(cluster.tf_config(addresses, "worker", 1))
    assert config == {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 1}}
    assert json.loads(cluster.tf_config(addresses, "evaluator", 0))["task"] == {"type": "evaluator", "index": 0}


def test_ports_are_free_on_all_addresses():
    for port in cluster.free_ports(20):
        with socket.socket() as server:
            server.bind(("", port))


HOSTS = {"n1": ["n1"], "n1,n2": ["n1", "n2"], "n[1-3]": ["n1", "n2", "n3"], "n[08-10]": ["n08", "n09", "n10"],
         "n[1,3-4],login": ["n1", "n3", "n4", "login"], "r[1-2]n[0-1]": ["r1n0", "r1n1", "r2n0", "r2n1"],
         "n[1-2].example.org": ["n1.example.org", "n2.example.org"], "gpu-a[007]": ["gpu-a007"], "": [],
         "n[5-5]": ["n5"], "a[1-2],b,c[9-11]": ["a1", "a2", "b", "c9", "c10", "c11"]}


@pytest.mark.parametrize("text", HOSTS)
def test_slurms_lists_of_hosts(text):
    assert cluster.expand(text) == HOSTS[text]


@given(strategies.lists(strategies.integers(0, 9999), min_size=1, max_size=30, unique=True), strategies.integers(1, 5))
def test_any_list_comes_back(numbers, width):
    """Written as SLURM writes it, ranges and leading zeros included."""
    numbers.sort()
    parts, at = [], 0
    while at < len(numbers):
        end = at
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1 \
                and len(f"{numbers[end + 1]:0{width}d}") == len(f"{numbers[at]:0{width}d}"):
            end += 1
        first, last = (f"{numbers[k]:0{width}d}" for k in (at, end))
        parts.append(first if at == end else f"{first}-{last}")
        at = end + 1
    assert cluster.expand(f"n[{','.join(parts)}]") == [f"n{number:0{width}d}" for number in numbers]


@pytest.mark.parametrize("text", ["n[1-2", "n]1[", "n[a-b]", "n[3-1]", "n[]", "n[1-999999999]", "n[1-[2]]",
                                  "a[1-999]b[1-999]"])
def test_what_is_no_list_of_hosts_is_named(text):
    with pytest.raises(UserError, match="SLURM's list of hosts"):
        cluster.expand(text)


def test_tasks_per_node():
    assert cluster.counts("2(x3),1") == [2, 2, 2, 1] and cluster.counts("4") == [4]
    for text in ("", "x", "2(x)", "2,,1", "-1"):
        with pytest.raises(UserError, match="SLURM_STEP_TASKS_PER_NODE"):
            cluster.counts(text)


def test_slurms_tasks_agree_on_one_cluster():
    configs = [json.loads(cluster.from_slurm({**SLURM, "SLURM_PROCID": str(k)})) for k in range(3)]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": k} for k in range(3)]
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    hosts, ports = zip(*(address.split(":") for address in configs[0]["cluster"]["worker"]))
    assert hosts == ("n1", "n1", "n2") and len(set(ports)) == 3
    assert all(20_000 <= int(port) < 32_768 for port in ports)
    other = json.loads(cluster.from_slurm({**SLURM, "SLURM_JOB_ID": "18"}))["cluster"]["worker"]
    assert not set(ports) & {address.split(":")[1] for address in other}, "jobs that share a host would meet"


def test_host_names_can_be_replaced():
    config = json.loads(cluster.from_slurm({**SLURM, "LAUNCH_HOST_ADDRESSES": "n1=127.0.0.1,n2=10.0.0.2"}))
    assert [address.split(":")[0] for address in config["cluster"]["worker"]] == ["127.0.0.1", "127.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("name", SLURM)
def test_outside_of_slurm_the_missing_variable_is_named(name):
    with pytest.raises(UserError, match=f"{name} is not set.*srun"):
        cluster.from_slurm({key: value for key, value in SLURM.items() if key != name})


def test_the_command_becomes_the_one_that_follows():
    """Its exit code and its TF_CONFIG."""
    program = "import os, sys; print(os.environ['TF_CONFIG']); sys.exit(7)"
    done = subprocess.run(runs.command("launch.cluster", "--", sys.executable, "-c", program), cwd=runs.ROOT,
                          env=runs.environment(**SLURM), capture_output=True, text=True)
    assert done.returncode == 7 and json.loads(done.stdout)["task"]["index"] == 2, done.stderr
    for wrong in ((), ("--",), ("true",), ("--", "/nonexistent")):
        done = subprocess.run(runs.command("launch.cluster", *wrong), cwd=runs.ROOT, env=runs.environment(**SLURM),
                              capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("launch.cluster: ") and done.stderr.count("\n") == 1, wrong
