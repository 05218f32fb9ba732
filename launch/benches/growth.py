"""How times grow: tables and plots, each with the limit that the machine sets, measured in the same run.

    growth.write("docs", short=False, say=print)       # docs/growth.md and docs/growth_*.png

Steps are those of the tutorial's network, on one batch in memory. The arithmetic limit is a large matrix product's rate in the
same precision; the memory limit that of adding one to a large array.
"""
import math
import os
import pathlib
import statistics

from launch.benches.sides import Worker
from trainer import devices

# Multiply-adds of the tutorial's step an image: forward, and twice that backward, but no gradient of the images.
TUTORIAL_MULTIPLY_ADDS = 3 * 19.5e6 - 5 * 5 * 3 * 64 * 24 * 24
BACKWARD = 3  # forward, gradients of inputs, gradients of weights
LIMITS = ("limit", "no cost", "all cores", "weights")  # words of the labels of dashed lines
BATCHES, REPLICAS, WIDTHS, THREADS = (8, 32, 128, 512), (1, 2, 4, 8), (16, 32, 64, 128), (1, 2, 4, 8)
DEPTHS, SIZES = ((1, 1), (2, 2, 2, 2), (3, 4, 6, 3), (6, 8, 12, 6)), (1, 10, 100, 400)  # blocks; MB


def write(folder: str, *, short: bool, say) -> int:
    """Measures all, writes `folder`/growth.md and its plots. Returns the exit code 0."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    into = pathlib.Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    cut, rounds, amount = (slice(0, 3), 1, 3) if short else (slice(None), 3, 15)
    text = ["# How times grow", "", "Written by `python -m launch.bench --growth=docs`"
            + (" --short" if short else "") + f", medians of {rounds} (limits: the best), on {_machine()}.", ""]
    say("limits")
    limits = {name: _measure("limits:limit", 20, rounds, best=True, name=name) for name in (*_precisions(), "memory")}
    text += ["| limit | measured |", "|---|---|",
             *(f"| {name} | {limits[name] / 1e9:.0f} GFLOP/s |" for name in _precisions()),
             f"| memory | {limits['memory'] / 1e9:.1f} GB/s |", ""]
    for function in (_batch_size, _replicas, _width, _input, _depth, _checkpoint):
        say(function.__doc__.splitlines()[0])
        text += function(into, limits, cut, rounds, amount) + [""]
    (into / "growth.md").write_text("\n".join(text))
    say(f"written: {into / 'growth.md'}")
    return 0


def _precisions() -> list[str]:
    """float32, and bfloat16 where this machine's CPU is fast at it."""
    return ["float32", "bfloat16"] if devices.has_fast_bfloat16("CPU") else ["float32"]


def _measure(what: str, amount: int, rounds: int, *, best: bool = False, **given) -> float:
    with Worker(what, **given) as side:
        return (max if best else statistics.median)(side.measure(amount) for _ in range(rounds))


def _step(precision: str, amount: int, rounds: int, **given) -> float:
    """Examples a second of the tutorial's step."""
    given = {"recipe": "cifar10_tutorial", "dataset": "synthetic", "precision": precision, **given}
    return _measure("steps:bare", amount, rounds, **given)


def _limit(limits: dict, precision: str) -> float:
    """Examples a second that the arithmetic of the tutorial's network allows."""
    return limits[precision] / (2 * TUTORIAL_MULTIPLY_ADDS)


