"""Laws of counting devices without TensorFlow: device files, else nvidia-smi, as CUDA_VISIBLE_DEVICES leaves them.

Mutations, each of which turned tests here red: /dev/nvidiactl counted; a name that CUDA does not know skipped instead
of ending the list; a list that names a device twice counted; nvidia-smi asked although there are device files.
"""
import pytest
from wrong_commands import UNSET

from trainer import devices
from trainer.config import Config, UserError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(files, listing): a machine with such device files, and with such an answer of nvidia-smi -L (None: it
    has none)."""
    for name in (*UNSET, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(devices, "DEVICE_FILES", str(tmp_path / "dev"))

    def machine(files: str = "", listing: str | None = None) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "bin").mkdir()
        for name in files.split():
            (tmp_path / "dev" / name).touch()
        if listing is not None:
            (tmp_path / "listing").write_text(listing)
            (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\nwhile read -r line; do echo \"$line\"; done < "
                                                         f"{tmp_path / 'listing'}\n")
            (tmp_path / "bin" / "nvidia-smi").chmod(0o755)

    return machine


LISTING = ("GPU 0: NVIDIA H100 (UUID: GPU-a1)\n  MIG 1g.10gb Device 0: (UUID: MIG-b)\n"
           "GPU 1: NVIDIA H100 (UUID: GPU-a2)\n")


@pytest.mark.parametrize("files, listing, count", [
    ("", None, 0), ("null nvidiactl nvidia-uvm nvidia-caps", None, 0), ("nvidia0 nvidiactl", None, 1),
    ("nvidia0 nvidia1 nvidia10", None, 3), ("nvidia0", LISTING, 1), ("", LISTING, 2),
    ("", "No devices found.\n", 0)])
def test_gpus_are_counted_by_device_files_and_else_by_nvidia_smi(files, listing, count, machine):
    machine(files, listing)
    assert devices.visible_gpus() == count


@pytest.mark.parametrize("allowed, count", [
    ("", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("1, 0", 2), ("0,1,2,3", 4), ("0,1,2,3,4", 4), ("4,0", 0),
    ("0,-1,1", 1),
    ("NoDevFiles", 0), ("none", 0), ("0,0", 0), ("1,0,1", 0), ("1gpu,2", 2), ("GPU-a1", 1),
    ("GPU-a1,GPU-a2", 2), ("MIG-b", 1), ("0,,1", 1),
    ("9" * 5000, 0)])
def test_cuda_visible_devices_is_honoured_up_to_the_first_name_that_cuda_does_not_know(allowed, count,
                                                                                       machine, monkeypatch):
    machine("nvidia0 nvidia1 nvidia2 nvidia3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert devices.visible_gpus() == count


def test_the_default_is_every_visible_gpu(machine, monkeypatch):
    machine("nvidia0 nvidia1 nvidia2")
    plan = devices.plan(Config())
    assert (plan.strategy, plan.kind, plan.replicas) == ("mirrored", "GPU", 3)
    assert devices.plan(Config(strategy="one_device")).replicas == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert devices.plan(Config()).strategy == "one_device"
    assert (devices.plan(Config(num_gpus=0)).kind,
            devices.plan(Config(num_gpus=4, emulate=True)).kind) == ("CPU", "CPU")


@pytest.mark.parametrize("files, says", [
    ("nvidia0",
     "--num_gpus=2, but 1 GPU is visible here; lower it, or add --emulate to run 2 replicas on the CPU"),
    ("", "--num_gpus=2, but 0 GPUs are visible here")])
def test_more_gpus_than_there_are_is_an_error_that_counts_them(files, says, machine):
    machine(files)
    with pytest.raises(UserError) as error:
        devices.plan(Config(num_gpus=2))
    assert says in str(error.value)


@pytest.mark.parametrize("files, variables, found", [
    ("", {}, ""), ("accel0 accel1", {}, "local"), ("accelerator", {}, ""), ("", {"TPU_NAME": "t"}, "t"),
    ("accel0", {"TPU_NAME": "t"}, "t"), ("", {"TPU_WORKER_HOSTNAMES": "a,b"}, "local"),
    ("", {"KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS": "grpc://a:1"}, "grpc://a:1"),
    ("", {"COLAB_TPU_ADDR": "a:1"}, "grpc://a:1")])
def test_auto_looks_for_a_tpu_in_the_usual_places(files, variables, found, machine, monkeypatch):
    machine(files)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.find_tpu() == found
    plan = devices.plan(Config(tpu="auto"))
    assert (plan.kind, plan.tpu) == (("TPU", found) if found else ("CPU", ""))


@pytest.mark.parametrize("vendor, flags, fast", [
    ("AuthenticAMD", "avx512f avx512_bf16", True), ("AuthenticAMD", "avx512f avx512_bf16 avx512_fp16", True),
    ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 avx512_fp16", True), ("GenuineIntel", "avx512f avx512_bf16", True),
    ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16", False), ("GenuineIntel", "avx512f", False), ("AuthenticAMD", "avx2", False)])
def test_bfloat16_is_chosen_where_it_is_faster_not_wherever_there_are_instructions(vendor, flags, fast, tmp_path):
    """A virtual machine hides AMX: bfloat16 is slower than float32 there. Mutation: avx512_bf16 alone decides."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\n" * 2)
    assert devices.has_fast_bfloat16("CPU", path) is fast


def test_without_a_description_of_the_processor_float32_is_chosen(tmp_path):
    """Mutation: an error of the file, on a system without /proc."""
    assert devices.has_fast_bfloat16("CPU", tmp_path / "none") is False
