"""No silent hang: a thread that knows where every worker is, names who does not go on, and ends the process.

    with Watchdog(plan, timeout=300) as watchdog:
        watchdog.gather()                                  # several workers: these three, see trainer.workers.meet
        port, token = watchdog.listen(facts)
        watchdog.join(port, token)
        watchdog.look = lambda: Position(step=7, place="data", compiling=False, count=7)
        ...
        watchdog.end(0)                                    # an ordinary end: the others need not look for this worker

Nobody waits for a worker for longer than the timeout: one that is gone (its connection ended), that is silent (stopped, or
its machine is), and all together where none of them makes progress: data that do not come to one let the others wait in the
all-reduce. Progress is any change of step, of place or of batches evaluated, on any worker; so nobody is blamed for waiting
while the chief saves. The chief judges and tells the others, who print the same line; they judge the chief themselves. A process
ends with its stacks on stderr, the line, and code 75: started again, it goes on from the last checkpoint.
"""
import dataclasses
import faulthandler
import math
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable

from input_pipeline.rules import NotYet, UserError, one_line
from trainer import rendezvous
from trainer.devices import Plan, host_and_port
from trainer.heartbeat import PART_BITS, TOKEN_PARTS, Chief, Links, Member
from trainer.whereabouts import RANK, Position, Seen, building

HUNG = NotYet.exit_code
DEFAULT_SECS = 300  # of several workers; one alone only says so
FIRST_STEP_SECS = 600  # at least, for a call that traces and compiles
SAMPLE_SECS, BEAT_SECS = 0.05, 0.5
GONE_SECS = 1  # in which a last word may still come
SILENT_SECS = 3  # from which on a worker is named where TensorFlow has given up
GAVE_UP_SECS = 10  # for the others to find out who it was
PAUSED_SECS = 5  # a look that comes so late says that this process was stopped itself
SPREAD, WINDOW_SECS = 1.25, 5  # a slowest worker is told from this factor on, over at least so many seconds
ORDERLY = (0, 3, 130, 143)  # ends at which all workers end, each in its time


