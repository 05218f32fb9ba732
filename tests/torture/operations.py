"""Law 2 in the middle of a save: killed before each file operation of a save and of the deletes after it, by strace.

One run is killed at one operation after the other, each time in the next save that it comes to; then it ends bit for bit as
the undisturbed one.
"""
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from tests.torture import compare, folder, settings
from tests.torture.processes import Process
from tests.torture.settings import BOUND, CHECKPOINT_STEPS, KEEP, STEPS
from tests.torture.tally import Tally

CONFIGURATION = "float32-1"
CALLS = ("mkdir", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync", "write")
FEWEST = 12  # operations of a save and its deletes; fewer seen means that they were looked for in the wrong place
CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


def run(scratch: pathlib.Path, tally: Tally, references: settings.References, draw: random.Random, *, most: int) -> None:
    """Kills at up to `most` drawn operations, in their order."""
    reason = missing()
    if reason:
        tally.note(f"operations are left out: {reason}")
        return
    reference, model_dir = references.get(CONFIGURATION), scratch / "operations"
    chain = Chain(model_dir, tally)
    process = chain.start([])
    chain.follow(process, until=lambda look: look.newest >= (KEEP + 1) * CHECKPOINT_STEPS)
    operations = chain.trace()
    if not tally.check("operations of a save were found", "operations", len(operations) >= FEWEST,
                       f"a save has only {len(operations)} operations: {operations}"):
        return
    chosen = sorted(draw.sample(range(len(operations)), min(most, len(operations))))
    tally.say(f"operations: {len(operations)} in a save and its deletes, killed before {len(chosen)} of them")
    for k in chosen:
        chain.kill_before(*operations[k])
    settings.to_the_end(chain.start([]))
    left = compare.read(model_dir)
    tally.compare("operations", *compare.differences(left, reference.left, evaluations=False))
    shutil.rmtree(model_dir)


def missing() -> str:
    """Why strace cannot be used here, "" if it can."""
    if not shutil.which("strace"):
        return "there is no strace"
    tried = subprocess.run(["strace", "-f", "-D", "-o", "/dev/null", "-e", "trace=mkdir", "-e", "inject=mkdir:signal=KILL",
                            sys.executable, "-S", "-c", "import os; os.mkdir('/')"], capture_output=True, text=True)
    return "" if tried.returncode == -signal.SIGKILL else \
        f"strace may not trace, or not end what it traces ({tried.stderr.strip()[-200:]})"


class Chain:
    """One run that is started again and again."""

    def __init__(self, model_dir: pathlib.Path, tally: Tally):
        self.model_dir, self.tally, self.starts = model_dir, tally, 0

    def start(self, before: list[str]) -> Process:
        """The training command, behind the words `before`."""
        self.starts += 1
        self.tally.count("starts of the trainer")
        command = settings.trainer(self.model_dir, *settings.CONFIGURATIONS[CONFIGURATION], *settings.CADENCE,
                                   f"--keep_checkpoints={KEEP}", "--eval_steps=0")
        return Process([*before, *command], self.model_dir.with_name("operations-logs") / f"{self.starts:03d}")

    def strace(self, output: pathlib.Path | str, inject: list[str]) -> list[str]:
        """strace of the operations on the next checkpoint's files and on those that are there; the trainer stays the child
        of this process (-D)."""
        checkpoints, step = self.model_dir / "checkpoints", folder.look(self.model_dir).newest + CHECKPOINT_STEPS
        work, name = checkpoints / ".writing", f"ckpt-{step:08d}"
        part = work / f"{name}_temp" / "part-00000-of-00001"
        paths = [checkpoints, work, part.parent, *(f"{part}.{ending}" for ending in (folder.DATA, folder.INDEX))]
        for ending in (folder.DATA, folder.INDEX, folder.MANIFEST):
            paths += [work / f"{name}.{ending}", checkpoints / f"{name}.{ending}"]
            paths += [checkpoints / f"ckpt-{old:08d}.{ending}" for old in folder.look(self.model_dir).published]
        # --seccomp-bpf would be faster, but strace 6.1 then injects no signals.
        return ["strace", "-f", "-D", "-y", "-s", "200", "-o", str(output), *(f"-P{path}" for path in paths),
                "-e", f"trace={','.join(CALLS)}", *inject]

    def trace(self) -> list[tuple[str, int, str]]:
        """The operations of the next save and its deletes, as (call, which one of this call in the thread, what on)."""
        output, step = self.model_dir.with_name("operations-trace"), folder.look(self.model_dir).newest + CHECKPOINT_STEPS
        process = self.start(self.strace(output, []))
        self.follow(process, until=lambda look: look.newest >= step + CHECKPOINT_STEPS)
        end = time.monotonic() + BOUND  # strace is no child of this process, and writes its last lines when it ends
        while f"{process.pid} +++ killed by SIGKILL" not in re.sub(" +", " ", output.read_text()):
            if time.monotonic() > end:
                raise RuntimeError(f"strace has not ended: {output.read_text()[-500:]}")
            time.sleep(0.05)
        calls = [match.groups() for match in map(CALL.match, output.read_text().splitlines()) if match]
        thread = next(thread for thread, _, text in calls if f"ckpt-{step:08d}" in text)
        found, numbers = [], dict.fromkeys(CALLS, 0)
        for call, text in ((call, text) for one, call, text in calls if one == thread):
            numbers[call] += 1
            paths = re.findall(r"^\d+<([^>]*)>", text) or re.findall(r'"([^"]*)"', text)  # an open file's, or arguments
            found.append((call, numbers[call], re.sub(r"\d{8,}", "N", paths[-1].rsplit("/", 1)[-1] if paths else "")))
        return found

    def kill_before(self, call: str, number: int, what: str) -> None:
        """Starts the run so that it is killed before this operation of its next save."""
        process = self.start(self.strace("/dev/null", ["-e", f"inject={call}:signal=KILL:when={number}"]))
        newest = folder.look(self.model_dir).newest
        before = self.follow(process, until=lambda look: look.newest >= newest + 2 * CHECKPOINT_STEPS)
        self.tally.kill(f"trainer: before an operation of a save: {call}" if before else "trainer: stepping")
        self.tally.say(f"operations: killed before {call} {number} ({what}), newest checkpoint "
                       f"{folder.look(self.model_dir).newest}")
        self.tally.check("came to the operation that was meant", "operations", before,
                         f"{call} {number} ({what}) did not come in a save")
        wrong = folder.problems(self.model_dir, STEPS)
        if len(folder.whole(self.model_dir)) < KEEP:
            wrong.append(f"whole are only {folder.whole(self.model_dir)}")
        self.tally.check("folder whole right after a kill", f"operations, {call} {number}", not wrong, "; ".join(wrong))

    def follow(self, process: Process, until) -> bool:
        """Waits for its end, or kills it when `until(look)`; whether it was killed before that."""
        while process.poll() is None:
            if until(folder.look(self.model_dir)):
                return not process.kill()
            if process.age > BOUND:
                raise RuntimeError(f"operations: {process.log} has not ended after {BOUND} s\n{process.told()}")
            time.sleep(0.0005)
        if process.poll() != -signal.SIGKILL:
            raise RuntimeError(f"operations: {process.log} ended by itself with {process.poll()}\n{process.told()}")
        return True
