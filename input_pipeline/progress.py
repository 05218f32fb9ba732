"""How far a download or a conversion is, for a person: one bar on a terminal, elsewhere a line every 10 %.

    progress = Progress(sys.stderr)
    progress.advance("a.tar.gz", 51_000_000, 170_000_000)
    progress.note("the connection ended; again in 1 s")
    Progress(sys.stderr, unit="images").advance("flowers", 1_000, 3_670)
"""

import time
from collections.abc import Callable


class Progress:
    """Writes to `stream`; to nobody where that is None. `unit`: of what is counted; MB: bytes. `clock()`: seconds."""

    def __init__(self, stream=None, *, unit: str = "MB", clock: Callable[[], float] = time.monotonic):
        self._stream, self._unit, self._clock = stream, unit, clock
        self._terminal = stream is not None and stream.isatty()
        self._name, self._open = "", False      # the file shown; whether its bar still stands in an open line
        self._since = self._first = self._drawn = self._shown = 0

    def advance(self, name: str, received: int, total: int | None) -> None:
        """`received` of `total` bytes or other units (None: unknown) of file `name` are here."""
        if self._stream is None or not total:
            return
        now = self._clock()
        if name != self._name:
            self._name, self._since, self._first, self._shown, self._drawn = name, now, received, -1, -1.0
        rate = (received - self._first) / max(now - self._since, 1e-3)
        text = f"{self._amount(received)} of {self._amount(total)} {self._unit}, {self._amount(rate)} {self._unit}/s"
        if self._terminal and (now - self._drawn >= 0.1 or received == total):
            self._drawn, self._open = now, received < total
            bar = "#" * (30 * received // total)
            self._stream.write(f"\r{name} [{bar:.<30}] {text}\x1b[K" + ("" if self._open else "\n"))
        elif not self._terminal and 10 * received // total > self._shown:
            self._shown = 10 * received // total
            self._stream.write(f"{name}: {10 * self._shown:3d} % ({text})\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._stream is not None:
            self._stream.write(("\n" if self._open else "") + text + "\n")
            self._stream.flush()
            self._open = False

    def _amount(self, number: float) -> str:
        return f"{number / 1e6:,.1f}" if self._unit == "MB" else f"{number:,.0f}"
