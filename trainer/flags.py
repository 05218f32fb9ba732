"""The command line: an absl flag for every option of the Config, and errors of one line.

    given = flags.parse(sys.argv)          # {"train_steps": 100}: only what the command says
    flags.help_text()                      # every flag with its default
"""
from absl import flags

from trainer import config
from trainer.config import FIELDS, UserError


class _Parser(flags.ArgumentParser):
    """Parses one option's text by the Config's own rules."""

    def __init__(self, name: str):
        self.name = name

    def parse(self, argument):
        value = config.parse(self.name, argument) if isinstance(argument, str) else argument
        config.check_value(self.name, value)
        return value


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every option as an absl flag without a default: None means that the command does not say it."""
    for name, field in FIELDS.items():
        if name in flag_values:
            continue
        help_text = f"{field.metadata['help']} (digits: {config.text_of(field.default)})"
        if field.metadata["kind"] is bool:
            flags.DEFINE_bool(name, None, help_text, flag_values=flag_values)
        else:
            flags.DEFINE(_Parser(name), name, None, help_text, flag_values=flag_values)


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> dict:
    """The options that the command gives, checked one by one. UserError for anything else on the command line."""
    define(flag_values)
    rest = read(argv, flag_values)
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; flags are written --name=value, see --help")
    return {name: flag_values[name].value for name in FIELDS if flag_values[name].present}


def read(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Parses `argv` into `flag_values`; returns the arguments that are no flags. UserError for a wrong flag."""
    try:
        return flag_values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        near = config.suggestion(error.flagname, flag_values)
        raise UserError(f"--{error.flagname} is not a flag{near or '; see --help'}") from None
    except flags.Error as error:
        raise UserError(_one_line(str(error))) from None


def _one_line(text: str) -> str:
    """absl's 'flag --x=v: why' as '--x=v why', on one line."""
    return " ".join(text.removeprefix("flag ").replace(": must", " must").split())


def help_text() -> str:
    """Every flag with its default, in the groups of the Config."""
    lines = ["Lockstep's trainer. A recipe gives every value, a flag overrides it. Defaults are those of --recipe=digits;",
             "--recipe=NAME --dry_run prints another recipe's.", ""]
    group = None
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += [f"{group}:"]
        choices = field.metadata["choices"]
        default = "not set" if field.default in (None, "", ()) else config.text_of(field.default)
        text = field.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
        lines += [f"  --{name} ({default})", f"      {text}"]
    return "\n".join(lines)
