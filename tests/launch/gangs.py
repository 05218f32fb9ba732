"""Runs python -m launch.local as a user does, and finds its processes."""
import json
import pathlib
import subprocess

import runs


def command(model_dir: pathlib.Path, *flags: str, workers: int = 2, launcher: tuple[str, ...] = ()) -> list[str]:
    return runs.command("launch.local", f"--num_workers={workers}", *launcher, "--", f"--model_dir={model_dir}", *flags)


def start(model_dir: pathlib.Path, *flags: str, **options) -> subprocess.Popen:
    """A launcher that runs; its output goes to files, which nobody has to read in time."""
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{model_dir}.out", "w") as out, open(f"{model_dir}.err", "w") as err:
        return subprocess.Popen(command(model_dir, *flags, **options), cwd=runs.ROOT, env=runs.environment(), stdout=out,
                                stderr=err)


def finish(launcher: subprocess.Popen, model_dir: pathlib.Path, code: int = 0, timeout: float = 400) -> runs.Outcome:
    """Waits for its end; the exit code is checked."""
    try:
        launcher.wait(timeout)
    finally:
        launcher.kill()
    out, err = (pathlib.Path(f"{model_dir}.{name}").read_text() for name in ("out", "err"))
    assert launcher.returncode == code, f"exit code {launcher.returncode}\n{out[-4000:]}\n{err[-2000:]}"
    return runs.Outcome(launcher.returncode, out, err, model_dir)


def train(model_dir: pathlib.Path, *flags: str, code: int = 0, **options) -> runs.Outcome:
    """A whole run."""
    return finish(start(model_dir, *flags, **options), model_dir, code)


def children(launcher: subprocess.Popen) -> dict[str, int]:
    """The process numbers of its children by the name that their log has."""
    found = {}
    for pid in pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        variables = environment(int(pid))
        if "TF_CONFIG" in variables:
            task = json.loads(variables["TF_CONFIG"])["task"]
            found[f"{task['type']}-{task['index']}"] = int(pid)
    return found


def environment(pid: int) -> dict[str, str]:
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def gone(pid: int) -> bool:
    """Whether the process ended; a zombie that nobody has waited for has."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def lines_written(model_dir: pathlib.Path) -> int:
    """Of train/metrics.jsonl so far."""
    path = model_dir / "train" / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
