"""Laws of a resume: the record stands, what may change changes, anything else is refused with both values.

Mutations, each of which turned tests here red: a recorded value taken over without its rule; may_change for
--learning_rate; the default of --precision held against the record; --init_from looked for although the run goes on;
defaults for options that cannot change; a run without config.json begun afresh; RecursionError not caught.
"""
import contextlib
import dataclasses
import json

import pytest
from wrong_commands import alone, check, each, run, wrong

from input_pipeline.datasets import Info
from trainer import flags, recorded, resolve
from trainer.config import FIELDS, TRANSIENT, UserError, may_change
from trainer.recipes import RECIPES

# What the rows below rely on, whatever becomes of the recipe.
PINNED = {"train_steps": 674, "decay_steps": [674], "decay_epochs": 0.0, "precision": "float32", "classes": 10,
          "model_dir": "m", "model": "digits_cnn", "optimizer": "adam", "learning_rate": 0.002, "seed": 0,
          "lr_schedule": "cosine", "global_batch_size": 64, "grad_accum_steps": 1, "augment": "normalize:0:16",
          "ema_decay": 0.99, "warmup_steps": 0, "weight_decay": 0.0, "label_smoothing": 0.0, "clip_norm": 0.0,
          "log_steps": 10, "summary_steps": 100, "histogram_steps": 100, "checkpoint_steps": 1000, "eval_steps": 0}


def config_json(without: str = "", **changes) -> str:
    """The file that a run of the recipe digits leaves, with some options changed and one taken away."""
    values = {**vars(RECIPES["digits"]()), **PINNED, **changes}
    values = {name: value for name, value in values.items() if name not in (*TRANSIENT, without)}
    return json.dumps({"config": values, "versions": {}, "git_revision": None})


def resume(*arguments: str, says: str, text: str = "", **changes):
    """A wrong command on the run in m."""
    files = {"m/config.json": text or config_json(**changes)}
    return wrong("--model_dir=m", *arguments, says=says, files=files)


WHOLE = config_json()
OBJECT = ' | it has no object "config"'
WRONG_FILE = "m/config.json is not a run's configuration ("
DAMAGED = [resume(text=text, says=f"{WRONG_FILE} | ); restore it, or give another --model_dir{more}") for text, more in [
    ("\n", ""), ("{", ""), (WHOLE[:-5], ""), (WHOLE[:200], ""), ("null", OBJECT), ("[]", OBJECT),
    ("3", OBJECT),
    ('"text"', OBJECT), ("{}", OBJECT), ('{"config": []}', OBJECT), ('{"config": null}', OBJECT),
    ('{"config": {}}', " | it has no recipe"), ("[" * 100_000, " | nested without end"), (WHOLE + "x", ""),
    ("9" * 5000, ""),
    (" " * 2_000_000 + WHOLE, " | more than 1048576 bytes"),
    (WHOLE.replace("model_dir", "modeldir"), " | option modeldir is unknown")]]
