"""What an evaluation tells names the task's own metric."""
import pytest

from trainer.report import Reporter
from trainer.watch import Ledger


@pytest.mark.parametrize("metric, line", [("precision_at_1", "precision @ 1 = 0.250"), ("mae", "mae = 0.250")])
def test_the_line_names_what_was_measured(tmp_path, metric, line):
    said = []
    reporter = Reporter(Ledger(tmp_path, "test", best=metric), said.append)
    assert reporter.report(10, {"raw": {"examples": 7, "loss": 3.0, metric: 0.25, "counts": None, "pictures": {}}})
    assert len(said) == 1 and said[0].endswith(f"step 10: {line} (7 examples, raw weights)")
