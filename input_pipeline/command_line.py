"""The command line of every program here: absl flags held to `rules`, their help, and errors of one line.

    values = flags.FlagValues()             # of its own: absl's own would keep what an earlier command gave
    flags.DEFINE_integer("shard_mb", 100, "megabytes of a shard, about", lower_bound=1, flag_values=values)
    command_line.read(argv, values)         # UserError: --shard_mb=x must be a whole number ...
    code = command_line.run(argv, values, start, name="evaluator", doc=__doc__)     # all that a main does
"""
import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterable

from absl import flags

from input_pipeline import flag_files
from input_pipeline.rules import SHOWN_CHARACTERS, Rule, UserError, listed, shown, suggestion, text_of

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
HELP_COLUMNS, HELP_INDENT = 100, 30
ABSLS_OWN = ("flagfile", "undefok")


def flags_of(fields: Iterable[dataclasses.Field]) -> flags.FlagValues:
    """A flag for each field of a dataclass, whose metadata are its "help" and its "rule"."""
    values = flags.FlagValues()
    for field in fields:
        rule = field.metadata["rule"]
        if rule.kind is bool:
            flags.DEFINE_bool(field.name, None, field.metadata["help"], flag_values=values)
        else:
            flags.DEFINE(_Parser(field.name, rule), field.name, None, field.metadata["help"], flag_values=values)
    return values


def read(argv: list[str], values: flags.FlagValues, *, arguments: bool = False, hint: str = "see --help") -> list[str]:
    """Parses `argv` into `values`. UserError for anything wrong: the flag, its value, the rule, a fix.

    absl's integer, float, boolean, enum and string flags are held to `rules`: absl takes 0x10, 1_000 and nan.
    `--flagfile=FILE` stands for the flags in a file, one a line. arguments: whether what is no flag is taken, and
    returned. hint: what to do about a flag that is not known and like no other.
    """
    for name in values:
        rule = _rule(values[name])
        if rule:
            values[name].parser = _Parser(name, rule)
    try:
        given = flag_files.expanded(argv[1:])
    except ValueError as error:
        raise UserError(str(error)) from None
    for written in (argument.split("=", 1)[0] for argument in given if argument.startswith("-")):
        if written in ("--undefok", "-undefok"):
            raise UserError("--undefok is not taken: every flag must be known; leave it out")
        if len(written) > SHOWN_CHARACTERS:  # absl looks for a similar name, a call a letter, until Python gives up
            raise UserError(f"{shown(written)} is not a flag; {hint}")
    try:
        rest = values([argv[0], *given])[1:]
    except flags.UnrecognizedFlagError as error:
        known = [*values, *(f"no{name}" for name in values if values[name].boolean)]
        near = suggestion(error.flagname, known, "--") or f"; {hint}"
        raise UserError(f"{shown(error.flagvalue)} is not a flag{near}") from None
    except flags.Error as error:
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        text = str(error).removeprefix("flag ")
        missing = text.removeprefix("Missing value for flag ")
        raise UserError(f"{shown(missing)} needs a value; write {missing}=VALUE" if missing != text else text) from None
    except ValueError as error:  # --noxla=3
        name = str(error).split("=", 1)[0]
        raise UserError(f"{shown(str(error).removesuffix(' does not take an argument'))} must be written {name}, "
                        "without a value") from None
    if rest and not arguments:
        raise UserError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, {hint}")
    return rest


def run(argv: list[str], values: flags.FlagValues, start: Callable[[flags.FlagValues, list[str]], int], *, name: str,
        doc: str, arguments: bool = False) -> int:
    """A command's main: its help, its flags, `start(values, arguments)`, and a UserError as one line with its code, 2."""
    if any(argument in HELP for argument in argv[1:]):
        print(doc.strip() + "\n\n" + help_text(values))
        return 0
    try:
        return start(values, read(argv, values, arguments=arguments))
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def help_text(values: flags.FlagValues) -> str:
    """Every flag with its default."""
    lines = ["Flags"]
    for flag in sorted({values[name] for name in values if name not in ABSLS_OWN}, key=lambda flag: flag.name):
        rule = _rule(flag)
        choices = rule and rule.choices
        text = flag.help.removeprefix(f"<{'|'.join(choices or ())}>: ")  # which absl puts before an enum's
        lines += help_lines(flag.name, flag.default, text, choices)
    return "\n".join(lines)


def help_lines(name: str, default, text: str, choices: Iterable[str] | None = None) -> list[str]:
    """What `--help` says of a flag: its default, what it is, what there is to choose; at most HELP_COLUMNS characters."""
    usual = "" if default in (None, "", ()) else f"={text_of(default)}"
    return textwrap.wrap(text + (f": {listed(choices)}" if choices else ""), HELP_COLUMNS, break_on_hyphens=False,
                         initial_indent=f"  --{name}{usual}".ljust(HELP_INDENT - 1) + " ",
                         subsequent_indent=" " * HELP_INDENT)


class _Parser(flags.ArgumentParser):
    """Parses one flag's text by a rule."""

    def __init__(self, name: str, rule: Rule):
        self.name, self.rule = name, rule

    def parse(self, argument):
        """The value; absl's error has the UserError, which says it all, as its context."""
        try:
            return self.rule.parse(argument) if isinstance(argument, str) else argument
        except ValueError as error:
            raise UserError(f"--{self.name}={shown(argument)} {error}") from None


def _rule(flag: flags.Flag) -> Rule | None:
    """The rule of a flag that absl defined; None for one with a parser of its own."""
    parser = flag.parser
    if type(parser) is flags.BooleanParser:
        return Rule(kind=bool, default=flag.default)
    if type(parser) in (flags.IntegerParser, flags.FloatParser):
        return Rule(kind=int if type(parser) is flags.IntegerParser else float, default=flag.default,
                    at_least=parser.lower_bound, at_most=parser.upper_bound)
    if type(parser) is flags.EnumParser and parser.case_sensitive:
        return Rule(kind=str, choices=tuple(parser.enum_values))
    return Rule(kind=str) if type(parser) is flags.ArgumentParser else None
