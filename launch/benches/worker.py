"""A process in which something of this project is measured: python -m launch.benches.worker MODULE:FUNCTION JSON

FUNCTION(**options) prepares, and returns `measure(amount)`; see `answering`.
"""
from launch.benches import answering

if __name__ == "__main__":
    out = answering.channel()

import importlib
import json
import sys


def main(argv: list[str]) -> None:
    """Runs the worker that `argv` names, until its input ends."""
    module, function = argv[1].split(":")
    options = json.loads(argv[2])
    answering.serve(getattr(importlib.import_module(f"launch.benches.{module}"), function)(**options), out)


if __name__ == "__main__":
    main(sys.argv)
