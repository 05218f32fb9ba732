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


def transferred(**given):
    """The values of flowers_transfer with flags, for 2,937 photos."""
    recipe = resolve.recipes.RECIPES["flowers_transfer"]()
    config = resolve._start(recipe, given)
    resolve.checks.pairs(config, given)
    return resolve._durations(config, given, resolve.datasets.facts("flowers"), fresh=True)


@pytest.mark.parametrize("given, unfreeze, decay, said", [
    ({}, 734, 734, "the head alone learns until step 734, then all layers"),
    ({"train_epochs": 8.0, "unfreeze_epochs": 4.0}, 367, 367, "the head alone learns until step 367, then all layers"),
    ({"unfreeze_steps": 100}, 100, 100, "the head alone learns until step 100, then all layers"),
    ({"unfreeze_steps": 100, "decay_steps": (200,)}, 100, 200, "the head alone learns until step 100, then all layers"),
    ({"train_steps": 20}, 734, 734, "the head alone learns: the run ends at step 20, before step 734, from which all layers would"),
    ({"unfreeze_epochs": 0.0}, 0, 1469, "the head alone learns"),
    ({"freeze": False}, 0, 1469, ""),
])
def test_the_smaller_rate_begins_where_all_layers_begin_to_learn(given, unfreeze, decay, said):
    """Mutations: a boundary of the recipe's own; a schedule without boundaries where nothing is unfrozen."""
    config = transferred(**given)
    assert (config.unfreeze_steps, config.decay_steps) == (unfreeze, (decay,))
    assert config.lr_schedule == ("piecewise" if unfreeze else "constant")
    assert resolve.transfer.stages(config) == said


def images(network: str, augmentation: str, **changes):
    config = dataclasses.replace(resolve.recipes.digits(), model=network, augment=augmentation, **changes)
    resolve.checks.values(config, resolve.datasets.facts("digits" if changes.get("dataset") == "digits" else "cifar10"))


@pytest.mark.parametrize("network, wanted", [
    ("MobileNetV2", "normalize:127.5:127.5"), ("DenseNet121", "normalize_rgb:123.675:116.28:103.53:58.395:57.12:57.375"),
    ("VGG16", "normalize_rgb:123.68:116.779:103.939:1:1:1,bgr"), ("EfficientNetB0", "")])
def test_weights_of_imagenet_get_the_values_that_they_are_made_for(network, wanted):
    """A little off passes. Mutations: any values; the channels' order is not looked at."""
    network = f"applications/{network}"
    images(network, ",".join(filter(None, ["flip", "brightness:9", wanted])), pretrained_weights="imagenet")
    images("applications/MobileNetV2", "normalize:120:130", pretrained_weights="imagenet")
    for other in {"", "normalize:127.5:127.5", "normalize_rgb:123.68:116.779:103.939:1:1:1", "standardize"} - {wanted}:
        images(network, other, pretrained_weights="weights.h5")
        with pytest.raises(resolve.UserError, match=f"the weights of --model={network} are for values (made by {wanted}|of 0 to)"):
            images(network, other, pretrained_weights="imagenet")


@pytest.mark.parametrize("network, augmentation, dataset, wrong", [
    ("autoencoder", "normalize:128:128,mask:0.5", "cifar10", ""), ("autoencoder", "normalize:8:8", "digits", ""),
    ("autoencoder", "normalize:8:8", "cifar10", "images become -1 to 30.9, and this network restores -1 to 1; give normalize:127.5:127.5"),
    ("autoencoder_sigmoid", "normalize:0:255", "cifar10", ""),
    ("autoencoder_sigmoid", "normalize:8:8", "digits", "images become -1 to 1, and this network restores 0 to 1; give normalize:0:16"),
    ("autoencoder_conv_nearest", "normalize:120.7:64.2", "cifar10", "images become -1.88 to 2.09, and this network restores -1 to 1"),
    ("lenet5", "", "cifar10", "")])
def test_what_is_to_be_restored_can_be(network, augmentation, dataset, wrong):
    """Mutation: targets out of the last layer's reach."""
    refused = pytest.raises(resolve.UserError, match=wrong) if wrong else contextlib.nullcontext()
    with refused:
        images(network, augmentation, dataset=dataset)
