"""A recipe with flags: what of it follows the length of the run."""
import contextlib
import dataclasses

import pytest

from trainer import resolve


def config(**given):
    given = {name: value for name, value in given.items() if value is not None}
    return resolve.resolve({"dataset": "synthetic", "model_dir": "not_there", **given}).config


@pytest.mark.parametrize("steps, warmup", [(10_000, 200), (1000, 100), (20, 2), (1, 0)])
def test_a_recipes_warm_up_is_at_most_a_tenth_of_a_shorter_run(steps, warmup):
    """Mutation: the recipe's 200 steps, which 20 steps cannot hold."""
    assert config(recipe="cifar10_resnet18", train_steps=steps).warmup_steps == warmup


def test_a_warm_up_that_is_given_stands():
    assert config(recipe="cifar10_resnet18", train_steps=20, warmup_steps=15).warmup_steps == 15
    assert config(recipe="cifar10_resnet18", train_steps=20, lr_schedule="constant").warmup_steps == 200


@pytest.mark.parametrize("steps", [20, None])
def test_every_recipe_can_be_run_shortly(steps):
    from trainer import recipes
    for name in recipes.RECIPES:
        if name not in ("co2_forecast", "flowers_transfer"):  # these need their data, their weights
            resolved = config(recipe=name, train_steps=steps)
            assert steps is None or (resolved.train_steps, resolved.decay_steps[0] > resolved.warmup_steps) == (20, True)


def test_what_a_run_resolved_itself_may_be_left_to_it_again():
    """--unfreeze_steps=0 leaves it to --unfreeze_epochs, at the start and on resume. Mutation: 0 is another value then."""
    given = dataclasses.replace(resolve.recipes.RECIPES["flowers_transfer"](), unfreeze_steps=734)
    assert resolve.merge(dataclasses.asdict(given), {"unfreeze_steps": 0}, "d").unfreeze_steps == 734
    without = dataclasses.asdict(dataclasses.replace(given, unfreeze_epochs=0.0))
    with pytest.raises(resolve.UserError, match="--unfreeze_steps=0, but the run in d has 734"):
        resolve.merge(without, {"unfreeze_steps": 0}, "d")


def test_another_runs_weights_take_the_place_of_a_recipes():
    """Mutation: the recipe's, which would not be used, must be there all the same."""
    config = resolve._start(resolve.recipes.RECIPES["flowers_transfer"](), {"init_from": "runs/none"})
    assert config.pretrained_weights == "" and config.freeze
    assert resolve._start(resolve.recipes.RECIPES["flowers_transfer"](), {}).pretrained_weights == "imagenet"


def test_eval_steps_need_examples_that_are_not_for_training():
    """Mutation: found at the first evaluation."""
    info = dataclasses.replace(resolve.datasets.facts("digits"), splits=("train",))
    with pytest.raises(resolve.UserError, match="--eval_steps=10 with --dataset=digits: all its examples are for training"):
        resolve.checks.fit(dataclasses.replace(resolve.recipes.digits(), eval_steps=10), info, {}, 1)


def test_a_download_goes_to_this_machine(monkeypatch):
    """Mutation: to a folder called gs: here."""
    def absent(*arguments, **options):
        raise resolve.datasets.MissingData("no file")

    monkeypatch.setattr(resolve.datasets, "describe", absent)
    with pytest.raises(resolve.UserError, match="--download with --data_dir=gs://b/d: a download goes to a folder of this machine"):
        resolve._describe(dataclasses.replace(resolve.recipes.digits(), data_dir="gs://b/d", download=True))


@pytest.mark.parametrize("model, fine", [("lenet5", False), ("autoencoder", True)])
def test_one_class_is_nothing_to_tell_apart(model, fine):
    """But images are images for what restores them. Mutations: no such rule; a rule for every task."""
    config = dataclasses.replace(resolve.recipes.digits(), model=model, dataset="image_folder", data_dir="photos", augment="")
    info = resolve.datasets.Info(name="image_folder", train_examples=9, test_examples=1, input_shape=(28, 28, 1), classes=("cat",))
    refused = pytest.raises(resolve.UserError, match="all its images are of one class, cat; give a folder")
    with contextlib.nullcontext() if fine else refused:
        resolve.checks.fit(config, info, {}, 1)
