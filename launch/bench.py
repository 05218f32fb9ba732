"""Measures this installation: python -m launch.bench [--short] [--only=NAME,...]

One JSON object a line on standard output: what was measured, its value (the median), unit, n, minimum, maximum, both sides
of a ratio and the target. The two sides of every ratio run in turn within this command. On standard error: what is
being measured, and what got slower since the last time on the same kind of machine by more than the noise.
"""
import json
import os
import shutil
import signal
import sys

from absl import flags

from input_pipeline import command_line
from input_pipeline.rules import shown
from launch.benches import rows, stored
from trainer.config import UserError

TORCH = ("torch/bin/python", ".venv-torch/bin/python")  # where --torch_python is looked for


def define(values: flags.FlagValues) -> None:
    """This command's flags."""
    flags.DEFINE_string("only", "", "rows, by name or number, separated by commas", flag_values=values)
    flags.DEFINE_bool("short", False, "under 10 minutes: fewer rounds, shorter measurements", flag_values=values)
    flags.DEFINE_bool("list", False, "print the rows, measure nothing", flag_values=values)
    flags.DEFINE_bool("keep", True, "compare with the last results on this kind of machine, and keep these", flag_values=values)
    flags.DEFINE_string("torch_python", "", "an interpreter that has torch (default: this one, or torch/bin/python)",
                         flag_values=values)
    flags.DEFINE_string("growth", "", "a folder: measure how times grow, write tables and plots there, and nothing else",
                         flag_values=values)


def main(argv: list[str]) -> int:
    """Measures what `argv` asks for. Returns the exit code: 0, 1 where a row failed, 2."""
    values = flags.FlagValues()
    define(values)
    table = [f"  {entry.number:2} {name:14} {entry.summary}" for name, entry in rows.ROWS.items()]
    return command_line.run(argv, values, measure, name="bench", doc="\n".join([__doc__.strip(), "", "Rows", *table]))


def measure(values: flags.FlagValues, _: list[str]) -> int:
    """Runs what the flags ask for."""
    # An exception, so that the processes of both sides are ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        names = rows.selected(values.only)
        before = stored.read(stored.path_of(stored.machine_kind(), short=values.short)) if values.keep else {}
    except ValueError as error:
        raise UserError(f"--only: {error}" if values.only else str(error)) from None
    if values.list:
        for name in names:
            print(f"{rows.ROWS[name].number:2} {name}: {rows.ROWS[name].summary}")
        return 0
    if values.growth:
        from launch.benches import growth
        return growth.write(values.growth, short=values.short, say=say)
    options = rows.Options(short=values.short, torch_python=torch_python(values.torch_python))
    results = []
    for name in names:
        say(f"{rows.ROWS[name].number} {name}: {rows.ROWS[name].summary}")
        for found in rows.run([name], options):
            print(json.dumps(found), flush=True)
            results.append(found)
    if values.keep:
        for line in stored.slower(before, results):
            say(f"slower than the last time: {line}")
        path = stored.path_of(stored.machine_kind(), short=values.short)
        stored.write(path, results)
        say(f"kept in {path}" + ("" if before else "; nothing was there to compare with"))
    return 1 if any("failed" in found for found in results) else 0


def torch_python(given: str) -> str:
    """An interpreter that has torch, "" for none. UserError where `given` is no program."""
    if given:
        found = shutil.which(given)
        if found is None:
            raise UserError(f"--torch_python={shown(given)} must be a program; give an environment's bin/python")
        return os.path.abspath(found)
    import importlib.util
    if importlib.util.find_spec("torch"):
        return sys.executable
    return next((os.path.abspath(path) for path in TORCH if os.access(path, os.X_OK)), "")


def say(line: str) -> None:
    """Tells the user, beside the results."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