def _batch_size(into, limits, cut, rounds, amount):
    """Step time against the batch size."""
    sizes, lines = BATCHES[cut], {}
    for precision in _precisions():
        rates = [_step(precision, max(3, amount * 128 // size), rounds, global_batch_size=str(size)) for size in sizes]
        lines[precision] = [1000 * size / rate for size, rate in zip(sizes, rates)]
        lines[f"{precision}, limit"] = [1000 * size / _limit(limits, precision) for size in sizes]
    shares = " and ".join(f"{lines[f'{precision}, limit'][-1] / lines[precision][-1]:.0%} of the {precision} limit"
                          for precision in _precisions())
    table = _figure(into, "growth_batch_size", "examples a step", "milliseconds a step", sizes, lines)
    return ["## Step time against the batch size", "", *table, "",
            f"At a batch of {sizes[-1]} the tutorial's step makes {shares}: its products count, all else is overhead."]


def _replicas(into, limits, cut, rounds, amount):
    """Step time against the number of emulated replicas."""
    counts = REPLICAS[cut]
    times = [128_000 / _step("float32", amount, rounds, **({"num_gpus": str(count), "emulate": "true"} if count > 1 else {}))
             for count in counts]
    lines = {"float32, batch 128": times, "no cost of more replicas": [times[0]] * len(counts)}
    return ["## Step time against emulated replicas, one global batch", "",
            *_figure(into, "growth_replicas", "replicas", "milliseconds a step", counts, lines)]


def _width(into, limits, cut, rounds, amount):
    """Step time against the width of two convolutions of 3x3 at 16x16."""
    widths, lines = WIDTHS[cut], {}
    for precision in _precisions():
        lines[precision] = [_measure("limits:width", amount, rounds, precision=precision, filters=width) * 1000
                            for width in widths]
        work = [2 * BACKWARD * 128 * 16 * 16 * 9 * 2 * width * width for width in widths]
        lines[f"{precision}, limit"] = [1000 * flops / limits[precision] for flops in work]
    return ["## Time of two convolutions against their width (batch 128, 16x16, forward and backward)", "",
            *_figure(into, "growth_width", "filters", "milliseconds", widths, lines)]


def _input(into, limits, cut, rounds, amount):
    """Input rate against threads."""
    counts = THREADS[cut]
    rates = [_measure("limits:input_rate", 20 * amount, rounds, threads=count) for count in counts]
    cores = len(os.sched_getaffinity(0))
    lines = {"the tutorial's distortions": rates, "all cores": [rates[0] * min(count, cores) for count in counts]}
    return ["## Input rate against threads", "", *_figure(
        into, "growth_input", "threads", "images a second", counts, lines)]


def _depth(into, limits, cut, rounds, amount):
    """Trace time and memory against depth."""
    depths = DEPTHS[cut]
    found = []
    for blocks in depths:
        with Worker("limits:trace", blocks=list(blocks)) as side:
            side.measure(1)
            found.append(side.answer)
    numbers = [2 + 2 * sum(blocks) for blocks in depths]
    table = _figure(into, "growth_depth", "layers of a residual network", "seconds to trace its step", numbers,
                    {"tracing": [answer["value"] for answer in found]})
    memory = _figure(into, "growth_memory", "layers of a residual network", "MiB, peak", numbers,
                     {"the process": [answer["peak_bytes"] / 2**20 for answer in found],
                      "weights, slots and gradients": [answer["least"] / 2**20 for answer in found]})
    return ["## Trace time and memory against depth", "", *table, "", *memory]


def _checkpoint(into, limits, cut, rounds, amount):
    """Checkpoint time against size."""
    sizes = SIZES[cut]
    lines = {"written, flushed and hashed": [_measure("limits:save", 1, rounds, megabytes=size) for size in sizes],
             "the call": [_measure("limits:save_call", 1, rounds, megabytes=size) for size in sizes],
             "memory's limit of a copy": [size * 2e6 / limits["memory"] for size in sizes]}
    return ["## Checkpoint time against size", "", *_figure(into, "growth_checkpoint", "MB", "seconds", sizes, lines), "",
            "The call shares the variables' memory with what is written. TensorFlow copies a variable when the next step changes it."]


def _figure(into, name, x_label, y_label, xs, lines: dict[str, list[float]]) -> list[str]:
    """Writes a plot; returns it and its numbers as lines of Markdown."""
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    color = "0.5"
    for label, values in lines.items():
        if any(word in label for word in LIMITS):
            axes.plot(xs, values, "--", color=color, label=label)
        else:
            color = axes.plot(xs, values, "o-", label=label)[0].get_color()
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", xticks=list(xs))
    everything = [value for values in lines.values() for value in values]
    if max(everything) > 10 * min(everything):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticklabels([f"{x:g}" for x in xs])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(into / f"{name}.png", dpi=110)
    plt.close(figure)
    table = [f"| {x_label} | " + " | ".join(lines) + " |", "|" + "---|" * (1 + len(lines))]
    table += [f"| {x:g} | " + " | ".join(_short(values[k]) for values in lines.values()) + " |" for k, x in enumerate(xs)]
    return [f"![{y_label} against {x_label}]({name}.png)", "", f"In {y_label}:", "", *table]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-6))))}f}"


def _machine() -> str:
    from launch.benches import stored
    return stored.machine_kind()
