"""What an evaluation tells: the console line, TensorBoard at the checkpoint's step, and last the ledger.

    reporter = Reporter(ledger, print)
    reporter.report(1000, {"ema": result, "raw": result})
"""
import datetime

from trainer import summaries
from trainer.events import Events
from trainer.watch import Ledger
from trainer.writers import evaluator_line


class Reporter:
    """Reports the results of one split. say: takes a line for the user."""

    def __init__(self, ledger: Ledger, say):
        self.ledger, self._say = ledger, say
        self._events = Events(str(ledger.folder))
        self._events.restart(max(ledger.settled(), default=0))

    def report(self, step: int, results: dict[str, dict]) -> bool:
        """results: of each kind of weights; the first kind's numbers have the plain tags in TensorBoard.

        Returns whether they are in the ledger: not if the step was settled meanwhile.
        """
        lines = {kind: {name: value for name, value in result.items() if name not in ("counts", "pictures")}
                 for kind, result in results.items()}
        first = next(iter(results))
        metric = self.ledger.best_metric
        for kind, line in lines.items():
            self._say(evaluator_line(datetime.datetime.now(), step, metric, line[metric], line["examples"], kind))
            self._events.scalars(step, {name if kind == first else f"{name}/{kind}": value
                                        for name, value in line.items() if name != "examples"})
        for tag, picture in results[first]["pictures"].items():
            self._events.images(step, tag, picture)
        self._events.flush()
        return self.ledger.record(step, lines)

    def images(self, step: int, images) -> None:
        """Shows the split's first images, [n, h, w, c] in any units."""
        self._events.images(step, "images", summaries.displayable(images))
        self._events.flush()
