"""The training job: steps, loop, checkpoints, evaluation."""
