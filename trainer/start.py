"""How a run starts: resumed, warm or fresh; and the start that only shows what would be run.

    step, how = start.begin(experiment, run)
"""
import json
import sys

from trainer import capacity, checkpoint, distribution, manifest, summaries, transfer, watch
from trainer.config import UserError
from trainer.experiment import Experiment
from trainer.places import place
from trainer.resolve import Run


def begin(experiment: Experiment, run: Run) -> tuple[int, str]:
    """Fills the state: resumed from the newest whole checkpoint, warm from another run's, or fresh. (step, how)"""
    config, folder = run.config, place(run.config.model_dir, "checkpoints")
    step, notes = manifest.newest_whole(folder)
    notes = [f"{note}; it is set aside" for note in notes]
    watch.done(config.model_dir, notes.append)
    if run.plan.is_chief:
        for bad in [s for s in manifest.published(folder) if step is not None and s > step]:
            manifest.set_aside(folder, bad)
        for ledger in watch.ledgers(config.model_dir, best=experiment.task.best):
            ledger.restart(step or 0)
        for note in notes:
            print(f"trainer: {note}", file=sys.stderr)
    if step is not None:
        checkpoint.restore(folder, step, experiment.state.variables())
        ignored = f" (--init_from={config.init_from} is not used: the run goes on)" if config.init_from else ""
        return step, f"resumed from {manifest.prefix(folder, step)}{ignored}"
    if config.init_from:
        return 0, "warm start: " + warm_start(experiment, config.init_from)
    if config.pretrained_weights:
        said = transfer.load(config, experiment.model)
        for average, variable in zip(experiment.state.ema, experiment.model.trainable_variables):
            average.assign(variable.value.read_value())
        return 0, f"fresh start in {config.model_dir}, seed {config.seed}, {said}"
    return 0, f"fresh start in {config.model_dir}, seed {config.seed}{experiment.first_weights()}"


def warm_start(experiment: Experiment, source: str) -> str:
    """Takes the weights of another run (averages where it has them); says which, and which it could not take."""
    folder = place(source, "checkpoints")
    if place(source + ".index").exists():
        folder, step = place(source).parent, int(source.rsplit("-", 1)[1])
    else:
        step, _ = manifest.newest_whole(folder)
    wrong = manifest.damage(folder, step) if step in manifest.published(folder) else ""
    if wrong:
        raise UserError(f"--init_from={source}: checkpoint {step} is damaged: {wrong}; give another")
    try:
        found = checkpoint.tensors(folder, step)
    except checkpoint.UNREADABLE as error:
        raise UserError(f"--init_from={source} cannot be read: {error}; give another") from error
    there = {**found.get("model", {}), **found.get("ema", {})}
    taken = 0
    for variable in experiment.model.variables:
        value = there.get(variable.path)
        if value is not None and value.shape == tuple(variable.shape):
            variable.value.assign(value)
            taken += 1
    if not taken:
        raise UserError(f"--init_from={source} has no variable of --model={experiment.config.model}'s name and shape; "
                        "give a run of the same network")
    for average, variable in zip(experiment.state.ema, experiment.model.trainable_variables):
        average.assign(variable.value.read_value())
    kind = "moving averages" if found.get("ema") else "weights"
    return f"{taken} of {len(experiment.model.variables)} variables from the {kind} of {source} at step {step}"


def dry_run(run: Run, strategy) -> int:
    """Prints the resolved configuration, devices, batch arithmetic and the table of layers."""
    with capacity.building(run.config):
        experiment = Experiment(run, strategy)
    print(json.dumps(vars(run.config), indent=1))
    for line in distribution.describe(strategy, run.config, run.plan):
        print(line)
    print(f"{run.config.train_steps} steps of {run.config.global_batch_size} examples; {len(experiment.source)} training "
          f"and {run.info.test_examples} test examples")
    print(summaries.layer_table(experiment.model))
    return 0
