"""What README promises: the program in it runs, the options that may change on resume are those that it lists."""
import dataclasses
import pathlib
import re
import subprocess
import sys

from launch.local import LocalJob
from launch.manifest import KubernetesJob
from launch.slurm import SlurmJob
from launch.tpu_vm import TpuJob
from trainer.config import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_program_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1].replace("runs/mine", str(tmp_path / "mine"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 10 and losses[-1] < losses[0]


def test_what_may_change_on_resume():
    listed = re.search(r"\*\*On resume\*\*(.*?)Anything else", README, re.DOTALL)[1]
    assert set(re.findall(r"--(\w+)", listed)) == {name for name, field in FIELDS.items() if field.metadata["may_change"]}


def test_every_flag_in_readme_exists():
    jobs = {field.name for job in (LocalJob, KubernetesJob, SlurmJob, TpuJob) for field in dataclasses.fields(job)}
    others = {"help", "output", "dataset", "logdir", "split", "poll_secs", "timeout_secs", "run_once", "step", "from", "kills", "only",
              "list", "torch_python", "growth", "topology", "devices", "check"}
    named = set(re.findall(r"--(\w+)", README)) - others - jobs
    assert named <= set(FIELDS), named - set(FIELDS)
