"""A recipe with flags: what of it follows the length of the run."""
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
