"""Laws 2 and 7 of a gang: 4 workers and an evaluator under launch.local, of which one after the other is killed with -9 or stopped
(SIGSTOP) at drawn moments. The others end, the gang starts again by itself, and ends bit for bit as an undisturbed one.
"""
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import time

from tests.laws import runs
from tests.torture import compare, folder, settings
from tests.torture.processes import Process
from tests.torture.settings import BOUND, STEPS
from tests.torture.tally import Tally

WORKERS = 4
HANG_SECS = 60
FLAGS = (*settings.FLAGS, "--precision=float32", *settings.CADENCE, "--keep_checkpoints=1000", "--eval_steps=0")
EARLY, STOPPED = 0.25, 0.4  # shares of the moments in a start, and of the signals to a worker that are SIGSTOP


def run(scratch: pathlib.Path, tally: Tally, draw: random.Random, *, kills: int) -> None:
    """So many kills and stops, over as many runs as that takes."""
    tally.say(f"workers: undisturbed run of {WORKERS}")
    whole = scratch / "workers-whole"
    process = gang(whole)
    while process.poll() is None and folder.look(whole).line == 0 and process.age < BOUND:
        time.sleep(0.01)
    pace = process.age
    settings.to_the_end(process)
    reference = compare.read(whole)
    assert reference.published == list(range(settings.CHECKPOINT_STEPS, STEPS + 1, settings.CHECKPOINT_STEPS))
    done = number = 0
    while done < kills and number < done + 3:  # a run may end before its moment comes
        number += 1
        episode = Episode(scratch / f"workers-{number}", tally, draw, pace, reference)
        done += episode.run(kills - done)
        tally.count("gangs disturbed and started again until they ended")


def gang(model_dir: pathlib.Path) -> Process:
    """The launcher, as a user starts it."""
    return Process(runs.command("launch.local", f"--num_workers={WORKERS}", "--evaluator", "--max_restarts=1000",
                                f"--hang_timeout_secs={HANG_SECS}", "--", f"--model_dir={model_dir}", *FLAGS),
                   model_dir.with_name(model_dir.name + "-launcher"))


def members(launcher: Process) -> dict[str, int]:
    """The launcher's processes by name."""
    found = {}
    for pid in _text(f"/proc/{launcher.pid}/task/{launcher.pid}/children").split():
        command = _text(f"/proc/{pid}/cmdline").split("\0")
        if "trainer.evaluator" in command:
            found["evaluator"] = int(pid)
        task = re.search(r'"type": "worker", "index": (\d+)', _text(f"/proc/{pid}/environ"))
        if "trainer.main" in command and task:
            found[f"worker-{task[1]}"] = int(pid)
    return found


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


@dataclasses.dataclass
class Episode:
    """One run from its first start to its end."""

    model_dir: pathlib.Path
    tally: Tally
    draw: random.Random
    pace: float
    reference: compare.Left

    def run(self, most: int) -> int:
        """Disturbs it at most so often, lets it end, and compares. Returns how often it was."""
        failures, done = len(self.tally.failures), 0
        self.launcher = gang(self.model_dir)
        while done < most and self._wait_for_moment():
            done += self._disturb(done + 1)
        code = self.launcher.wait(BOUND)
        if self.tally.check("exit code", self.model_dir.name, code == 0, f"ended with {code}\n{self.launcher.told()}"):
            self.tally.compare(self.model_dir.name, *compare.differences(compare.read(self.model_dir), self.reference))
            wrong = folder.problems(self.model_dir, STEPS)
            self.tally.check("folder whole at the end", self.model_dir.name, not wrong, "; ".join(wrong))
        if len(self.tally.failures) == failures:
            shutil.rmtree(self.model_dir)
        return done

    def _wait_for_moment(self) -> bool:
        """Until a drawn moment of this start; False: the run ended before."""
        line, start = folder.look(self.model_dir).line, time.monotonic()
        early = self.draw.random() < EARLY
        seconds, steps = self.draw.uniform(0, self.pace), self.draw.randint(1, 40)
        while self.launcher.poll() is None and time.monotonic() - start < BOUND:
            now = folder.look(self.model_dir).line
            if early and time.monotonic() - start >= seconds or not early and (now < line or now >= line + steps):
                return len(members(self.launcher)) > 1
            time.sleep(0.005)
        return False

    def _disturb(self, number: int) -> int:
        """A signal to one of them; then those that it was a worker of must all end. How many signals: 1, or 0 if all is over."""
        before = members(self.launcher)
        name = self.draw.choice(sorted(before))
        sent = signal.SIGSTOP if name != "evaluator" and self.draw.random() < STOPPED else signal.SIGKILL
        phase = "a start" if folder.look(self.model_dir).line <= folder.look(self.model_dir).newest else "steps"
        try:
            os.kill(before[name], sent)
        except ProcessLookupError:
            return 0
        gone = [name] if name == "evaluator" else [worker for worker in before if worker != "evaluator"]
        start = time.monotonic()
        while any(members(self.launcher).get(worker) == before[worker] for worker in gone) and self.launcher.poll() is None:
            if time.monotonic() - start > 2 * HANG_SECS + 60:
                break
            time.sleep(0.01)
        seconds = time.monotonic() - start
        self.tally.kill(f"gang: {sent.name} of {'the chief' if name == 'worker-0' else name.split('-')[0]} in {phase}")
        self.tally.say(f"{self.model_dir.name}: {number}: {sent.name} of {name} in {phase}, all of them gone after {seconds:.1f} s")
        self.tally.check("all workers end with one", self.model_dir.name, seconds <= 2 * HANG_SECS + 60,
                         f"{sent.name} of {name}: after {seconds:.0f} s there is still one of {gone}")
        return 1
