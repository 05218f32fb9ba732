"""The trainer's flags, one for every option of the Config, and their help.

    given = flags.parse(sys.argv)          # {"train_steps": 100}: only what the command says
    flags.help_text()                      # every flag with its default
"""
import textwrap

from input_pipeline import command_line
from trainer.config import FIELDS


def parse(argv: list[str]) -> dict:
    """The options that the command gives, checked one by one. UserError for anything else on the command line."""
    values = command_line.flags_of(FIELDS.values())
    command_line.read(argv, values)
    return {name: values[name].value for name in FIELDS if values[name].present}


def help_text() -> str:
    """Every flag with its default, in the groups of the Config."""
    from input_pipeline import augment
    from trainer import recipes  # which are made of the Config
    names = {"recipe": recipes.RECIPES, "augment": [augment.usage(name) for name in augment.OPERATIONS]}
    lines = textwrap.wrap("Trains: python -m trainer.main [flags]. A recipe gives every value, a flag overrides it. The "
                          "values below are the defaults, those of the recipe digits; --recipe=NAME --dry_run shows "
                          "another's. A switch is turned on by --name, off by --noname. Of a flag that is given twice the "
                          "last one counts. --flagfile=FILE reads flags from a file, one a line.", command_line.HELP_COLUMNS)
    recipe, group = recipes.digits(), None
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", group.capitalize()]
        lines += command_line.help_lines(name, getattr(recipe, name), field.metadata["help"],
                                         names.get(name) or field.metadata["rule"].choices)
    return "\n".join(lines)
