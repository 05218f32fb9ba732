"""A program that measures when it is told to: a number on standard input, a JSON object on standard output.

    serve(measure)      # measure(10) -> {"value": 1234.5}; ends with the input

So two programs can be measured in turn, neither starting anew. What anything else prints goes to standard error. No imports
of the project: the peers use it too.
"""
import json
import os
import resource
import sys


def channel():
    """Standard output as it was; from here on what is printed goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def serve(measure, out) -> None:
    """Says that it is ready, then answers every line of standard input, an amount, by `measure(amount)`."""
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        answer = measure(int(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**answer, "peak_bytes": peak}), file=out, flush=True)
    out.flush()
    os._exit(0)  # threads need no goodbye
