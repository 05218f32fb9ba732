"""Threads of a process whose replicas share its cores."""
import dataclasses
import os
import platform
import subprocess
import sys

import pytest

import runs
from trainer import devices, distribution, recipes
from trainer.config import UserError
from trainer.distribution import intra_op_threads


@pytest.mark.parametrize("replicas, workers, kind, asked, expected", [
    (4, 1, "CPU", 0, 1), (8, 1, "CPU", 0, 1), (8, 2, "CPU", 0, 1), (8, 1, "CPU", 3, 3),
    (2, 1, "CPU", 0, 0), (4, 2, "CPU", 0, 0), (1, 1, "CPU", 0, 0), (8, 1, "GPU", 0, 0), (0, 1, "TPU", 0, 0)])
def test_replicas_that_keep_all_cores_busy_have_a_thread_each(monkeypatch, replicas, workers, kind, asked, expected):
    """On 4 cores. Mutations: fewer replicas than cores too; all workers' replicas counted; GPUs; the flag ignored."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    config = dataclasses.replace(recipes.digits(), intra_op_threads=asked)
    plan = devices.Plan(strategy="mirrored", kind=kind, replicas=replicas, workers=workers)
    assert intra_op_threads(config, plan) == expected


def test_one_core_changes_nothing_for_one_replica(monkeypatch):
    """Mutation: without the look at the number of replicas."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert intra_op_threads(recipes.digits(), devices.Plan(strategy="one_device", kind="CPU", replicas=1)) == 0


def test_workers_of_one_machine_share_its_cores(monkeypatch):
    """Mutations: workers elsewhere counted too; the first worker's host taken for this one's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for worker, threads in (0, 0), (1, 1), (2, 1):
        plan = devices.Plan(strategy="multi_worker", kind="CPU", replicas=3, workers=3, worker=worker,
                            addresses=("far:1", "near:1", "near:2"))
        assert intra_op_threads(recipes.digits(), plan) == threads


@pytest.mark.parametrize("precision, rounds", [("float32", False), ("bfloat16", True)])
def test_float32_is_float32_on_every_gpu(precision, rounds):
    """Mutation: TensorFlow's own choice, products of 10 bits on GPUs since Ampere."""
    program = ("from trainer import distribution, recipes; import dataclasses, tensorflow as tf; distribution.numerics("
               f"dataclasses.replace(recipes.digits(), precision='{precision}')); "
               "print(tf.config.experimental.tensor_float_32_execution_enabled())")
    done = subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(rounds)]


@pytest.mark.parametrize("asked, words", [(None, "this machine has 2 GPUs, but"), (2, "--num_gpus=2, but")])
def test_gpus_that_tensorflow_does_not_see_are_told_with_what_they_need(monkeypatch, asked, words):
    """As with a driver alone. Mutation: a flag is blamed that was not given."""
    monkeypatch.setattr(distribution.tf.config, "list_physical_devices", lambda kind: [])
    config = dataclasses.replace(recipes.digits(), num_gpus=asked)
    with pytest.raises(UserError, match=f"^{words} TensorFlow sees 0; install .*tensorflow.and-cuda.*--num_gpus=0"):
        distribution._local_devices(config, devices.Plan(strategy="mirrored", kind="GPU", replicas=2))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc")
@pytest.mark.parametrize("tunables, kept", [("", True), ("glibc.malloc.mmap_threshold=131072", False)])
def test_memory_of_a_step_is_kept_for_the_next(tunables, kept):
    """100 MB again and again, in the main thread and in another one: no page is new, unless the user's own settings say so.
    Mutations: each of the three parameters left out; the user's settings ignored."""
    script = """if True:
        import dataclasses, resource, threading
        from trainer import devices, distribution, recipes
        config = dataclasses.replace(recipes.digits(), num_gpus=0, precision="float32")
        distribution.build(config, devices.plan(config))
        def cycles(size, count):
            for _ in range(4):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                blocks = [bytearray(b"x") * size for _ in range(count)]
                del blocks
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            print(faults)
        cycles(20 << 20, 5)
        other = threading.Thread(target=cycles, args=(20 << 20, 5))
        other.start(); other.join()"""
    environment = {**os.environ, "GLIBC_TUNABLES": tunables, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=runs.ROOT,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert all((int(faults) < 1000) == kept for faults in done.stdout.split()), done.stdout
