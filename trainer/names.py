"""Names of the optimizers, schedules and metrics, apart from what builds them.

The configuration checks names before TensorFlow is imported, so that a wrong command fails at once;
`optimizers` and `schedules`, which import TensorFlow, build what is named here.

    if name not in names.OPTIMIZERS: ...
"""

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adafactor", "lamb", "lars", "muon", "muon_sgd")
SCHEDULES = ("constant", "exponential", "cosine", "linear", "piecewise")

# Optimizers that decay the kernels themselves; for the others the L2 term belongs to the loss.
DECOUPLED = ("adamw", "lamb", "lars", "muon", "muon_sgd")
# Optimizers that use the momentum they are given; the others have constants of their own (Adam's 0.9).
MOMENTUM = ("sgd", "rmsprop", "lars", "muon", "muon_sgd")

# Last words of the names of metrics of which less is better; of the others more is.
LOWER_IS_BETTER = ("loss", "mse", "rmse", "mae", "mape", "error", "perplexity")


def score(metric: str, value: float) -> float:
    """`value` of `metric`, turned so that larger is better."""
    return -value if metric.rsplit("_", 1)[-1] in LOWER_IS_BETTER else value
