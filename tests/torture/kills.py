"""Law 2: killed -9 again and again and started again, a run ends bit for bit as the undisturbed one.

Three ways to evaluate: "inline" in the trainer; "separate", by an evaluator beside it that is killed too; "both". From time
to time both processes are killed at once, as by a crash of the machine.
"""
import dataclasses
import pathlib
import random
import shutil
import time

from tests.torture import compare, folder, moments, settings
from tests.torture.processes import Process
from tests.torture.settings import BOUND, EVAL_STEPS, KEEP, STEPS
from tests.torture.tally import Tally

WAYS = ("inline", "separate", "both")
FEWEST = 4  # kills for which a configuration is worth its undisturbed run


def run(scratch: pathlib.Path, tally: Tally, references: settings.References, draw: random.Random, *, kills: int,
        configurations: list[str]) -> None:
    """At least `kills` kills over all configurations. Few kills: of some drawn ones, and not each way to evaluate."""
    chosen = draw.sample(configurations, min(len(configurations), max(1, kills // FEWEST)))
    ways = min(len(WAYS), max(1, kills // (FEWEST * len(chosen))))
    turn = draw.randrange(len(WAYS))
    combinations = [(name, WAYS[(turn + k + way) % len(WAYS)]) for k, name in enumerate(chosen) for way in range(ways)]
    for k, (name, way) in enumerate(combinations):
        quota = kills * (k + 1) // len(combinations) - kills * k // len(combinations)
        idle = 0  # runs that ended before the first moment came
        while quota > 0 and tally.check("a run is killed before it ends", f"{name}, {way}", idle < 5,
                                        "5 runs in a row were not"):
            number = tally.counts["runs killed and started again until they ended"] + 1
            episode = Episode(scratch / f"killed-{number}", tally, references.get(name), draw, name, way)
            done = episode.run(quota)
            quota, idle = quota - done, 0 if done else idle + 1
            tally.count("runs killed and started again until they ended")


@dataclasses.dataclass
class Episode:
    """One run from its first start to its end."""

    model_dir: pathlib.Path
    tally: Tally
    reference: settings.Reference
    draw: random.Random
    configuration: str
    way: str

    def run(self, kills: int) -> int:
        """Kills at most so many times, then lets the run end, and compares. Returns the number of kills."""
        self.where = f"{self.configuration}, {self.way}, {self.model_dir.name}"
        self.quota, self.killed, self.logs = max(kills, 1 if self.way == "inline" else 2), 0, 0
        self.eval_steps = 0 if self.way == "separate" else EVAL_STEPS
        self.evaluator, self.without_progress, self.most_whole, self.last_seen = None, 0, 0, False
        failures = len(self.tally.failures)
        self.model_dir.mkdir()
        self._start_trainer(first=self.way != "inline")
        if self._follow() and len(self.tally.failures) == failures:
            self._compare()
        if len(self.tally.failures) == failures:
            shutil.rmtree(self.model_dir)
        return self.killed

    def _start_trainer(self, *, first: bool = False) -> None:
        self.tally.count("starts of the trainer")
        self.before = folder.look(self.model_dir)
        self.trainer = Process(settings.trainer(
            self.model_dir, *settings.CONFIGURATIONS[self.configuration], *settings.CADENCE, f"--keep_checkpoints={KEEP}",
            f"--eval_steps={self.eval_steps}"), self._log("trainer"))
        self.moment = moments.published(self.before, 1) if first or self.without_progress >= 2 else moments.of_trainer(
            self.draw, self.before, eval_steps=self.eval_steps, pace=self.reference.pace)

    def _start_evaluator(self) -> None:
        self.tally.count("starts of the evaluator")
        self.evaluator_before = folder.look(self.model_dir)
        self.evaluator = Process(settings.evaluator(self.model_dir), self._log("evaluator"))
        self.evaluator_moment = moments.of_evaluator(self.draw, self.evaluator_before, pace=self.reference.pace)

    def _log(self, name: str) -> pathlib.Path:
        self.logs += 1
        return self.model_dir.with_name(self.model_dir.name + "-logs") / f"{self.logs:03d}-{name}"

    def _follow(self) -> bool:
        """Kills and starts again until the trainer and the evaluator have ended by themselves. False: a failure."""
        while True:
            look = folder.look(self.model_dir)
            code = self.trainer.poll()
            if code is not None and not self._ended(self.trainer, code, look):
                return False
            if code is None and self.killed < self.quota and self.moment.due(look, self.trainer):
                both = self.evaluator is not None and self.evaluator.poll() is None and self.draw.random() < 0.25
                self._kill_trainer(both)
            if self.evaluator is not None:
                ended = self.evaluator.poll()
                if ended is not None and not self._ended(self.evaluator, ended, look):
                    return False
                if ended is None and self.killed < self.quota and self.evaluator_moment.due(look, self.evaluator):
                    if self._kill_evaluator():
                        self._start_evaluator()
            if code == 0 and (self.evaluator is None or self.evaluator.poll() == 0):
                return True
            for process in (self.trainer, self.evaluator):
                if process is not None and process.poll() is None and process.age > BOUND:
                    self.tally.fail(self.where, f"{process.log.name} has not ended after {BOUND} s")
                    return False
            # Saves and deletes last milliseconds, imports and tracing seconds.
            time.sleep(0.0005 if str(self.trainer.pid) in look.writers else 0.004)

    def _ended(self, process: Process, code: int, look: folder.Look) -> bool:
        """Whether a process that ended by itself should have: code 0, when training is done, without a complaint."""
        done = (self.model_dir / "DONE").exists()
        if code == 0 and done and "damaged" not in process.err:
            return True
        self.tally.fail(self.where, f"{process.log.name} ended by itself with {code}{'' if done else ' before DONE'}\n"
                                    f"{process.told()}")
        return False

    def _kill_trainer(self, both: bool) -> None:
        if not self.trainer.kill():
            return  # it ended a moment before: the next look will tell how
        both = both and self._kill_evaluator()
        after = folder.look(self.model_dir)
        phase = folder.trainer_phase(self.before, after, self.trainer.pid, eval_steps=self.eval_steps, last=STEPS)
        self._count("trainer", phase)
        self.without_progress = 0 if after.newest > self.before.newest else self.without_progress + 1
        self.last_seen |= after.newest == STEPS
        if self.way != "inline" and "evaluator.json" not in after.small:
            self._announce()
        elif both:
            self._start_evaluator()
        self._start_trainer()

    def _announce(self) -> None:
        """Starts the evaluator and waits until it has announced itself: from then on nothing goes before it has seen it."""
        if self.evaluator is None or self.evaluator.poll() is not None:
            self._start_evaluator()
        while "evaluator.json" not in folder.look(self.model_dir).small:
            if self.evaluator.poll() is not None or self.evaluator.age > BOUND:
                raise RuntimeError(f"the evaluator has not announced itself\n{self.evaluator.told()}")
            time.sleep(0.001)

    def _kill_evaluator(self) -> bool:
        """Whether the evaluator still ran."""
        if not self.evaluator.kill():
            return False
        after = folder.look(self.model_dir)
        self._count("evaluator", folder.evaluator_phase(self.evaluator_before, after, self.evaluator.pid))
        return True

    def _count(self, name: str, phase: str) -> None:
        """A kill: what was published is whole, and not less than there was, whatever the moment."""
        self.killed += 1
        self.tally.kill(f"{name}: {phase}")
        newest = folder.look(self.model_dir).newest
        self.tally.say(f"{self.where}: kill {self.killed} of {self.quota}, {name}: {phase}, newest checkpoint {newest}")
        if name == "trainer":
            wrong = folder.problems(self.model_dir, STEPS)
            self.most_whole = max(self.most_whole, min(KEEP, newest // settings.CHECKPOINT_STEPS))
            if len(folder.whole(self.model_dir)) < self.most_whole:
                wrong.append(f"whole are {folder.whole(self.model_dir)}, {self.most_whole} should be")
            self.tally.check("folder whole right after a kill", self.where, not wrong, f"after {phase}: {'; '.join(wrong)}")

    def _compare(self) -> None:
        left = compare.read(self.model_dir)
        against = self.reference.separate if self.way == "separate" else self.reference.left
        self.tally.compare(self.where, *compare.differences(left, against, evaluations=self.way != "both"))
        if self.way == "both":
            self.tally.compare(self.where, *compare.shared_ledger(left, self.reference.left, self.reference.separate))
        must, may = promised(left, keep=KEEP, evaluator=self.way != "inline", killed_after_last=self.last_seen)
        self.tally.check("retained checkpoints", self.where, must <= set(left.published) <= may,
                         f"retained are {left.published}, must {sorted(must)}, may {sorted(may)}")
        wrong = folder.problems(self.model_dir, STEPS)
        self.tally.check("folder whole at the end", self.where, not wrong, "; ".join(wrong))
        if not self.last_seen:  # else there was no save any more that could have taken it away
            behind = folder.orphans(self.model_dir, before=STEPS)
            self.tally.check("nothing of retired checkpoints is left", self.where, not behind, f"left are {behind}")


def promised(left: compare.Left, *, keep: int, evaluator: bool, killed_after_last: bool) -> tuple[set[int], set[int]]:
    """The checkpoints that must be retained, and those that may.

    Must: the newest, and the best. May too: the one that was the best when the last one was saved, one more where the
    trainer was killed between its last save and what that retires, and all where an evaluator may not have seen them.
    """
    steps = list(range(settings.CHECKPOINT_STEPS, STEPS + 1, settings.CHECKPOINT_STEPS))
    must = {*steps[-keep:], left.best["step"]}
    earlier = [line for line in left.evaluations if line["step"] < STEPS]
    best = max(earlier, key=lambda line: (line["precision_at_1"], -line["step"]))
    may = {*must, best["step"]} | (set(steps[-keep - 1:]) if killed_after_last else set())
    return must, set(steps) if evaluator else may
