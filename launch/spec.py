"""The job: what all launchers know of it, as a frozen dataclass whose fields are their flags.

    python -m launch.local --num_workers=2 --evaluator -- --recipe=digits --train_steps=100
                           the launcher's flags        -- the trainer's, passed on; of a flag file its content

A launcher derives a class with its own fields from Job, and hands its main over:

    return spec.command(sys.argv, LocalJob, start, name="launch.local", doc=__doc__)

Wrong flags: one line on stderr, code 2, nothing started. Also of the trainer's flags each is checked here, for a job may
wait for hours, or cost money, before a trainer sees them; how they fit together and the data are left to the trainer.
"""
import dataclasses
import functools
import re
import shlex
import sys
import textwrap
import typing
from collections.abc import Callable

from absl import flags

from input_pipeline import flag_files
from trainer import config, recipes
from trainer import flags as trainer_flags

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
HELP_COLUMNS, HELP_INDENT = 100, 30
WRONG, DIVERGED, HUNG, STOPPED = 2, 3, 75, (143, 130)  # the trainer's exit codes, see README
SHOWN_CHARACTERS = 200
SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class UserError(ValueError):
    """A wrong flag or surrounding: one line for the user, exit code 2."""


def option(default, help_text: str, *, at_least: float | None = None, at_most: float | None = None,
           pattern: str | None = None, rule: str = "", choices: tuple[str, ...] = ()):
    """A field with what its flag must be. pattern: what a text must match, which `rule` says in words."""
    return dataclasses.field(default=default, metadata=dict(help=help_text, at_least=at_least, at_most=at_most,
                                                            pattern=pattern, rule=rule, choices=choices))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training run in several processes. UserError where the values contradict each other."""

    num_workers: int = option(1, "processes that train together; worker 0 is the chief", at_least=1, at_most=10_000)
    evaluator: bool = option(False, "a separate evaluator beside the workers, until training is done")
    max_restarts: int = option(3, "restarts of all workers after a crash or a stop from outside, at most (0: none). "
                               "Codes 2 (wrong) and 3 (diverged) are never tried again", at_least=0, at_most=1_000_000)
    grace_secs: float = option(30.0, "seconds between SIGTERM and SIGKILL; a trainer saves within 25", at_least=0,
                               at_most=86400)
    hang_timeout_secs: float | None = option(None, "passed on to the trainer (default: the trainer's)", at_least=0,
                                             at_most=86400)
    dry_run: bool = option(False, "print what would be started, start nothing")
    trainer_flags: tuple[str, ...] = ()

    def __post_init__(self):
        given = self.trainer
        for name in ("fast_dev_run", "dry_run"):
            if given.get(name):
                raise UserError(f"--{name} after -- is for one process; run python -m trainer.main --{name}")
        if self.hang_timeout_secs is not None and "hang_timeout_secs" in given:
            raise UserError(f"--hang_timeout_secs={self.hang_timeout_secs:g} and --hang_timeout_secs="
                            f"{given['hang_timeout_secs']:g} after -- say the same; give one of them")
        if self.num_workers == 1:
            return
        strategy = given.get("strategy", "auto")
        if strategy not in ("auto", "multi_worker"):
            raise UserError(f"--strategy={strategy} is for one process, --num_workers={self.num_workers} starts more; "
                            "leave --strategy out, or give --num_workers=1")
        if given.get("tpu"):
            raise UserError(f"--tpu={given['tpu']} is driven by one process, --num_workers={self.num_workers} starts "
                            "more; give --num_workers=1")
        if given.get("emulate"):
            raise UserError(f"--emulate makes replicas in one process, --num_workers={self.num_workers} starts more, "
                            "of one replica each on CPUs; give one of them")

    @functools.cached_property
    def trainer(self) -> dict:
        """The trainer's flags that are given. UserError where it would not take one."""
        if "--" in self.trainer_flags:
            raise UserError("after --: another --; all after the first are the trainer's flags, leave it out")
        if any(argument in HELP for argument in self.trainer_flags):
            raise UserError("after --: the trainer's flags are shown by python -m trainer.main --help")
        try:
            given = trainer_flags.parse(["", *self.trainer_flags])
            recipes.named(given.get("recipe", "digits"))
        except config.UserError as error:
            raise UserError(f"after --: {error}") from None
        return given

    @property
    def model_dir(self) -> str:
        """The trainer's --model_dir, also where it is its default."""
        return self.trainer.get("model_dir") or f"runs/{self.trainer.get('recipe') or 'digits'}"

    def worker_command(self, python: str) -> list[str]:
        """What each worker runs. With several, TF_CONFIG must say which one it is."""
        added = []
        if "model_dir" not in self.trainer:
            added.append(f"--model_dir={self.model_dir}")
        if self.num_workers > 1:
            added.append("--strategy=multi_worker")
        if self.hang_timeout_secs is not None:
            added.append(f"--hang_timeout_secs={self.hang_timeout_secs:g}")
        return [python, "-m", "trainer.main", *self.trainer_flags, *added]

    def evaluator_command(self, python: str) -> list[str]:
        """What the evaluator runs."""
        data = [f"--data_dir={self.trainer['data_dir']}"] if "data_dir" in self.trainer else []
        return [python, "-m", "trainer.evaluator", f"--model_dir={self.model_dir}", *data]

    def remote_paths(self) -> list[str]:
        """Why the run needs a network: its flags that name something elsewhere."""
        given = [f"--{name}={value}" for name, value in self.trainer.items() if "://" in str(value)]
        return given + [f"--{name}" for name in ("download", "tpu") if self.trainer.get(name)]


