"""launch.local: what each process is given, who gets which GPUs, where logs go, what is said about the network."""
import json
import os
import pathlib
import shlex
import subprocess

import pytest

import gangs
import runs
from input_pipeline.rules import UserError
from launch import local, namespace, spec


def job(*argv: str) -> local.LocalJob:
    return spec.parse(["launch.local", *argv], local.LocalJob)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """make(n, allowed): a machine with n GPUs of which CUDA_VISIBLE_DEVICES names some."""
    def make(count: int, allowed: str | None = None):
        for k in range(count):
            (tmp_path / f"nvidia{k}").touch()
        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(local, "DEVICE_FILES", str(tmp_path))
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if allowed is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    return make


@pytest.mark.parametrize("count, allowed, names", [
    (0, None, []), (12, None, [str(k) for k in range(12)]), (4, "2,3", ["2", "3"]), (4, "", []), (4, "1,9,2", ["1"]),
    (2, "GPU-af,GPU-b0", ["GPU-af", "GPU-b0"]), (4, "-1", []), (0, "0,1", [])])
def test_gpus_are_counted_without_tensorflow(machine, count, allowed, names):
    machine(count, allowed)
    assert local.gpus() == names


def test_gpus_from_nvidia_smi_where_there_are_no_device_files(machine, monkeypatch, tmp_path):
    machine(0)
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'; echo 'GPU 1: B (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert local.gpus() == ["0", "1"]


@pytest.mark.parametrize("flags, count, shares", [
    (("--num_workers=2",), 4, [["0", "1"], ["2", "3"]]), (("--num_workers=2",), 5, [["0", "1"], ["2", "3"]]),
    (("--num_workers=3", "--", "--num_gpus=1"), 4, [["0"], ["1"], ["2"]]), (("--num_workers=2",), 0, [[], []]),
    (("--num_workers=2", "--", "--num_gpus=0"), 4, [[], []]), (("--num_workers=1",), 2, [["0", "1"]]),
    (("--num_workers=1", "--", "--num_gpus=4", "--emulate"), 0, [[]])])
def test_gpus_are_split(flags, count, shares):
    assert local.split_gpus(job(*flags), [str(k) for k in range(count)]) == shares


@pytest.mark.parametrize("flags, count, said", [
    (("--num_workers=2",), 1, "--num_workers=2 needs 2 GPUs, 1 GPU is visible"),
    (("--num_workers=2", "--", "--num_gpus=2"), 3,
     "--num_workers=2 with --num_gpus=2 each needs 4 GPUs, 3 GPUs are visible")])
def test_too_few_gpus_name_both_numbers(flags, count, said):
    with pytest.raises(UserError, match=said):
        local.split_gpus(job(*flags), [str(k) for k in range(count)])


def test_dry_run_prints_every_process_and_touches_nothing(tmp_path):
    done = subprocess.run(runs.command("launch.local", "--num_workers=2", "--evaluator", "--dry_run", "--",
                                       f"--model_dir={tmp_path / 'm n'}", "--train_steps=5"), cwd=runs.ROOT,
                          capture_output=True, text=True, env=runs.environment(CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 0 and done.stderr == "" and not list(tmp_path.iterdir())
    first, second, evaluator = map(shlex.split, done.stdout.splitlines())
    configs = [json.loads(line[0].removeprefix("TF_CONFIG=")) for line in (first, second)]
    assert [config["task"]["index"] for config in configs] == [0, 1] and configs[0]["cluster"] == configs[1]["cluster"]
    for line in (first, second):
        assert line[line.index("-m"):] == ["-m", "trainer.main", f"--model_dir={tmp_path / 'm n'}", "--train_steps=5",
                                           "--strategy=multi_worker"]
    assert not any(word.startswith("TF_CONFIG") for word in evaluator) and "CUDA_VISIBLE_DEVICES=-1" in evaluator
    assert evaluator[-3:] == ["-m", "trainer.evaluator", f"--model_dir={tmp_path / 'm n'}"]


def test_every_start_has_ports_of_its_own():
    ports = [each.variables["TF_CONFIG"] for _ in range(2) for each in local.commands(job("--num_workers=2"), [[], []])]
    assert json.loads(ports[0])["cluster"] == json.loads(ports[1])["cluster"] != json.loads(ports[2])["cluster"]


def test_one_worker_is_an_ordinary_process():
    [only] = local.commands(job(), [[]])
    assert only.variables["TF_CONFIG"] is None and "--strategy=multi_worker" not in only.arguments


def test_where_the_logs_go():
    assert job("--", "--model_dir=a/b").log_folder == pathlib.Path("a/b/logs")
    assert job("--", "--model_dir=gs://bucket/b/").log_folder == pathlib.Path("logs/b")
    assert job("--log_dir=x", "--", "--model_dir=gs://bucket/b").log_folder == pathlib.Path("x")


@pytest.mark.parametrize("flags, reason", [
    (("--num_workers=2", "--", "--model_dir=gs://b/m"), "--model_dir=gs://b/m needs the network"),
    (("--num_workers=2", "--", "--download"), "--download needs the network"),
    (("--num_workers=2", "--noprivate"), "--noprivate"), (("--num_workers=2",), "not allowed here"),
    (("--", "--model_dir=gs://b/m"), None)])
def test_an_open_network_is_said_in_one_line(monkeypatch, flags, reason):
    monkeypatch.setattr(namespace, "isolate", lambda: "not allowed here")
    warning = local.network_warning(job(*flags))
    assert "\n" not in warning and (f"({reason})" in warning and "all addresses" in warning if reason else warning == "")


def test_what_the_trainer_finds_wrong_is_its_one_line_and_leaves_no_folder(tmp_path):
    done = subprocess.run(gangs.command(tmp_path / "m", "--early_stop_evals=3", launcher=("--evaluator",)), cwd=runs.ROOT,
                          env=runs.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--early_stop_evals=3 with --eval_steps=0" in done.stdout, done
    assert "launch.local: worker-" in done.stdout and "failed first: exit code 2" in done.stdout
    assert not list(tmp_path.iterdir())


def test_an_explicit_log_dir_is_used_at_once(tmp_path):
    done = subprocess.run(gangs.command(tmp_path / "m", "--early_stop_evals=3", launcher=(f"--log_dir={tmp_path / 'l'}",)),
                          cwd=runs.ROOT, env=runs.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and os.listdir(tmp_path) == ["l"]
    assert sorted(os.listdir(tmp_path / "l")) == ["worker-0.log", "worker-1.log"]
