"""The command line of this package's programs: absl flags, their help, and errors of one line.

    values = flags.FlagValues()             # of its own: the trainer's flags may be in the same process
    flags.DEFINE_string("output", None, "the folder to write", flag_values=values)
    command_line.whole_number(values, "shard_mb", 100, "megabytes of a shard, about", at_least=1, at_most=100_000)
    command_line.read(argv, values)         # ValueError: --shard_mb=x must be a whole number of 1 to 100000 ...
    command_line.help_text(values)
"""

import difflib
import re
import textwrap

from absl import flags

from input_pipeline import flag_files

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
SHOWN_CHARACTERS = 100  # of a value in a message
LINE_CHARACTERS = 1000  # of a message


def whole_number(values: flags.FlagValues, name: str, default: int, text: str, *, at_least: int, at_most: int) -> None:
    """Defines a flag whose value is a whole number, written in digits."""
    flags.DEFINE(_Whole(name, default, at_least, at_most), name, default, text, flag_values=values)


def read(argv: list[str], values: flags.FlagValues) -> None:
    """Parses `argv` into `values`. ValueError: the flag, its value, the rule, a fix."""
    arguments = flag_files.expanded(argv[1:])
    for argument in arguments:
        if argument.startswith(("--undefok", "-undefok")):
            raise ValueError("--undefok is not taken: every flag must be known; leave it out")
        if argument.startswith("-") and len(argument.split("=", 1)[0]) > SHOWN_CHARACTERS:
            raise ValueError(f"{shown(argument)} is not a flag; see --help")
    try:
        rest = values([argv[0], *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1)
        more = f"; did you mean --{near[0]}?" if near else "; see --help"
        raise ValueError(f"{shown(error.flagvalue)} is not a flag{more}") from None
    except flags.Error as error:
        if isinstance(error.__context__, _Refused):
            raise ValueError(str(error.__context__)) from None
        text = str(error).removeprefix("ERROR:: ")
        missing = text.removeprefix("Missing value for flag ")
        raise ValueError(f"{missing} needs a value; write {missing}=VALUE" if missing != text else text) from None
    except ValueError as error:  # --noskip_broken=3
        name = str(error).split("=", 1)[0]
        raise ValueError(f"{shown(str(error).removesuffix(' does not take an argument'))} must be written {name}, "
                         "without a value") from None
    if rest:
        raise ValueError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, see --help")


def help_text(values: flags.FlagValues) -> str:
    """Every flag with its default, in lines of at most 100 characters."""
    lines = []
    for flag in sorted({values[name] for name in values}, key=lambda flag: flag.name):
        if flag.name in ("flagfile", "undefok"):
            continue
        default = f"={flag.default}" if flag.default is not None and not flag.boolean else ""
        lines += textwrap.wrap(flag.help, 100, initial_indent=f"  --{flag.name}{default}".ljust(23) + " ",
                               subsequent_indent=" " * 24, break_on_hyphens=False)
    return "\n".join(lines)


def shown(text: str) -> str:
    """A value as a message shows it: control characters escaped, the middle of a long one left out."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS - 30]}...{text[-20:]}"


def one_line(text: str) -> str:
    """A message as one line that any terminal can show."""
    text = " ".join(filter(None, map(str.strip, re.split(r"[\t\n\v\f\r]+", text))))
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"{text[:LINE_CHARACTERS // 2]} ... {text[-LINE_CHARACTERS // 3:]}"


class _Refused(ValueError):
    """What a flag's parser says; absl makes an error of its own of it, which has this one as its context."""


class _Whole(flags.ArgumentParser):
    """Parses a whole number."""

    def __init__(self, name: str, default: int, at_least: int, at_most: int):
        self._name, self._default, self._at_least, self._at_most = name, default, at_least, at_most

    def parse(self, argument):
        """The number. _Refused: the flag, its value, the rule, an example."""
        if isinstance(argument, int):
            return argument
        if not re.fullmatch("[0-9]{1,18}", argument) or not self._at_least <= int(argument) <= self._at_most:
            raise _Refused(f"--{self._name}={shown(argument)} must be a whole number of {self._at_least} to "
                           f"{self._at_most}, such as {self._default or 224}")
        return int(argument)
