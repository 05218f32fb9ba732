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
import shlex
import sys
from collections.abc import Callable

from input_pipeline import command_line, flag_files
from input_pipeline.rules import UserError
from trainer import flags, recipes
from trainer.config import option

WRONG, DIVERGED, HUNG, STOPPED = 2, 3, 75, (143, 130)  # the trainer's exit codes, see README


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training run in several processes. UserError where the values contradict each other."""

    num_workers: int = option(1, "processes that train together; worker 0 is the chief", at_least=1, at_most=10_000)
    evaluator: bool = option(False, "a separate evaluator beside the workers, until training is done")
    max_restarts: int = option(3, "restarts of all workers after a crash or a stop from outside, at most (0: none). "
                               "Codes 2 (wrong) and 3 (diverged) are never tried again", at_least=0, at_most=1_000_000)
    grace_secs: float = option(30.0, "seconds between SIGTERM and SIGKILL; a trainer saves within 25", at_least=0,
                               at_most=86400)
    hang_timeout_secs: float | None = option(None, "passed on to the trainer (default: the trainer's)", kind=float,
                                             at_least=0, at_most=86400)
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
        if any(argument in command_line.HELP for argument in self.trainer_flags):
            raise UserError("after --: the trainer's flags are shown by python -m trainer.main --help")
        try:
            given = flags.parse(["", *self.trainer_flags])
            recipes.named(given.get("recipe", "digits"))
        except UserError as error:
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
    values = command_line.flags_of(_options(kind))
    command_line.read([argv[0], *own], values, hint="the trainer's come after --, see --help")
    given = {field.name: values[field.name].value for field in _options(kind) if values[field.name].present}
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
    if any(argument in command_line.HELP for argument in own):
        print(help_text(kind, doc))
        return 0
    try:
        return run(parse(argv, kind))
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def help_text(kind: type[Job], doc: str) -> str:
    """A launcher's description, and every flag with its default."""
    lines = [line for field in _options(kind) for line in command_line.help_lines(
        field.name, field.default, field.metadata["help"], field.metadata["rule"].choices)]
    return "\n".join([doc.strip(), "", "Flags", *lines, "", "The trainer's flags: python -m trainer.main --help"])


def line_of(arguments: list[str], variables: dict[str, str] | None = None) -> str:
    """A command as a shell reads it, with the variables it is given."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()),
                     shlex.join(arguments)])


def _options(kind: type[Job]) -> list[dataclasses.Field]:
    """The fields that are flags, a launcher's own ones first."""
    found = [field for field in dataclasses.fields(kind) if "rule" in field.metadata]
    return sorted(found, key=lambda field: field.name in Job.__dataclass_fields__)