def parse(argv: list[str], kind: type[Job]) -> Job:
    """The job that a command line asks for. UserError for anything wrong."""
    own, trainer = _expanded(list(argv[1:]), ""), ()
    if "--" in own:
        cut = own.index("--")
        own, trainer = own[:cut], tuple(_expanded(own[cut + 1:], "after --: "))  # a flag file may lie on this machine alone
    if any(argument.split("=")[0].lstrip("-") == "undefok" for argument in own):
        raise UserError("--undefok is not taken: every flag must be known; leave it out")
    values = flags.FlagValues()
    for field in _options(kind):
        if field.type is bool:
            flags.DEFINE_bool(field.name, field.default, "", flag_values=values)
            values[field.name].parser = _Parser(field)
        else:
            flags.DEFINE(_Parser(field), field.name, None, "", flag_values=values)
    try:
        rest = values([argv[0], *own])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"{shown(error.flagvalue)} is not a flag{_near(error.flagname, list(values))}; the trainer's "
                        "flags come after --, see --help") from None
    except flags.Error as error:
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        name = str(error).removeprefix("Missing value for flag ")
        raise UserError(f"{shown(name)} needs a value; write {shown(name)}=VALUE") from None
    except ValueError as error:  # --noevaluator=3
        raise UserError(f"{shown(error)}; leave out the value") from None
    if rest:
        raise UserError(f"'{shown(rest[0])}' is not a flag; flags are written --name=value, the trainer's come "
                        "after --")
    given = {name: values[name].value for name in values if values[name].present and name in kind.__dataclass_fields__}
    return kind(**given, trainer_flags=trainer)


def _expanded(arguments: list[str], where: str) -> list[str]:
    """Flag files replaced by what is in them. UserError where one cannot be read."""
    try:
        return flag_files.expanded(arguments)
    except ValueError as error:
        raise UserError(f"{where}{error}") from None


def command(argv: list[str], kind: type[Job], run: Callable[[Job], int], *, name: str, doc: str) -> int:
    """A launcher's main: its help, its flags, `run(job)`, and a UserError as one line with code 2."""
    own = argv[1:argv.index("--")] if "--" in argv else argv[1:]
    if any(argument in HELP for argument in own):
        print(help_text(kind, doc))
        return 0
    try:
        return run(parse(argv, kind))
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG


def help_text(kind: type[Job], doc: str) -> str:
    """A launcher's description, and every flag with its default."""
    lines = [doc.strip(), "", "Flags"]
    for field in _options(kind):
        value = "" if field.default in (None, "") or field.default is False else f"={_text(field.default)}"
        choices = f": {', '.join(field.metadata['choices'])}" if field.metadata["choices"] else ""
        lines += textwrap.wrap(field.metadata["help"] + choices, HELP_COLUMNS, break_on_hyphens=False,
                               initial_indent=f"  --{field.name}{value}".ljust(HELP_INDENT - 1) + " ",
                               subsequent_indent=" " * HELP_INDENT)
    return "\n".join([*lines, "", "The trainer's flags: python -m trainer.main --help"])


def line_of(arguments: list[str], variables: dict[str, str] | None = None) -> str:
    """A command as a shell reads it, with the variables it is given."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()),
                     shlex.join(arguments)])


def shown(value) -> str:
    """A value in a message: one line, its middle left out where it is long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(value).split()))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS - 40]}...{text[-30:]}"


def _options(kind: type[Job]) -> list[dataclasses.Field]:
    """The fields that are flags, a launcher's own ones first."""
    found = [field for field in dataclasses.fields(kind) if "help" in field.metadata]
    return sorted(found, key=lambda field: field.name in Job.__dataclass_fields__)


class _Parser(flags.ArgumentParser):
    """Parses one flag's text; absl's error has the UserError, which says it all, as its context."""

    def __init__(self, field: dataclasses.Field):
        self.field = field
        types = typing.get_args(field.type) or (field.type,)
        self.kind = next(kind for kind in types if kind is not type(None))

    def parse(self, argument):
        """The value. UserError: the flag, its value, the rule, an example."""
        if not isinstance(argument, str):
            return argument
        problem = self._problem(argument)
        if problem:
            raise UserError(f"--{self.field.name}={shown(argument)} must be {problem}")
        return SWITCH[argument.lower()] if self.kind is bool else self.kind(argument)

    def _problem(self, text: str) -> str:
        """The rule that `text` breaks, "" if it keeps to all."""
        rules = self.field.metadata
        if self.kind is bool:
            return "" if text.lower() in SWITCH else "true or false"
        if self.kind is str:
            if text.startswith("--"):
                return "a value, and not a flag: is its value missing? Write --name=value"
            if rules["choices"] and text not in rules["choices"]:
                return f"one of {', '.join(rules['choices'])}"
            return rules["rule"] if rules["pattern"] and not re.fullmatch(rules["pattern"], text) else ""
        pattern = r"[0-9]{1,18}" if self.kind is int else r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
        fits = re.fullmatch(pattern, text) and rules["at_least"] <= self.kind(text) <= rules["at_most"]
        what = "a whole number" if self.kind is int else "a number"
        usual = f", such as {_text(self.field.default)}" if self.field.default else ""
        return "" if fits else f"{what} from {_text(rules['at_least'])} to {_text(rules['at_most'])}{usual}"


def _text(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _near(name: str, known: list[str]) -> str:
    import difflib  # only a wrong command pays for it
    near = difflib.get_close_matches(name[:SHOWN_CHARACTERS], known, n=1)
    return f"; did you mean --{near[0]}?" if near else ""
