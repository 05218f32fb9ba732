"""What the torture did and found, and the table of it.

    tally = Tally()
    tally.kill("trainer: stepping")
    tally.compare("float32-1", {"tensor": 70}, ["tensor 'model/a' differs"])
    print(tally.table()); sys.exit(tally.code)
"""
import collections
import textwrap
import time


class Tally:
    """Counts, failures and notes; says each of them as it comes."""

    def __init__(self, say=lambda line: print(line, flush=True)):
        self._say, self._started = say, time.monotonic()
        self.kills: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[str] = collections.Counter()  # restarts, damages and the like
        self.compared: collections.Counter[str] = collections.Counter()
        self.equal: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.notes: list[str] = []

    def say(self, text: str) -> None:
        """A progress line."""
        self._say(f"[{time.monotonic() - self._started:6.0f} s] {text}")

    def kill(self, phase: str) -> None:
        """A process was killed in this phase, seen in what it left."""
        self.kills[phase] += 1

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def note(self, text: str) -> None:
        """Something worth knowing that breaks no promise."""
        self.notes.append(text)
        self.say(f"note: {text}")

    def fail(self, where: str, text: str) -> None:
        """A promise was broken."""
        self.failures.append(f"{where}: {text}")
        self.say(f"FAILED {where}: {text}")

    def check(self, kind: str, where: str, right: bool, text: str) -> bool:
        """Counts one comparison of this kind; `text` says what is wrong where it is not `right`."""
        self.compared[kind] += 1
        self.equal[kind] += bool(right)
        if not right:
            self.fail(where, text)
        return right

    def compare(self, where: str, compared: dict[str, int], differing: dict[str, list[str]]) -> bool:
        """Counts comparisons: how many of each kind, and texts for those that differed. Whether none did."""
        for kind, number in compared.items():
            wrong = differing.get(kind, [])
            self.compared[kind] += number
            self.equal[kind] += number - min(number, len(wrong))
            if wrong:
                more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
                self.fail(where, f"{kind}: {'; '.join(wrong[:3])}{more}")
        assert differing.keys() <= compared.keys()
        return not any(differing.values())

    def merge(self, other: dict) -> None:
        """Adds what another process's tally has (see as_dict)."""
        for name in ("kills", "counts", "compared", "equal"):
            getattr(self, name).update(other[name])
        self.failures += other["failures"]
        self.notes += other["notes"]

    def as_dict(self) -> dict:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    def code(self) -> int:
        """The exit code: 1 if anything failed."""
        return 1 if self.failures else 0

    def table(self) -> str:
        """All of it, for people."""
        def rows(title: str, counter: collections.Counter) -> list[str]:
            return [title, *(f"  {name:<62}{number:>8,}" for name, number in sorted(counter.items()))] if counter else []

        lines = rows(f"{'kills, by the phase that was seen':<64}{self.kills.total():>8,}", self.kills)
        lines += rows("done", self.counts)
        if self.compared:
            lines += [f"{'compared':<54}{'equal':>9}{'different':>10}"]
            lines += [f"  {kind:<52}{self.equal[kind]:>9,}{number - self.equal[kind]:>10,}"
                      for kind, number in sorted(self.compared.items())]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"FAILED {textwrap.shorten(failure, 300, placeholder=' ...')}" for failure in self.failures]
        lines.append(f"{len(self.failures)} failed" if self.failures else "everything was equal")
        return "\n".join(lines)
