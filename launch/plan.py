"""How far a recipe scales: python -m launch.plan --recipe=cifar10_resnet18 --devices=v5e -- FLAGS

Predicts the time of a step, the share of the all-reduce in it and the efficiency on 1 to --most devices, each with --rows
rows of the batch (weak scaling), or with --strong the recipe's batch spread over them; and what the larger batch asks of
learning rate, warm-up and optimizer. Operations, sums and their sizes are those of the real step (trainer.lowering traces
it; no data set is needed).

    v2 v3 v4 v5e v5p v6e    TPU cores on a torus            launch/chips.py, launch/network.py have figures and sources
    a100 h100               GPUs, eight to a machine: NVLink inside, InfiniBand between
    ethernet                an A100 to a machine, 25 Gbit/s Ethernet between
    cpu                     replicas on this machine's cores, measured here by short runs of the trainer; --check measures
                            2, 4, 8 emulated replicas and 1, 2, 4 processes too, and exits with 1 where one is off by
                            more than 25 %

A step = the larger of operations / (peak x --utilisation) and memory traffic / bandwidth, and after it the all-reduces:
nothing is assumed to overlap. An estimate, for orders of magnitude; cpu is the one that was checked against measurements.
"""
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable

from input_pipeline.rules import UserError
from launch import chips, local_cost, lowered, network, spec
from trainer.config import option

