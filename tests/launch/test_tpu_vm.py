"""launch.tpu_vm against a stub gcloud that records its arguments, answers as told, and fails as told.

Mutations: the state is not awaited; a failed command is followed by the next; a preempted TPU is taken for one that comes.
"""
import json
import os
import shlex
import shutil
import subprocess

import pytest

import runs
from input_pipeline.rules import UserError
from launch import spec, tpu_vm

FLAGS = ("--zone=us-central2-b", "--accelerator_type=v4-8")
STUB = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
with open(folder / "calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
line = " ".join(sys.argv[1:])
if "describe" in sys.argv:
    states = (folder / "states").read_text().split()
    (folder / "states").write_text(" ".join(states[1:] or states))
    if states[0] == "NONE":
        sys.exit("ERROR: (gcloud) NOT_FOUND: Resource 'x' was not found")
    print(states[0])
fails = (folder / "fails").read_text()
if fails and fails in line:
    print("ERROR: no quota", file=sys.stderr)
    sys.exit(7)
"""


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """gcloud(states, fails): the stub; gcloud.calls(): what it was called with."""
    class Stub:
        def __call__(self, states: str = "ACTIVE", fails: str = ""):
            (tmp_path / "states").write_text(states)
            (tmp_path / "fails").write_text(fails)

        def calls(self) -> list[list[str]]:
            return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

        def verbs(self) -> list[str]:
            return [call[3] for call in self.calls()]

    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(STUB.format(python=shutil.which("python3"), folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(runs.ROOT)
    Stub()()
    return Stub()


def job(*argv: str) -> tpu_vm.TpuJob:
    return spec.parse(["launch.tpu_vm", *argv], tpu_vm.TpuJob)


def start(*argv: str, slept: list | None = None) -> int:
    return tpu_vm.start(job(*FLAGS, *argv), sleep=(slept if slept is not None else []).append)


def test_from_nothing_to_a_run(gcloud):
    """Asked for, awaited, copied to all hosts, set up, started; in this order."""
    gcloud("NONE WAITING_FOR_RESOURCES PROVISIONING PROVISIONING ACTIVE")
    slept = []
    assert start("--spot", "--evaluator", "--project=p", "--", "--model_dir=gs://b/m", "--augment=a b", slept=slept) == 0
    assert slept == [15.0] * 3
    calls = gcloud.calls()
    assert gcloud.verbs() == ["describe", "create", *["describe"] * 4, "ssh", "scp", "ssh", "ssh"]
    assert calls[1] == ["compute", "tpus", "queued-resources", "create", "lockstep", "--node-id=lockstep",
                        "--accelerator-type=v4-8", "--runtime-version=tpu-ubuntu2204-base", "--spot", "--zone=us-central2-b",
                        "--project=p", "--quiet"]
    copy, set_up, run = calls[-3:]
    assert copy[5] == "lockstep:lockstep.tar.gz" and "--worker=all" in copy and "--worker=all" in set_up
    command = next(word for word in run if word.startswith("--command=")).removeprefix("--command=")
    assert "--worker=0" in run
    words = shlex.split(next(line for line in command.splitlines() if line.startswith("setsid")))
    assert words[2:words.index(">")] == [
        ".venv/bin/python", "-m", "launch.local", "--evaluator", "--max_restarts=3", "--grace_secs=30", "--",
        "--model_dir=gs://b/m", "--augment=a b", "--tpu=local"]
    assert all("--zone=us-central2-b" in call and "--project=p" in call and "--quiet" in call for call in calls)


def test_what_is_copied_can_run(gcloud, tmp_path, monkeypatch):
    """The archive that scp is given holds what the run needs: unpacked elsewhere, the launcher starts."""
    kept = tmp_path / "kept.tar.gz"
    program = tmp_path / "bin" / "gcloud"
    program.write_text(f"#!/bin/sh\n[ $4 != scp ] || cp $5 {kept}\n[ $4 != describe ] || echo ACTIVE\n")
    assert start("--", "--model_dir=gs://b/m") == 0
    (tmp_path / "host").mkdir()
    subprocess.run(["tar", "-xzf", kept, "-C", tmp_path / "host"], check=True)
    assert sorted(os.listdir(tmp_path / "host")) == sorted(tpu_vm.COPIED)
    done = subprocess.run(runs.command("launch.local", "--dry_run", "--", "--tpu=local"), cwd=tmp_path / "host",
                          capture_output=True, text=True, env=runs.environment())
    assert done.returncode == 0 and "--tpu=local" in done.stdout, done.stderr


def test_several_hosts_each_serve_and_the_first_drives(gcloud):
    assert tpu_vm.start(job("--zone=z", "--accelerator_type=v5litepod-16", "--", "--model_dir=gs://b/m")) == 0
    commands = [word for call in gcloud.calls() for word in call if word.startswith("--command=")]
    assert len(commands) == 4 and "start_grpc_tpu_worker" in commands[2] and "--worker=all" in gcloud.calls()[-2]
    assert "--tpu=lockstep --tpu_zone=z >" in commands[3]


def test_what_runs_already_is_left_as_it_is(gcloud):
    """Mutation: its code is replaced, and then it is refused."""
    gcloud(fails="it runs already")
    assert start("--", "--model_dir=gs://b/m") != 0
    assert "scp" not in gcloud.verbs() and gcloud.verbs()[-1] == "ssh"


def test_what_is_there_is_not_asked_for_again(gcloud):
    assert start("--", "--model_dir=gs://b/m") == 0
    assert "create" not in gcloud.verbs() and "delete" not in gcloud.verbs()


@pytest.mark.parametrize("lost", ["SUSPENDED", "FAILED"])
def test_a_preempted_tpu_is_deleted_and_asked_for_anew(gcloud, lost):
    gcloud(f"{lost} ACTIVE")
    assert start("--", "--model_dir=gs://b/m") == 0
    assert gcloud.verbs()[:4] == ["describe", "delete", "create", "describe"]


@pytest.mark.parametrize("last", ["FAILED", "SUSPENDED", "NONE"])
def test_a_tpu_that_does_not_come_is_said(gcloud, capsys, last):
    gcloud(f"NONE WAITING_FOR_RESOURCES {last}")
    assert start("--", "--model_dir=gs://b/m") == 1
    assert gcloud.verbs()[-1] == "describe"
    assert f"its request is {'gone' if last == 'NONE' else last}" in capsys.readouterr().err


@pytest.mark.parametrize("fails, last", [("create", "create"), ("scp", "scp"), ("--worker=all --command", "ssh"),
                                         ("--worker=0", "ssh"), ("describe", "describe")])
def test_the_first_failure_is_the_last_command(gcloud, capsys, fails, last):
    gcloud("NONE ACTIVE" if fails == "create" else "ACTIVE", fails)
    assert start("--", "--model_dir=gs://b/m") == 1
    assert gcloud.verbs()[-1] == last and fails in " ".join(gcloud.calls()[-1])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "failed with code 7" in error


@pytest.mark.parametrize("action, command", [
    ("status", ["queued-resources", "describe", "lockstep", "--format=value(state.state)"]),
    ("delete", ["queued-resources", "delete", "lockstep", "--force"]),
    ("stop", ["tpu-vm", "ssh", "lockstep", "--worker=0", f"--command={tpu_vm.STOP}"]),
    ("follow", ["tpu-vm", "ssh", "lockstep", "--worker=0", f"--command={tpu_vm.FOLLOW}"])])
def test_the_other_actions(gcloud, action, command):
    assert tpu_vm.start(job("--zone=z", f"--action={action}")) == 0
    assert gcloud.calls() == [["compute", "tpus", *command, "--zone=z", "--quiet"]]


def test_a_run_on_the_tpus_own_disk_is_warned_of(gcloud, capsys):
    start("--spot")
    assert "--model_dir=runs/digits is on the TPU's disk" in capsys.readouterr().err


def test_remote_commands_are_shell_and_do_what_they_say(tmp_path, monkeypatch):
    """START, STOP and FOLLOW in a shell here, with a small program as the launcher: a second start is refused."""
    (tmp_path / "lockstep").mkdir()
    monkeypatch.chdir(tmp_path)
    program = "trap 'echo saved; exit 143' TERM; echo begun; while :; do sleep 1000 & wait; done"
    text = tpu_vm.START.format(command=shlex.join(["sh", "-c", program]))
    subprocess.run(["sh", "-c", text], check=True)
    log = tmp_path / "lockstep" / "run.log"
    runs.wait_for(lambda: log.exists() and "begun" in log.read_text(), seconds=30)
    again = subprocess.run(["sh", "-c", text], capture_output=True, text=True)
    assert again.returncode == 2 and "it runs already" in again.stderr
    looked = subprocess.run(["sh", "-c", tpu_vm.IDLE], capture_output=True, text=True)  # before the code there is replaced
    assert looked.returncode == 2 and "it runs already" in looked.stderr
    stopped = subprocess.run(["sh", "-c", tpu_vm.STOP], capture_output=True, text=True, timeout=60)
    assert stopped.returncode == 0
    assert log.read_text() == "begun\nsaved\n"
    assert subprocess.run(["sh", "-c", tpu_vm.IDLE]).returncode == 0
    assert subprocess.run(["sh", "-c", tpu_vm.IDLE.replace("lockstep", "nowhere")]).returncode == 0
    followed = subprocess.run(["sh", "-c", tpu_vm.FOLLOW], capture_output=True, text=True, timeout=60)
    assert followed.stdout == "begun\nsaved\n"
    for script in (tpu_vm.SET_UP, tpu_vm.SERVER):
        assert subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_dry_run_prints_the_commands_and_runs_none():
    done = subprocess.run(runs.command("launch.tpu_vm", *FLAGS, "--dry_run", "--", "--model_dir=gs://b/m"), cwd=runs.ROOT,
                          text=True, capture_output=True, env=runs.environment(PATH=""))
    assert done.returncode == 0 and done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("gcloud", "tar"))]
    plain = [shlex.split(line) for line in lines if line.startswith("gcloud") and "'--command=" not in line]
    assert [words[4] for words in plain] == ["create", "describe", "scp"]
    assert lines[2].startswith("gcloud compute tpus tpu-vm ssh lockstep --worker=0 ")
    assert lines[3].startswith("tar -czf lockstep.tar.gz ")


@pytest.mark.parametrize("flags, said", [
    ((), "--zone must say"), (("--zone=z",), "--accelerator_type must say"), (("--zone=z;id",), "must be a zone's name"),
    ((*FLAGS, "--name=Mine"), "--name=Mine must be lower-case"), ((*FLAGS, "--num_workers=2"), "--num_workers=2"),
    ((*FLAGS, "--action=start"), "must be one of run, follow"), ((*FLAGS, "--", "--tpu=x"), "--tpu after --"),
    (("--zone=z", "--accelerator_type=v4"), "must be like v4-8")])
def test_wrong_commands(flags, said):
    with pytest.raises(UserError, match=said):
        job(*flags)


def test_without_gcloud_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="gcloud is not in PATH"):
        start()


@pytest.mark.slow
def test_the_real_gcloud_knows_every_flag(tmp_path):
    """It reads the command line before it finds that nobody is logged in (code 1); a wrong one has code 2. No network."""
    program = shutil.which("gcloud")
    if not program:
        pytest.skip("needs gcloud; install the Google Cloud SDK")
    variables = runs.environment(CLOUDSDK_CONFIG=str(tmp_path), CLOUDSDK_CORE_DISABLE_PROMPTS="1",
                                 CLOUDSDK_CORE_CHECK_GCE_METADATA="false")

    def ask(command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run([program, *command[1:]], capture_output=True, text=True, env=variables, timeout=120)

    wrong = ask([*tpu_vm.describe(job(*FLAGS)), "--no-such-flag"])
    assert wrong.returncode == 2 and "unrecognized arguments" in wrong.stderr
    commands = [command for action in ("run", "follow", "delete")
                for _, command in tpu_vm.plan(job(*FLAGS, "--spot", "--project=p", f"--action={action}"), "a.tar.gz")]
    for command in commands:
        if command[0] == "gcloud":
            done = ask(command)
            assert done.returncode == 1 and "active account" in done.stderr, (command, done.stderr)
