"""The command line: an absl flag for every option of the Config, and errors of one line, the same for every command.

    given = flags.parse(sys.argv)          # {"train_steps": 100}: only what the command says
    values = flags.of(fields)              # the flags of other options, made by config.option
    flags.help_text()                      # every flag with its default
    rest = flags.read(sys.argv, values)    # another command's own absl flags, held to the same rules
"""
import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterable

from absl import flags

from input_pipeline import flag_files
from trainer.config import FIELDS, UserError
from trainer.rules import SHOWN_CHARACTERS, Rule, listed, shown, suggestion, text_of

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
HELP_COLUMNS, HELP_INDENT = 100, 30


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


def parse(argv: list[str]) -> dict:
    """The options that the command gives, checked one by one. UserError for anything else on the command line."""
    values = of(FIELDS.values())
    rest = read(argv, values)
    if rest:
        raise UserError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, see --help")
    return {name: values[name].value for name in FIELDS if values[name].present}


def of(fields: Iterable[dataclasses.Field]) -> flags.FlagValues:
    """A flag for each field that `config.option` made."""
    values = flags.FlagValues()  # of this call: absl's own would keep what an earlier command gave
    for field in fields:
        rule = field.metadata["rule"]
        if rule.kind is bool:
            flags.DEFINE_bool(field.name, None, field.metadata["help"], flag_values=values)
        else:
            flags.DEFINE(_Parser(field.name, rule), field.name, None, field.metadata["help"], flag_values=values)
    return values


def read(argv: list[str], values: flags.FlagValues, hint: str = "see --help") -> list[str]:
    """Parses `argv` into `values`; returns the arguments that are no flags. UserError for a wrong flag.

    absl's integer, float, boolean, enum and string flags are held to `rules`: absl takes 0x10, 1_000 and nan.
    `--flagfile=FILE` stands for the flags in a file, one a line. hint: what to do about a flag that is not known and like
    no other.
    """
    for name in values:
        rule = _rule(values[name])
        if rule:
            values[name].parser = _Parser(name, rule)
    try:
        arguments = flag_files.expanded(argv[1:])
    except ValueError as error:
        raise UserError(str(error)) from None
    for written in (argument.split("=", 1)[0] for argument in arguments if argument.startswith("-")):
        if written in ("--undefok", "-undefok"):
            raise UserError("--undefok is not taken: every flag must be known; leave it out")
        if len(written) > SHOWN_CHARACTERS:  # absl looks for a similar name, a call a letter, until Python gives up
            raise UserError(f"{shown(written)} is not a flag; see --help")
    try:
        return values([argv[0], *arguments])[1:]
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


def command(argv: list[str], values: flags.FlagValues, run: Callable[[flags.FlagValues, list[str]], int], *, name: str,
            doc: str, arguments: bool = False) -> int:
    """A command's main: its help, its flags, `run(values, arguments)`, and a UserError as one line with its code, 2.

    arguments: whether it takes what is no flag.
    """
    if any(argument in HELP for argument in argv[1:]):
        print(doc.strip() + "\n\n" + values.get_help())
        return 0
    try:
        rest = read(argv, values)
        if rest and not arguments:
            raise UserError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, see --help")
        return run(values, rest)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


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


def help_text() -> str:
    """Every flag with its default, in the groups of the Config, lines of at most HELP_COLUMNS characters."""
    from input_pipeline import augment
    from trainer import recipes  # which are made of the Config
    names = {"recipe": recipes.RECIPES, "augment": [augment.usage(name) for name in augment.OPERATIONS]}
    lines = textwrap.wrap("Trains: python -m trainer.main [flags]. A recipe gives every value, a flag overrides it. The "
                          "values below are the defaults, those of the recipe digits; --recipe=NAME --dry_run shows "
                          "another's. A switch is turned on by --name, off by --noname. Of a flag that is given twice the "
                          "last one counts. --flagfile=FILE reads flags from a file, one a line.", HELP_COLUMNS)
    recipe, group = recipes.digits(), None
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", group.capitalize()]
        lines += help_lines(field, getattr(recipe, name), names.get(name))
    return "\n".join(lines)


def help_lines(field: dataclasses.Field, default, choices: Iterable[str] | None = None) -> list[str]:
    """What `--help` says of the flag of one field: its default, what it is, what there is to choose."""
    choices = choices or field.metadata["rule"].choices
    text = field.metadata["help"] + (f": {listed(choices)}" if choices else "")
    usual = "" if default in (None, "", ()) else f"={text_of(default)}"
    return textwrap.wrap(text, HELP_COLUMNS, initial_indent=f"  --{field.name}{usual}".ljust(HELP_INDENT - 1) + " ",
                         subsequent_indent=" " * HELP_INDENT, break_on_hyphens=False)
