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

from launch.benches import rows, stored
from launch.spec import HELP, WRONG, UserError, shown

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
    if any(argument in HELP for argument in argv[1:]):
        print(help_text(values))
        return 0
    # An exception, so that the processes of both sides are ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return measure(parse(argv, values))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return WRONG


def parse(argv: list[str], values: flags.FlagValues) -> flags.FlagValues:
    """The flags of `argv`. UserError for anything wrong."""
    try:
        rest = values(argv)[1:]
    except (flags.Error, ValueError) as error:
        raise UserError(f"{shown(error)}; see --help") from None
    if rest:
        raise UserError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, see --help")
    return values


def measure(values: flags.FlagValues) -> int:
    """Runs what the flags ask for."""
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


def help_text(values: flags.FlagValues) -> str:
    """The description, the flags, the rows."""
    own = [f"  --{name:14} {values[name].help}" for name in ("only", "short", "list", "keep", "torch_python", "growth")]
    table = [f"  {entry.number:2} {name:14} {entry.summary}" for name, entry in rows.ROWS.items()]
    return "\n".join([__doc__.strip(), "", "Flags", *own, "", "Rows", *table])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
