"""The configuration that a run recorded, `config.json`: read with suspicion, and merged with a later command.

    recorded = read_recorded("runs/digits")                     # {"model": "digits_cnn", ...}, None: no run is there
    config = merge(recorded, {"train_steps": 2000}, "runs/digits")

On resume the recorded values stand. A flag may change those that `config.may_change` allows (devices, cadence, steps,
threads, the data's place); any other value must be the recorded one.
"""
import json

from input_pipeline.datasets import Info
from input_pipeline.rules import shown
from trainer import files, manifest
from trainer.config import FIELDS, TRANSIENT, Config, UserError, may_change, rule
from trainer.places import place

# Options that a run resolves, and the values that leave them to the run: on resume these are no opinion.
RESOLVED = {"train_steps": (0,), "decay_steps": ((), (0,)), "precision": ("auto",), "classes": (0,),
            "model_dir": ("",)}
# Without these a run cannot go on as it was. What may change has its default where it is absent.
NEEDED = tuple(name for name in FIELDS if not may_change(name) or name == "train_steps")


def read_recorded(model_dir: str) -> dict | None:
    """Every option as recorded in `model_dir`/config.json, None where there is no such file. UserError: it is wrong."""
    path = place(model_dir, "config.json")
    try:
        return _checked(files.read_json(path))
    except FileNotFoundError:
        return None
    except RecursionError:  # of _checked
        reason = "it is nested without end"
    except files.Unreachable:
        raise
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} is not a run's configuration ({reason}); restore it, or give another --model_dir")


def _checked(content) -> dict:
    """The recorded values, lists as tuples, absent ones that may change by default. ValueError: what is wrong."""
    values = content.get("config") if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise ValueError('it has no object "config"')
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in values.items():
        if name not in FIELDS:
            raise ValueError(f"option {shown(name)} is unknown")
        if value is None and FIELDS[name].default is None:
            continue
        try:
            rule(name).check(value)
        except ValueError as error:
            raise ValueError(f"{name}={shown(json.dumps(value))} {error}") from None
    for name in NEEDED:
        if name not in values:
            raise ValueError(f"it has no {name}, as one of an older version")
        if values[name] in RESOLVED.get(name, ()) and name != "classes":  # a series has none
            raise ValueError(f"{name}={shown(values[name])} is not resolved")
    return {**{name: field.default for name, field in FIELDS.items()}, **values}


def check_absent(model_dir: str) -> None:
    """UserError where a run's checkpoints are without its configuration: another one would be trained on from there."""
    folder = place(model_dir, "checkpoints")
    if folder.is_dir() and manifest.published(folder):
        raise UserError(f"--model_dir={shown(model_dir)} has checkpoints, but no config.json; "
                        "restore it, or give another")


def check_data(model_dir: str, info: Info, *, trains: bool = True) -> None:
    """UserError where the run's data were others than `info` describes: labels would not be the same, nor, of a run that
    trains on, the order."""
    data = files.read_json(place(model_dir, "config.json")).get("data")
    try:
        classes, examples = tuple(data["classes"]), data["examples"]["train"]
    except (KeyError, TypeError):  # none, as of an older version
        return
    fix = ("give back its data, or start another run, with --init_from for its weights" if trains
           else "give --data_dir with its own")
    if info.classes and classes != info.classes:
        before, now = (tuple(name for name in one if name not in other) or one
                       for one, other in ((classes, info.classes), (info.classes, classes)))
        raise UserError(f"the run in {shown(model_dir)} has {len(classes)} classes, with {shown(before)}, and the data there "
                        f"are now {len(info.classes)}, with {shown(now)}; {fix}")
    if trains and info.train_examples and examples != info.train_examples:
        raise UserError(f"the run in {shown(model_dir)} has {shown(examples)} training examples, and the data there are now "
                        f"{info.train_examples}; {fix}")
    before = data.get("train_digest")
    if trains and before and info.train_digest and before != info.train_digest:
        raise UserError(f"the run in {shown(model_dir)} has as many training examples as the data there now, but some of them are "
                        f"others, or have other names: their order would change; {fix}")


def merge(recorded: dict, given: dict, model_dir: str) -> Config:
    """The recorded configuration with what may change taken from the command."""
    left = {**RESOLVED, "unfreeze_steps": (0,) if recorded["unfreeze_epochs"] else ()}
    opinions = {name: value for name, value in given.items() if value not in left.get(name, ())}
    for name, value in opinions.items():
        if not may_change(name) and value != recorded[name]:
            raise UserError(f"--{name}={shown(value)}, but the run in {shown(model_dir)} has {shown(recorded[name])}, "
                            "which cannot change on the way; leave it out, or give another --model_dir to start afresh")
    kept = {name: value for name, value in recorded.items() if name not in TRANSIENT}
    return Config(**kept | {name: value for name, value in opinions.items() if may_change(name)})
