"""The train step as the programs that a TPU would run, lowered by TensorFlow with no TPU there.

    python -m trainer.lowering REPLICAS FOLDER [--recipe=R and any other flag of trainer.main]

Under a TPU strategy every `strategy.run` is one program for all cores, and what lies between (the loop, the batches, the
decision whether the sums are finite) is the host's. This strategy does the same to the real inner loop and the real step:
it traces each `strategy.run` as a program of its own, for REPLICAS replicas, with XLA's all-reduce in place of the
collectives, and writes it as StableHLO. Distortions are part of the host's input pipeline, not of the step; their result
gives the shapes of the batch.

FOLDER gets one `NAME.mlirbc` a program and `lowering.json`: their arguments in order, the bytes of the variables on each
core, the collectives that were asked for. `python -m launch.tpu_check` compiles them for a topology. The data set's files
are not needed. Prints lowering.json's path; exit code 2 for a wrong flag, 1 where the step does not lower.
"""
import json
import math
import os
import pathlib
import sys

from input_pipeline.rules import shown
from trainer import checks, flags, resolve
from trainer.config import UserError

FORMS = {"step": ("gradients", "update"), "summaries": ("gradients_summaries", "update_summaries")}
RESULT = "lowering.json"


def main(argv: list[str]) -> int:
    """Lowers what `argv` says; returns the exit code."""
    try:
        replicas, folder, given = _command(argv)
        run = resolve.resolve(given)
        checks.batch(run.config, replicas)
    except UserError as error:
        print(f"trainer.lowering: {error}", file=sys.stderr)
        return 2
    from trainer import quiet
    quiet.import_tensorflow(errors=False)
    found = lower(run, replicas, folder)
    path = folder / RESULT
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)
    return 0


def _command(argv: list[str]) -> tuple[int, pathlib.Path, dict]:
    """(replicas, folder, the trainer's flags). UserError for a wrong command."""
    if len(argv) < 3 or not argv[1].isdecimal() or not 1 <= int(argv[1]) <= 1_000_000:
        raise UserError(f"must be written python -m trainer.lowering REPLICAS FOLDER --recipe=R, with 1 replica or more; "
                        f"got {shown(' '.join(argv[1:]))}")
    folder = pathlib.Path(argv[2])
    if not folder.is_dir():
        raise UserError(f"{shown(argv[2])} is no folder; make it, or give another")
    given = flags.parse([argv[0], *argv[3:]])
    # A TPU's arithmetic; facts of the data set also where its files are not; no run of this machine goes on.
    return int(argv[1]), folder, {"tpu": "local", "download": True, "model_dir": str(folder / "run"), **given}


def lower(run: resolve.Run, replicas: int, folder: pathlib.Path) -> dict:
    """Writes the programs of `run`'s step for so many replicas into `folder`; returns what lowering.json says."""
    import tensorflow as tf

    from input_pipeline import pipeline
    from models import memory
    from trainer import distribution
    from trainer.experiment import Experiment
    from trainer.replica_programs import ReplicaPrograms, Shapes
    distribution.numerics(run.config)
    strategy = ReplicaPrograms(replicas)
    experiment = Experiment(run, strategy, source=Shapes(run.info))
    batches = iter(pipeline.training(
        experiment.source, experiment.augmentation, seed=run.config.seed, batch_size=run.config.global_batch_size,
        start_step=0, replicas=replicas, local_replicas=replicas))
    groups = experiment.state.variables()
    resident = {f"{group}/{path}": variable for group in ("model", "ema", "optimizer")
                for path, variable in groups[group].items()}
    names = {id(variable.handle): name for name, variable in resident.items()}
    programs = []
    for form in FORMS if run.config.summary_steps or run.config.histogram_steps else ("step",):
        strategy.programs.clear()
        experiment.loop.trace(batches, observed=form == "summaries")
        assert len(strategy.programs) == len(FORMS[form]), [p.inputs for p in strategy.programs]
        for name, program in zip(FORMS[form], strategy.programs):
            path = folder / f"{name}.mlirbc"
            path.write_bytes(program.stablehlo())
            programs.append({"name": name, "form": form, "file": path.name,
                             "arguments": [*program.inputs, *(names[id(v.handle)] for v in program.variables)],
                             "collectives": program.collectives, "flops": program.flops()})
    trainable = [tuple(v.shape) for v in experiment.model.trainable_variables]
    config = run.config
    return {"replicas": replicas, "recipe": config.recipe, "model": config.model, "precision": config.precision,
            "optimizer": config.optimizer, "global_batch_size": config.global_batch_size,
            "rows": config.global_batch_size // replicas, "grad_accum_steps": config.grad_accum_steps,
            "learning_rate": config.learning_rate, "warmup_steps": config.warmup_steps, "train_steps": config.train_steps,
            "train_examples": run.info.train_examples, "row_activation_bytes": memory.estimate(experiment.model).activations,
            "tensorflow": tf.__version__, "parameters": sum(map(math.prod, trainable)),
            "variables": {name: [list(v.shape), v.dtype.name] for name, v in resident.items()},
            "programs": programs}


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's threads need no goodbye