DAMAGED += [resume(says=f"{WRONG_FILE}{says}", **changes) for changes, says in [
    ({"seed": "0"}, 'seed="0" must be a whole number'), ({"seed": True}, "seed=true must be a whole number"),
    ({"seed": 1.5}, "seed=1.5 must be a whole number"), ({"seed": -1}, "seed=-1 must be at least 0"),
    ({"seed": [1]}, "seed=[1] must be a whole number"),
    ({"seed": {"a": 1}}, 'seed={"a": 1} must be a whole number'),
    ({"learning_rate": "0.1"}, 'learning_rate="0.1" must be a finite number'),
    ({"learning_rate": float("nan")}, "learning_rate=NaN must be a finite number"),
    ({"learning_rate": 10**400}, "learning_rate=1000"), ({"momentum": 1}, "momentum=1 must be less than 1"),
    ({"xla": 1}, "xla=1 must be true or false"), ({"model": 5}, "model=5 must be text"),
    ({"model": "digits_cn"}, 'model="digits_cn" must be one of'),
    ({"optimizer": ["sgd"]}, 'optimizer=["sgd"] must be text'),
    ({"precision": "auto"}, "precision=auto is not resolved"),
    ({"train_steps": 0}, "train_steps=0 is not resolved"),
    ({"decay_steps": []}, "decay_steps= is not resolved"),
    ({"decay_steps": 5}, "decay_steps=5 must be whole numbers"),
    ({"decay_steps": ["5"]}, 'decay_steps=["5"] must be whole numbers'),
    ({"decay_steps": [[5]]}, "decay_steps=[[5]] must be whole numbers"),
    ({"keep_checkpoints": 0}, "keep_checkpoints=0 must be at least 1"), ({"model": None}, "model=null must"),
    ({"without": "global_batch_size"}, "it has no global_batch_size"),
    ({"no_such": 1}, "option no_such is unknown"),
]]
CANNOT = "which cannot change on the way; leave it out, or give another --model_dir"
CHANGED = [resume(argument, says=f"{argument}, but the run in m has {has}, {CANNOT}") for argument, has in [
    ("--model=digits_cnn_regularized", "digits_cnn"), ("--learning_rate=0.1", "0.002"), ("--seed=1", "0"),
    ("--global_batch_size=32", "64"), ("--precision=bfloat16", "float32"), ("--optimizer=sgd", "adam"),
    ("--lr_schedule=linear", "cosine"), ("--decay_steps=10", "674"), ("--decay_epochs=3", "0"),
    ("--classes=11", "10"),
    ("--dataset=synthetic", "digits"), ("--recipe=cifar10_tutorial", "digits"),
    ("--augment=", "normalize:0:16"),
    ("--ema_decay=0", "0.99"), ("--grad_accum_steps=2", "1"), ("--sync_batch_norm=false", "true"),
    ("--warmup_steps=5", "0"), ("--weight_decay=0.1", "0"), ("--label_smoothing=0.1", "0"),
    ("--clip_norm=1", "0"),
]]
PLACES = [
    wrong("--model_dir=m", files={"m/config.json": None},
          says="m/config.json is not a run's configuration (Is a directory)"),
    wrong("--model_dir=m", files={"m/checkpoints/ckpt-00000010.json": "{}"},
          says="--model_dir=m has checkpoints, but no config.json; restore it, or give another"),
    wrong(files={"runs/digits/config.json": "{"},
          says="runs/digits/config.json is not a run's configuration"),
    resume("--num_gpus=3", "--emulate", says="--global_batch_size=64 must divide by 3"),
    resume(num_gpus=2, says="--num_gpus=2, but 0 GPUs are visible | as m/config.json says"),
    resume("--num_gpus=0", num_gpus=2, emulate=True, says="--emulate with --num_gpus=0 | or --noemulate"),
    resume(precision="float16", says="--precision=float16 needs a GPU | as m/config.json says"),
    resume("--train_steps=5", "--train_epochs=2", says="--train_steps=5 with --train_epochs=2"),
    resume("--init_from=nowhere", says="--init_from=nowhere must be a --model_dir with a checkpoint"),
    resume(dataset="cifar10",
           says="--data_dir=data: cifar10: no file | get it with: python -m input_pipeline.prepare"),
    wrong("--model_dir=m", "--run_once", command="trainer.evaluator", files={"m/config.json": "{"},
          says="m/config.json is not a run's configuration"),
]
TABLE = DAMAGED + CHANGED + PLACES


@pytest.fixture(scope="module")
def outcomes():
    return run(TABLE)


@each(TABLE)
def test_a_resume_that_cannot_be(row, outcomes):
    check(row, outcomes)


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """resumed(*flags, **recorded): the run that the flags make of the one in m."""
    alone(tmp_path, monkeypatch)
    (tmp_path / "m").mkdir()

    def resumed(*arguments: str, **changes) -> resolve.Run:
        (tmp_path / "m" / "config.json").write_text(config_json(**changes))
        return resolve.resolve(flags.parse(["main", "--model_dir=m", *arguments]))

    return resumed


def test_the_record_stands_whatever_the_recipe_and_the_defaults_say(resumed):
    changes = dict(model="digits_cnn_regularized", learning_rate=0.123, seed=7, decay_steps=[9],
                   train_steps=100,
                   log_steps=3, num_gpus=2, emulate=True, precision="bfloat16", classes=12, train_epochs=5.0)
    run = resumed(**changes)
    found = {name: getattr(run.config, name) for name in changes}
    assert found == changes | {"decay_steps": (9,)}
    assert (run.plan.replicas, run.config.recipe, run.recorded["seed"]) == (2, "digits", 7)


@pytest.mark.parametrize("argument, name, value", [
    ("--train_steps=2000", "train_steps", 2000), ("--train_epochs=10", "train_steps", 225),
    ("--log_steps=1", "log_steps", 1),
    ("--summary_steps=0", "summary_steps", 0), ("--histogram_steps=7", "histogram_steps", 7),
    ("--eval_steps=9", "eval_steps", 9),
    ("--checkpoint_steps=5", "checkpoint_steps", 5), ("--keep_checkpoints=2", "keep_checkpoints", 2),
    ("--steps_per_loop=4", "steps_per_loop", 4), ("--num_gpus=0", "num_gpus", 0), ("--tpu=t", "tpu", "t"),
    ("--strategy=mirrored", "strategy", "mirrored"), ("--intra_op_threads=1", "intra_op_threads", 1),
    ("--data_dir=/elsewhere", "data_dir", "/elsewhere"), ("--xla", "xla", True),
    ("--deterministic", "deterministic", True),
    ("--max_skipped_steps=0", "max_skipped_steps", 0), ("--progress=none", "progress", "none"),
    ("--dry_run", "dry_run", True),
    ("--profile_steps=3,5", "profile_steps", (3, 5))])
