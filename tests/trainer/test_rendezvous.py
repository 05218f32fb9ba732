"""All workers are there, by their addresses alone: whoever comes later finds who came before, and who never comes is named.

Mutations: nobody answers before TensorFlow does; the port is kept afterwards; no bound.
"""
import socket
import threading
import time

import pytest

from input_pipeline.rules import UserError
from launch import cluster
from trainer import devices, rendezvous


def plan(addresses, worker: int) -> devices.Plan:
    return devices.Plan(strategy="multi_worker", kind="CPU", replicas=len(addresses), workers=len(addresses), worker=worker,
                        addresses=tuple(addresses))


def test_all_come_each_at_its_time():
    """And afterwards the ports are free, for TensorFlow's servers."""
    addresses, came, failed = cluster.local(3), [], []

    def come(worker: int):
        try:
            rendezvous.wait(plan(addresses, worker), timeout=60)
            came.append(worker)
            server = socket.create_server(devices.host_and_port(addresses[worker]))  # as TensorFlow does: it answers from now on
            threads[worker].server = server
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=come, args=(worker,)) for worker in range(3)]
    threads[2].start()
    threads[0].start()
    time.sleep(0.5)
    assert came == []
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert sorted(came) == [0, 1, 2] and failed == []
    for thread in threads:
        thread.server.close()


def test_who_does_not_come_is_named():
    addresses, now = cluster.local(3), [0.0]

    def clock():
        now[0] += 1
        return now[0]

    with pytest.raises(rendezvous.Absent) as caught:
        rendezvous.wait(plan(addresses, 1), timeout=5, clock=clock)
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        f"within 5 s (--hang_timeout_secs) nobody answered for worker 0 at {addresses[0]} (Connection refused), worker 2 at "
        f"{addresses[2]} (Connection refused); start all 3 workers with the same TF_CONFIG, and open their ports to each other")


def test_a_port_that_another_has():
    addresses = cluster.local(2)
    with socket.create_server(("", devices.host_and_port(addresses[1])[1])), pytest.raises(UserError, match="cannot have") as caught:
        rendezvous.wait(plan(addresses, 1), timeout=5)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("address, parts", [("a.b:1", ("a.b", 1)), ("[::1]:22", ("::1", 22))])
def test_split(address, parts):
    assert devices.host_and_port(address) == parts
