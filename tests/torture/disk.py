"""Law 3 on a disk that is full or cannot be written: the trainer says so, nothing published is harmed, and once there is
room the same command goes on and ends bit for bit as the undisturbed run.

The disk is a tmpfs of a few megabytes, mounted in a mount namespace of its own, so that nothing is left mounted whatever
happens. For that this module is started again inside the namespace:

    unshare --mount python -m tests.torture.disk SCRATCH SEED MOST
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

from tests.laws import runs
from tests.torture import compare, folder, settings
from tests.torture.damage import contents, one_line
from tests.torture.processes import Process
from tests.torture.settings import BOUND, KEEP
from tests.torture.tally import Tally

STEPS, CHECKPOINT_STEPS = 60, 12
FLAGS = (*settings.CONFIGURATIONS["float32-1"], f"--train_steps={STEPS}", f"--checkpoint_steps={CHECKPOINT_STEPS}",
         "--summary_steps=20", "--histogram_steps=20", "--eval_steps=24", f"--keep_checkpoints={KEEP}")
DISK = 64  # megabytes


def run(scratch: pathlib.Path, tally: Tally, draw: random.Random, *, most: int) -> None:
    """Fills a disk up to `most` times, and makes it read-only."""
    inside = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    mount = scratch / "disk"
    mount.mkdir()
    reason = "there is no unshare" if not shutil.which("unshare") else subprocess.run(
        [*inside, "mount", "-t", "tmpfs", "tmpfs", str(mount)], capture_output=True, text=True).stderr.strip()[:200]
    if reason:
        tally.note(f"full disks are left out: no disk can be mounted in a namespace of its own ({reason})")
        if os.geteuid() == 0:
            tally.note("read-only folders are left out: root may write to them")
            return
        mount.chmod(0o555)
        _unwritable(scratch, tally, "no run is there", mount / "m")
        mount.chmod(0o755)
        return
    process = subprocess.Popen([*inside, sys.executable, "-m", "tests.torture.disk", str(scratch), str(draw.randrange(10**6)),
                                str(most)], cwd=runs.ROOT)
    try:
        code = process.wait()
    finally:
        process.kill()
    if code != 0:
        raise RuntimeError(f"the part disk ended with {code}")
    tally.merge(json.loads((scratch / "disk.json").read_text()))


def main(scratch: pathlib.Path, draw: random.Random, most: int) -> None:
    """Inside the namespace. Leaves the tally in disk.json."""
    from trainer import quiet
    quiet.import_tensorflow(errors=False)
    tally, mount, whole = Tally(), scratch / "disk", scratch / "disk-whole"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(mount)], check=True)
    tally.say("disk: undisturbed run")
    settings.to_the_end(_start(whole, scratch, "--keep_checkpoints=1000"))
    left = compare.read(whole)
    size = sum(path.stat().st_size for path in (whole / "checkpoints").glob(f"ckpt-{STEPS:08d}.*"))
    rooms = [2.7, 0.5, 0.02, *(draw.uniform(0, 3) for _ in range(5))][:most]  # in checkpoints: of which KEEP + 1 are needed
    for k, room in enumerate(rooms):
        _full(mount, scratch, tally, left, int(room * size), read_only=k == 0)
    (scratch / "disk.json").write_text(json.dumps(tally.as_dict()))


def _start(model_dir: pathlib.Path, scratch: pathlib.Path, *flags: str) -> Process:
    return Process(settings.trainer(model_dir, *FLAGS, *flags), scratch / "disk-logs" / "trainer")


def _full(mount: pathlib.Path, scratch: pathlib.Path, tally: Tally, whole: compare.Left, room: int, *, read_only: bool) -> None:
    where, model_dir, filler = f"disk, {room / 1024:.0f} KiB of room", mount / "m", mount / "filler"
    free = os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize
    filler.write_bytes(bytes(free - room))
    process = _start(model_dir, scratch)
    code = process.wait(BOUND)
    tally.count("runs on a full disk")
    said = [line for line in process.err.splitlines() if "no space left" in line.lower()]
    tally.check("a full disk ends the run", where, code is not None and code > 0, f"ended with {code}\n{process.told()}")
    tally.check("one line says that the disk is full", where, one_line(process.err) and len(said) == 1,
                f"stderr: {process.err[-3000:]}")
    published = folder.look(model_dir).published
    wrong = folder.problems(model_dir, STEPS)
    tally.check("folder whole on the full disk", where, not wrong, "; ".join(wrong))
    tally.say(f"{where}: ended with {code}, published {published}: {' '.join(said)[:200]}")
    if read_only:
        _read_only(mount, scratch, tally)
    filler.unlink()
    process = _start(model_dir, scratch)
    code = process.wait(BOUND)
    if tally.check("exit code", where, code == 0, f"with room again it ended with {code}\n{process.told()}"):
        resumed = f"ckpt-{published[-1]:08d}\n" if published else "fresh start"
        tally.check("goes on from the newest whole one", where, resumed in process.out, f"not: {resumed}\n{process.told()}")
        tally.compare(where, *compare.differences(compare.read(model_dir), whole))
        wrong = folder.problems(model_dir, STEPS)
        tally.check("folder whole at the end", where, not wrong, "; ".join(wrong))
    shutil.rmtree(model_dir)


def _read_only(mount: pathlib.Path, scratch: pathlib.Path, tally: Tally) -> None:
    """Where a run is, and where there is none."""
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    for name, model_dir in (("a run is there", mount / "m"), ("no run is there", mount / "new" / "m")):
        _unwritable(scratch, tally, name, model_dir)
    subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)


def _unwritable(scratch: pathlib.Path, tally: Tally, name: str, model_dir: pathlib.Path) -> None:
    """Code 2 and one line, before any training."""
    where, before = f"disk, read-only, {name}", contents(scratch / "disk")
    process = _start(model_dir, scratch)
    code = process.wait(BOUND)
    tally.count("runs in a read-only folder")
    tally.check("exit code", where, code == 2, f"ended with {code}, not 2\n{process.told()}")
    tally.check("one line says what is wrong", where, one_line(process.err) and str(model_dir) in process.err,
                f"stderr: {process.err[-3000:]}")
    tally.check("nothing is overwritten", where, contents(scratch / "disk") == before, "the folder has changed")
    tally.say(f"{where}: ended with {code}: {process.err.strip()[-200:]}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), random.Random(int(sys.argv[2])), int(sys.argv[3]))