def test_what_may_change_changes_and_nothing_else(argument, name, value, resumed):
    assert may_change(name)
    before, after = vars(resumed().config), vars(resumed(argument).config)
    assert after[name] == value != before[name]
    assert {key for key in FIELDS if before[key] != after[key]} <= {name, "train_epochs"}


@pytest.mark.parametrize("argument", ["--train_steps=0", "--train_epochs=0", "--decay_steps=0",
                                      "--decay_steps=",
                                      "--precision=auto", "--classes=0", "--learning_rate=0.002",
                                      "--model=digits_cnn",
                                      "--decay_steps=674", "--precision=float32", "--recipe=digits",
                                      "--seed=0"])
def test_what_is_no_opinion_or_the_recorded_value_is_taken(argument, resumed):
    changes = {} if argument != "--train_epochs=0" else {"train_epochs": 0.0}
    assert resumed(argument).config == dataclasses.replace(resumed().config, **changes)


def test_more_steps_leave_the_decay_where_it_was(resumed):
    longer = resumed("--train_steps=2000").config
    assert (longer.train_steps, longer.train_epochs, longer.decay_steps) == (2000, 0, (674,))


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_that_is_newer_than_the_run_has_its_default_only_if_it_may_change(name, resumed):
    if name in recorded.NEEDED:
        with pytest.raises(ValueError, match=f"it has no {name}, as one of an older version"):
            resumed(without=name)
    else:
        assert getattr(resumed(without=name).config, name) == ("m" if name == "model_dir" else FIELDS[name].default)


def test_a_warm_start_needs_its_source_only_until_there_is_a_checkpoint(resumed, tmp_path):
    with pytest.raises(ValueError, match="--init_from=gone must be"):
        resumed(init_from="gone")
    (tmp_path / "m" / "checkpoints").mkdir()
    (tmp_path / "m" / "checkpoints" / "ckpt-00000010.json").write_text("{}")
    assert resumed(init_from="gone").config.init_from == "gone"


@pytest.mark.parametrize("source", ["other", "other/checkpoints/ckpt-00000010"])
def test_a_warm_start_takes_a_run_or_the_prefix_of_a_checkpoint(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "other" / "checkpoints"
    folder.mkdir(parents=True)
    for ending in ("json", "index"):
        (folder / f"ckpt-00000010.{ending}").write_text("{}")
    assert resolve.resolve(flags.parse(["main", f"--init_from={source}",
                                        "--num_gpus=0"])).config.init_from == source


def test_only_what_one_command_does_is_not_recorded_and_every_list_of_names_is_of_options():
    assert {*TRANSIENT, *recorded.NEEDED, *recorded.RESOLVED} <= set(FIELDS)
    assert all(may_change(name) for name in TRANSIENT)
    assert not any(may_change(name) for name in recorded.NEEDED if name != "train_steps")


@pytest.mark.parametrize("changes, says", [
    ({}, ""), ({"test_examples": 3}, ""), ({"classes": (), "train_examples": 0}, ""),  # not there yet: --download
    ({"classes": ("a", "c")}, "has 2 classes, with b, and the data there are now 2, with c"),
    ({"classes": ("a", "b", "c")}, "has 2 classes, with a,b, and the data there are now 3, with c"),
    ({"classes": ("b", "a")}, "has 2 classes, with a,b, and the data there are now 2, with b,a"),
    ({"train_digest": "d0"}, ""),
    ({"train_digest": "d1"}, "has as many training examples as the data there now, but some of them are others, or have other names: their order would change"),
    ({"train_examples": 25}, "has 24 training examples, and the data there are now 25"),
])
def test_a_run_does_not_go_on_with_other_data(tmp_path, changes, says):
    """Mutations: the classes, or the number of examples, are not looked at."""
    (tmp_path / "config.json").write_text(json.dumps({"data": {"classes": ["a", "b"], "examples": {"train": 24, "test": 2},
                                                             "train_digest": "d0"}}))
    info = Info(**{"name": "image_folder", "input_shape": (8, 8, 3), "classes": ("a", "b"), "train_examples": 24,
                   "test_examples": 2, **changes})
    if info.classes == ("a", "b"):  # to be evaluated on
        recorded.check_data(str(tmp_path), info, trains=False)
    else:
        with pytest.raises(UserError, match="give --data_dir with its own") if says else contextlib.nullcontext():
            recorded.check_data(str(tmp_path), info, trains=False)
    if not says:
        return recorded.check_data(str(tmp_path), info)
    with pytest.raises(UserError, match=f"{says}; give back its data, or start another run"):
        recorded.check_data(str(tmp_path), info)