class Watchdog:
    """One process's. timeout: seconds, 0: it ends nobody but when a worker is gone; None: the default. leave: ends the
    process. say: takes a line for the user."""

    def __init__(self, plan: Plan, *, timeout: float | None, clock=time.monotonic, leave=os._exit,
                 say=lambda text: print(f"trainer: {text}", file=sys.stderr, flush=True)):
        self._plan, self._clock, self._leave, self._say = plan, clock, leave, say
        self._every = SAMPLE_SECS if plan.workers > 1 else BEAT_SECS  # seconds between two looks
        self._ends = timeout is not None or plan.workers > 1  # or only says so
        self._timeout = math.inf if timeout == 0 else timeout or DEFAULT_SECS
        self._links = Links()
        now = clock()
        self._seen = {plan.worker: Seen(now, now)}
        self._looked = self._beaten = now
        self._steps, self._longest, self._told = {}, 0.0, None
        self._failure: tuple[float, str] | None = None
        self._differs = ""
        self._facts: dict = {}
        self._window: tuple[float, dict] = now, {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self.look: Callable[[], Position] = building

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind, error, _) -> None:
        """A UserError is told to the others, who end with its code; of any other end they hear by the connection's."""
        if isinstance(error, UserError):
            self.end(error.exit_code, str(error))
        self._over.set()
        faulthandler.cancel_dump_traceback_later()

    # What the main thread calls.

    def gather(self) -> None:
        """Several workers: comes back when all are there. rendezvous.Absent if they do not come."""
        rendezvous.wait(self._plan, timeout=self._timeout)
        self.look = lambda: Position(place="meeting")

    def listen(self, facts: dict) -> tuple[int, list[int]]:
        """The chief's port and token, for all workers; zeros of any other one's. facts: what must be the same of all."""
        self._facts = facts
        if not self._plan.is_chief:
            return 0, [0] * TOKEN_PARTS
        token = [secrets.randbits(PART_BITS) for _ in range(TOKEN_PARTS)]
        chief = Chief(self._host(0), workers=self._plan.workers, token=token)
        with self._lock:
            self._links = chief
        return chief.port, token

    def join(self, port: int, token: list[int]) -> None:
        """Comes back when all workers have said hello. UserError on the chief, and its word to all, where facts differ."""
        if not self._plan.is_chief:
            member = Member(self._host(0), port, token=token, worker=self._plan.worker,
                            facts=self._facts)
            with self._lock:
                self._seen[0] = Seen(self._clock(), self._clock())
                self._links = member
            self.look = building
            return
        while len(self._seen) < self._plan.workers and not self._differs:
            self._over.wait(SAMPLE_SECS)
        if self._differs:
            raise UserError(self._differs)
        self.look = building

    def failed(self, error: Exception) -> None:
        """TensorFlow gave up on a step: finds out which worker it was because of, and ends the process."""
        reason = one_line(str(error).split("[[{{")[0])
        with self._lock:
            self._failure = self._clock(), f"worker {self._plan.worker}: {type(error).__name__}: {reason}"
            self._links.send({"failed": self._failure[1]})
        while not self._over.wait(1):
            pass

    def end(self, code: int, why: str = "") -> None:
        """An ordinary end. Other workers wait for the chief's: TensorFlow takes their exit for a failure."""
        with self._lock:
            self._links.send({"bye": code, "why": why})
            self.look = lambda: Position(place="ending")
        while code in ORDERLY and not self._plan.is_chief and 0 in self._links.lines and self._seen[0].code is None:
            self._over.wait(SAMPLE_SECS)
        self._over.set()
        with self._lock:
            self._links.poll(0)

    def slowest(self) -> str:
        """The slowest worker and by how much, over the time since this was told last; "" where there is none to tell."""
        now, (since, before) = self._clock(), self._window
        if len(self._seen) < 2 or now - since < WINDOW_SECS:
            return ""
        with self._lock:
            here = {worker: (seen.own, seen.position.step) for worker, seen in self._seen.items()}
        self._window = now, here
        spent = {worker: (own - before[worker][0]) / (step - before[worker][1]) for worker, (own, step) in here.items()
                 if worker in before and step > before[worker][1]}
        if len(spent) < 2:
            return ""
        worker = max(spent, key=spent.get)
        others = sorted(value for other, value in spent.items() if other != worker)
        usual = others[len(others) // 2]
        if spent[worker] < SPREAD * usual:
            return ""
        return f"slowest worker {worker}: {1000 * spent[worker]:.0f} ms a step of its own, others {1000 * usual:.0f}"

    # What the thread does.

    def _run(self) -> None:
        try:
            while not self._over.wait(self._every):
                with self._lock:
                    self.turn()
        except Exception:  # nobody would look after the process any more
            traceback.print_exc()
            self._leave(1)

    def turn(self) -> None:
        """One look at everything: what came, where this process is, who does not go on."""
        now = self._clock()
        late, self._looked = now - self._looked, now
        if late > PAUSED_SECS:  # nobody can be blamed for the time in which this process was stopped itself
            for seen in self._seen.values():
                seen.changed, seen.heard = seen.changed + late, seen.heard + late
        for worker, message in self._links.poll(0):
            self._hear(worker, message, now)
        me = self._seen[self._plan.worker]
        me.heard = now
        self._move(me, self._position(), now)
        if me.position.place in ("data", "computing", "updating"):
            me.own += min(late, PAUSED_SECS)  # a sample stands for the time since the last: one of a busy machine comes late
        if now - self._beaten >= BEAT_SECS:
            self._beaten = now
            self._links.send({"at": dataclasses.asdict(me.position), "own": me.own})
            if self._ends and self._timeout < math.inf:  # should this thread be held up itself: C code, without a lock
                faulthandler.dump_traceback_later(2 * self._bound(), exit=True)
        self._judge(now)

    def _position(self) -> Position:
        try:
            return self.look()
        except Exception:  # variables of a TensorFlow that gave up cannot be read: then nothing moves any more
            return self._seen[self._plan.worker].position

    def _move(self, seen: Seen, position: Position, now: float) -> None:
        if position == seen.position:
            return
        if not (position.compiling or seen.position.compiling) and position.step and seen.position.step:
            self._longest = max(self._longest, now - seen.changed)  # a step may take longer than the timeout
        seen.position, seen.changed = position, now
        self._told = None

    def _hear(self, worker: int, message: dict, now: float) -> None:
        """From a worker, or at a worker from the chief."""
        if worker not in self._seen:
            self._seen[worker] = Seen(now, now)
        seen = self._seen[worker]
        seen.heard = now
        if "at" in message:
            self._move(seen, Position(**message["at"]), now)
            seen.own = float(message["own"])
        if "facts" in message and not self._differs:
            self._compare(worker, message["facts"])
        if "failed" in message and self._failure is None:
            self._failure = now, str(message["failed"])
        if "verdict" in message:
            self._end(str(message["verdict"]), int(message["code"]))
        if "bye" in message:
            seen.code = int(message["bye"])
            if seen.code not in ORDERLY:
                self._verdict(f"worker {worker} ended with code {seen.code}: {message['why']}", seen.code)

    def _compare(self, worker: int, facts: dict) -> None:
        """The workers' configurations: a message names what differs."""
        names = sorted(name for name in self._facts.keys() | facts.keys() if self._facts.get(name) != facts.get(name))
        if names:
            here, there = self._facts.get(names[0]), facts.get(names[0])
            self._differs = (f"worker {worker} has {names[0]} {there}, worker 0 has {here}"
                             + (f" ({len(names)} things differ)" if len(names) > 1 else "")
                             + "; give all workers the same command and installation")
            self._links.send({"verdict": self._differs, "code": UserError.exit_code})

    def _bound(self) -> float:
        """Seconds without progress of anybody that are too many."""
        first = FIRST_STEP_SECS if any(seen.position.compiling for seen in self._seen.values()) else 0
        return max(self._timeout, first, 2 * self._longest)

    def _judge(self, now: float) -> None:
        living = {worker: seen for worker, seen in self._seen.items() if seen.code is None}
        others = [worker for worker in living if worker != self._plan.worker]
        gone = [worker for worker in others if worker in self._links.gone and now - living[worker].heard > GONE_SECS]
        silent = [worker for worker in others
                  if now - living[worker].heard > (SILENT_SECS if self._failure else self._timeout)]
        if gone:
            worker = gone[0]
            self._verdict(f"worker {worker} died, or its machine: the connection to it ended while it was "
                          f"{living[worker].words(living[worker].heard)}", HUNG)
        elif silent:
            worker = silent[0]
            self._verdict(f"nothing has been heard of worker {worker} for {now - living[worker].heard:.1f} s: it or its machine "
                          f"is stopped, or the network is down; it was {living[worker].words(living[worker].heard)}", HUNG)
        elif self._failure and now - self._failure[0] > GAVE_UP_SECS * (1 if self._plan.is_chief or not others else 1.5):
            self._verdict(f"TensorFlow gave up: {self._failure[1]}", HUNG)
        elif now - max(seen.changed for seen in living.values()) > self._bound() and (
                self._plan.is_chief or 0 not in others):
            self._stalled(living, now)

    def _stalled(self, living: dict[int, Seen], now: float) -> None:
        """Nobody moves: it is because of those that are furthest behind."""
        last = min((seen.position.step, RANK[seen.position.place]) for seen in living.values())
        behind = [worker for worker, seen in living.items() if (seen.position.step, RANK[seen.position.place]) == last]
        waiting = [worker for worker in living if worker not in behind]
        text = f"no progress for {now - max(seen.changed for seen in living.values()):.0f} s: {self._named(behind, now)}"
        if waiting:
            text += f"; because of that {self._named(waiting, now)}"
        if self._ends:
            self._verdict(f"{text} (--hang_timeout_secs={self._timeout:g})", HUNG)
        elif self._told is None:
            self._told = text
            self._say(f"{text}. It goes on waiting; --hang_timeout_secs={self._timeout:g} would end it, with code {HUNG}")

    def _named(self, workers: list[int], now: float) -> str:
        if self._plan.workers == 1:
            return self._seen[workers[0]].words(now)
        more = f" and {len(workers) - 3} more" if len(workers) > 3 else ""
        return ", ".join(f"worker {worker} is {self._seen[worker].words(now)}" for worker in sorted(workers)[:3]) + more

    def _host(self, worker: int) -> str:
        return host_and_port(self._plan.addresses[worker])[0]

    def _verdict(self, text: str, code: int) -> None:
        """Tells all others, and ends this process."""
        self._links.send({"verdict": text, "code": code})
        self._links.poll(0)
        self._end(text, code)

    def _end(self, text: str, code: int) -> None:
        """Stacks first: the line is the last thing in the log."""
        if code == HUNG:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            text += f"; exit code {HUNG}, the same command goes on from the last checkpoint"
        self._say(text)
        self._over.set()
        sys.stdout.flush()
        self._leave(code)
