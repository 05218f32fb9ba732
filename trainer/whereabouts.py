"""Where a worker is: the step, the place in it, since when; as numbers to compare and as words.

    position = Position(step=56, place="data")
    Seen(changed=now - 12, heard=now, position=position).words(now)      # "waiting for data at step 57, for 12 s"
"""
import dataclasses

# Where a worker can be, from what comes first in a step to what comes last.
PLACES = {"starting": "starting", "meeting": "waiting for the other workers", "saving": "saving", "evaluating": "evaluating",
          "summaries": "writing summaries", "other": "between two steps", "compiling": "tracing and compiling",
          "data": "waiting for data", "computing": "computing", "reducing": "waiting in the all-reduce",
          "updating": "updating", "ending": "ending"}
RANK = {place: rank for rank, place in enumerate(PLACES)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """step: completed. place: one of PLACES. compiling: whether it may take as long as a first step. count: of batches evaluated."""

    step: int = 0
    place: str = "starting"
    compiling: bool = False
    count: int = 0


@dataclasses.dataclass
class Seen:
    """What is known of a worker. changed, heard: when its position changed, when it was heard of. own: seconds of training
    so far in which it did not wait in the all-reduce. code: what it ended with."""

    changed: float
    heard: float
    position: Position = Position()
    own: float = 0.0
    code: int | None = None

    def words(self, now: float) -> str:
        if self.position.place in ("starting", "meeting"):
            return f"{PLACES[self.position.place]}, for {now - self.changed:.0f} s"
        within = self.position.place in ("compiling", "data", "computing", "reducing", "updating")
        if self.code is not None:
            return f"ended with code {self.code} after step {self.position.step}"
        return f"{PLACES[self.position.place]} at step {self.position.step + within}, for {now - self.changed:.0f} s"


def building() -> Position:
    """Of a process whose network is built, which takes its time as the first step does."""
    return Position(compiling=True)