# Bytes that a step moves, for each byte of the layers' outputs: libtpu counts 12 in cifar10_tutorial's step on v5e.
TRAFFIC = 12
STATES = 8  # float32 numbers that an update reads and writes for each weight
WARMUP_EPOCHS = 5  # Goyal et al. 2017, arXiv:1706.02677
LARGE, LARGEST = 8192, 32768  # batches: Goyal et al. reach 8,192 with SGD; LARS and LAMB were shown up to 32,768
ADAPTIVE = ("adam", "adamw", "lamb", "rmsprop", "adafactor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """flops, bandwidth of memory: of one replica's device. network: number of devices to (bytes to seconds)."""

    flops: float
    bandwidth: float
    network: Callable[[int], Callable[[float], float]]
    source: str


def _tpu(chip: chips.Chip) -> Device:
    def of(cores: int):
        count = max(1, cores // chip.cores)
        pods = -(-count // chip.pod)
        inside = network.torus(chip, network.near_square(count // pods, chip.axes))
        return lambda size: inside(size) + network.ring(pods, size * pods / count, bandwidth=chip.dcn,
                                                        latency=network.ETHERNET_HOP)
    return Device(flops=chip.core_flops, bandwidth=chip.core_bandwidth, network=of,
                  source=f"{chip.source}; beyond a pod the data centre's network, {chip.dcn / 1e9:g} GB/s a chip")


A100 = "NVIDIA A100 data sheet: 312 TFLOPS bfloat16, 2,039 GB/s, NVLink 600 GB/s both ways"
DEVICES = {
    **{name: _tpu(chip) for name, chip in chips.TPUS.items()},
    "a100": Device(flops=312e12, bandwidth=2039e9, network=network.machines(300e9, 25e9),
                   source=f"{A100}; DGX A100: 200 Gbit/s a GPU"),
    "h100": Device(flops=989e12, bandwidth=3350e9, network=network.machines(450e9, 50e9),
                   source="NVIDIA H100 SXM data sheet: 989 TFLOPS bfloat16 dense, 3,350 GB/s, NVLink 900 GB/s both ways; "
                          "DGX H100: 400 Gbit/s a GPU"),
    "ethernet": Device(flops=312e12, bandwidth=2039e9, source=f"{A100}; 25 Gbit/s, 50 us a message (assumed)",
                       network=lambda n: lambda size: network.ring(n, size, bandwidth=25e9 / 8,
                                                                   latency=network.ETHERNET_HOP)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What launch.plan is told."""

    recipe: str = option("digits", "the recipe whose step it is", pattern="[a-z0-9_]+", form="a recipe's name, such as digits")
    devices: str = option("v5e", "what the replicas run on", choices=(*DEVICES, "cpu"))
    most: int = option(2048, "devices up to which it is predicted, in powers of 2", at_least=1, at_most=65536)
    rows: int = option(0, "rows of the batch on each device (0: the recipe's whole batch)", at_least=0, at_most=10**6)
    strong: bool = option(False, "spread one batch over the devices, instead of giving each its own rows")
    utilisation: float = option(0.4, "part of the peak that the products reach (assumed, not measured)", at_least=0.001,
                                at_most=1)
    check: bool = option(False, "with --devices=cpu: measure what was predicted, and compare")
    steps: int = option(60, "steps of each measurement, with --devices=cpu", at_least=30, at_most=10**6)
    json: bool = option(False, "print one JSON object instead of a table")
    trainer_flags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.check and self.devices != "cpu":
            raise UserError(f"--check measures this machine, and --devices={self.devices} is not it; give --devices=cpu")


def facts(plan: Plan) -> dict:
    """What trainer.lowering says of the recipe's step for two replicas. Raises as `lowered.lower`."""
    flags = [f"--recipe={plan.recipe}", *plan.trainer_flags, "--summary_steps=0", "--histogram_steps=0"]
    with tempfile.TemporaryDirectory() as folder:
        return lowered.lower(2, folder, flags)


def compute_seconds(found: dict, rows: float, *, flops: float, bandwidth: float, utilisation: float) -> float:
    """Seconds of forward and backward pass over `rows` rows and of the update, on one device: a roofline."""
    operations = sum(p["flops"] for p in found["programs"]) * rows / found["rows"]
    traffic = TRAFFIC * found["row_activation_bytes"] * rows + STATES * 4 * found["parameters"]
    return max(operations / (flops * utilisation), traffic / bandwidth)


def all_reduce_seconds(found: dict, collective: Callable[[float], float]) -> float:
    """Seconds of all sums over replicas of a step, one after the other: gradients, and batch statistics if there are."""
    return sum(collective(size) for program in found["programs"] for size in program["collectives"])


def predicted(plan: Plan, found: dict, device: Device) -> list[dict]:
    """One entry for each number of devices."""
    base = plan.rows or found["global_batch_size"]
    entries, n = [], 1
    while n <= plan.most and (not plan.strong or n <= base):
        rows = base / n if plan.strong else base
        compute = compute_seconds(found, rows, flops=device.flops, bandwidth=device.bandwidth, utilisation=plan.utilisation)
        summed = all_reduce_seconds(found, device.network(n)) if n > 1 else 0.0
        entries.append(entry(n, base if plan.strong else base * n, compute, summed, entries))
        n *= 2
    return [{**one, **consequences(found, one["global_batch_size"])} for one in entries]


def entry(n: int, batch: int, compute: float, summed: float, before: list[dict]) -> dict:
    """Times, share and efficiency on n devices: examples a second and device, in those of the first entry."""
    seconds = compute + summed
    rate = batch / seconds
    alone = before[0]["examples_per_second"] if before else rate
    return {"devices": n, "global_batch_size": batch, "step_seconds": seconds, "compute_seconds": compute,
            "all_reduce_seconds": summed, "all_reduce_share": summed / seconds, "examples_per_second": rate,
            "efficiency": rate / alone / n}


def consequences(found: dict, batch: int) -> dict:
    """What a global batch of `batch` asks for, against the recipe's own.

    The learning rate grows linearly with the batch (Goyal et al. 2017, arXiv:1706.02677), with the square root of it for
    optimizers that divide by the gradient's size (Malladi et al. 2022, arXiv:2205.10287), over five epochs of warm-up. Above
    8,192 layer-wise rates: LARS in place of SGD (You et al. 2017, arXiv:1708.03888), LAMB in place of Adam (You et al. 2019,
    arXiv:1904.00962); above 32,768 neither was shown.
    """
    factor = batch / found["global_batch_size"]
    adaptive = found["optimizer"] in ADAPTIVE
    per_epoch = found["train_examples"] / batch
    note = ""
    if per_epoch < 1:
        note = "more than the training set holds"
    elif batch > LARGEST:
        note = "beyond what LARS and LAMB were shown for"
    elif batch > LARGE and factor > 1:
        note = "use lamb" if adaptive else "use lars"
    return {"learning_rate": found["learning_rate"] * (factor**0.5 if adaptive and factor > 1 else factor),
            "warmup_steps": max(found["warmup_steps"], round(WARMUP_EPOCHS * per_epoch)) if factor > 1
            else found["warmup_steps"], "steps_per_epoch": per_epoch, "note": note}


def run(plan: Plan) -> int:
    """Prints the prediction; with --check measures too. Returns 0, or 1 where --check found it wrong."""
    found = facts(plan)
    result = {"recipe": found["recipe"], "devices": plan.devices, "parameters": found["parameters"],
              "scaling": "strong" if plan.strong else "weak", "optimizer": found["optimizer"]}
    if plan.devices == "cpu":
        cost = local_cost.measure(plan.recipe, plan.trainer_flags, found, plan.steps)
        result |= {"measured": dataclasses.asdict(cost), "plan": local_cost.predicted(cost, found)}
        if plan.check:
            result["plan"] = local_cost.checked(plan.recipe, plan.trainer_flags, result["plan"], plan.steps)
        print(json.dumps(result) if plan.json else local_cost.text(result))
        return int(any(abs(one.get("error", 0)) > local_cost.TOLERANCE for one in result["plan"]))
    device = DEVICES[plan.devices]
    result |= {"source": device.source, "utilisation": plan.utilisation, "plan": predicted(plan, found, device)}
    print(json.dumps(result) if plan.json else text(result))
    return 0


def text(result: dict) -> str:
    """The prediction as a table."""
    lines = [f"{result['recipe']} ({result['parameters']:,} parameters, {result['optimizer']}) on {result['devices']}, "
             f"{result['scaling']} scaling; predicted, {result['utilisation']:.0%} of the peak assumed",
             f"  {result['source']}",
             "devices     batch  step ms  all-reduce  efficiency    examples/s  learning rate  warm-up  steps/epoch"]
    for one in result["plan"]:
        lines.append(f"{one['devices']:7}{one['global_batch_size']:10}{one['step_seconds'] * 1e3:9.3f}"
                     f"{one['all_reduce_share']:11.1%}{one['efficiency']:12.1%}{one['examples_per_second']:14,.0f}"
                     f"{one['learning_rate']:15.4g}{one['warmup_steps']:9}{one['steps_per_epoch']:13.1f}  {one['note']}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, Plan, run, name="launch.plan", doc=__doc__))
