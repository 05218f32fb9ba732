"""The rows of the bench: what is set beside what, and what it should come to.

    for result in ROWS["digits_loop"].run(options): print(result)

A row is a function of `Options` that yields results, dicts as the command prints them.
"""
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

from launch.benches.sides import Failed, Program, Trainer, Worker, seconds
from trainer import devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """short: fewer rounds and steps, one network where there are two. torch_python: an interpreter that has torch, "" for
    none."""

    short: bool = False
    torch_python: str = ""

    def rounds(self, full: int) -> Iterator[int]:
        """Numbers of the rounds of a measurement, from 0: `full`, or if short three, and where two took long no third."""
        begin = time.monotonic()
        for number in range(min(3, full) if self.short else full):
            if self.short and number > 1 and time.monotonic() - begin > SHORT_SECONDS:
                return
            yield number

    def amount(self, full: int, short: int) -> int:
        """Steps of one measurement."""
        return short if self.short else full


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One of the table. number: its own there. run(options) yields results."""

    number: int
    summary: str
    run: Callable[[Options], Iterator[dict]]


ROWS: dict[str, Row] = {}
SHORT_SECONDS = 20  # of a measurement's first two rounds, after which the short form takes no third
NO_TORCH = ("no torch: make an environment that has it (python -m venv torch; torch/bin/pip install torch numpy) and give "
            "--torch_python=torch/bin/python")


def row(number: int):
    """Registers a function as a row under its name; its docstring says what it is."""
    def register(function):
        ROWS[function.__name__] = Row(number=number, summary=function.__doc__, run=function)
        return function
    return register


def result(what: str, values: list[float], *, unit: str = "ratio", at_least: float | None = None,
           at_most: float | None = None, ours=None, other=None, **more) -> dict:
    """What the command prints: the median of `values`, and those of both sides."""
    median = statistics.median(values)
    met = (at_least is None or median >= at_least) and (at_most is None or median <= at_most)
    found = {"what": what, "value": _round(median), "unit": unit, "n": len(values), "minimum": _round(min(values)),
             "median": _round(median), "maximum": _round(max(values))}
    for name, side in ("ours", ours), ("other", other):
        if side:
            found[name] = {"minimum": _round(min(side)), "median": _round(statistics.median(side)),
                           "maximum": _round(max(side))}
    target = {} if at_least is None and at_most is None else {
        "target": f"at least {at_least}" if at_least is not None else f"at most {at_most}", "met": met}
    return {**found, **more, **target}


def in_turn(one, other, *, rounds: Iterable[int], one_amount: int, other_amount: int) -> tuple[list, list, list]:
    """(ratios, figures of one, of other): measured in turn, the order changing from round to round."""
    ones, others = [], []
    for number in rounds:
        pair = [(one, one_amount, ones), (other, other_amount, others)]
        for side, amount, figures in pair if number % 2 == 0 else reversed(pair):
            figures.append(side.measure(amount))
    return [a / b for a, b in zip(ones, others)], ones, others


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _loop(what: str, recipe: str, flags: tuple[str, ...], full: int, short: int, least: float, options: Options):
    amount = options.amount(full, short)
    # At a rate of 0, as the bare step is measured: else the network soon knows the made-up images by heart, and its arithmetic slows.
    cadence = ("--summary_steps=100", "--histogram_steps=100", "--checkpoint_steps=1000", "--train_steps=10000000",
               "--learning_rate=0")
    own = dict(flag.removeprefix("--").split("=") for flag in flags)
    with Trainer(f"--recipe={recipe}", *flags, *cadence) as whole, Worker("steps:bare", recipe=recipe, **own) as bare:
        whole.measure(100)
        ratios, ours, other = in_turn(whole, bare, rounds=options.rounds(5), one_amount=amount,
                                      other_amount=max(20, amount // (4 if options.short else 2)))
    yield result(what, ratios, at_least=least, ours=ours, other=other, side="examples a second", steps=amount)


@row(1)
def tutorial_loop(options):
    """The whole trainer / its bare compiled step, cifar10_tutorial."""
    yield from _loop("tutorial_loop", "cifar10_tutorial", ("--dataset=synthetic",), 1000, 100, 0.97, options)


@row(2)
def digits_loop(options):
    """The whole trainer / its bare compiled step, digits."""
    yield from _loop("digits_loop", "digits", (), 3000, 200, 0.90, options)


def _peer(what: str, command: list[str], precision: str, least: float, options: Options, *flags: str,
          recipe: str = "cifar10_tutorial", log_steps: int = 10, amount: int | None = None):
    if precision != "float32" and not devices.has_fast_bfloat16("CPU"):
        yield {"what": what, "skipped": "bfloat16 is slow on this CPU (fast: amx_bf16; AMD's avx512_bf16), auto is float32"}
        return
    with Program(command) as peer, Trainer(f"--recipe={recipe}", "--dataset=synthetic", "--train_steps=10000000",
                                           f"--precision={precision}", *flags, log_steps=log_steps) as ours:
        ours.measure(2 * log_steps)
        amount = amount or options.amount(200, 30)
        ratios, one, other = in_turn(ours, peer, rounds=options.rounds(5), one_amount=amount, other_amount=max(1, amount // 2))
    yield result(what, ratios, at_least=least, ours=one, other=other, side="examples a second")


@row(3)
def keras(options):
    """Examples a second / Keras fit, the same network and distortions."""
    program = [sys.executable, "-m", "launch.peers.keras_fit"]
    yield from _peer("keras_float32", [*program, "float32"], "float32", 1.1, options)
    if not options.short:
        yield from _peer("keras_bfloat16", [*program, "mixed_bfloat16"], "bfloat16", 1.6, options)
    yield from _peer("keras_auto", [*program, "float32"], "auto", 2.5, options)


@row(4)
def torch(options):
    """Examples a second / PyTorch, the same network and distortions."""
    if not options.torch_python:
        yield {"what": "torch", "skipped": NO_TORCH}
        return
    program = [options.torch_python, "-m", "launch.peers.torch_tutorial"]
    for precision, least in ("float32", 1.3), ("bfloat16", 2.5):
        yield from _peer(f"torch_{precision}", [*program, precision], precision, least, options)


def _answers(what: str, worker: str, amount: int, rounds: Iterable[int], *, unit: str = "ratio", at_least=None, at_most=None,
             side: str = "", **given):
    """A row whose both sides are measured inside one process."""
    with Worker(worker, **given) as both:
        answers = []
        for _ in rounds:
            both.measure(amount)
            answers.append(both.answer)
    sides = {name: [answer[name] for answer in answers] for name in ("ours", "other") if name in answers[0]}
    more = {"side": side} if side else {}
    yield result(what, [answer["value"] for answer in answers], unit=unit, at_least=at_least, at_most=at_most, **sides, **more)


@row(5)
def distortions(options):
    """The tutorial's distortions, whole pipeline / Dataset.map, one example at a time."""
    yield from _answers("distortions", "inputs:distortions", options.amount(300, 100), options.rounds(5), at_least=4,
                        side="examples a second")
    yield from _answers("flip_224", "inputs:flips", options.amount(100, 40), options.rounds(5), at_least=1,
                        side="examples a second", pixels=224)


@row(6)
def photos(options):
    """Photos at 224x224, whole pipeline / decode_jpeg and resize alone."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        seconds([sys.executable, "-m", "launch.benches.photos", folder, str(options.amount(512, 256))])
        seconds([sys.executable, "-m", "input_pipeline.prepare", "--dataset=image_folder",
                 f"--from={folder}/photos", f"--output={folder}/shards"])
        for dataset in "image_folder", "tfrecord":
            yield from _answers(f"photos_{dataset}", "inputs:photos", options.amount(60, 20), options.rounds(5), at_least=0.95,
                                side="examples a second", dataset=dataset, folder=folder)


@row(7)
def replicas(options):
    """Step time on 2, 4, 8 emulated replicas / on 1, the same global batch, float32."""
    bounds = {2: 1.05, 4: 1.15, 8: 1.25}
    for recipe, amount in ("cifar10_tutorial", options.amount(40, 10)), ("cifar10_resnet18", 4):
        if options.short and recipe != "cifar10_tutorial":
            continue
        given = {"recipe": recipe, "dataset": "synthetic", "precision": "float32"}
        with Worker("steps:bare", **given) as one:
            for count, most in bounds.items():
                if options.short and count == 8:
                    continue
                with Worker("steps:bare", **given, num_gpus=str(count), emulate="true") as several:
                    ratios, slower, faster = in_turn(one, several, rounds=options.rounds(5), one_amount=amount,
                                                     other_amount=amount)
                yield result(f"{recipe}_replicas_{count}", ratios, at_most=most, ours=faster, other=slower,
                             side="examples a second")


@row(8)
def collectives(options):
    """Collective operations a step for the gradients, in the traced graph."""
    for recipe in "cifar10_tutorial", "digits":
        yield from _answers(f"collectives_{recipe}", "steps:collectives", 1, range(1), unit="collectives a step", at_most=1,
                            recipe=recipe, **({"dataset": "synthetic"} if recipe != "digits" else {}))


@row(9)
def evaluation(options):
    """Evaluation, examples a second / the bare forward pass."""
    yield from _answers("evaluation", "steps:evaluation", options.amount(3, 1), options.rounds(5), at_least=0.95,
                        side="examples a second", recipe="cifar10_tutorial", dataset="synthetic")


@row(10)
def saving(options):
    """Steps that a save in mid-training costs the loop."""
    # Few steps, many times: what twenty steps vary by is more than what a save costs.
    yield from _answers("saving", "steps:saving", 5, range(options.amount(15, 7)), unit="steps", at_most=1, side="seconds of 5 steps",
                        recipe="cifar10_tutorial", dataset="synthetic")


@row(11)
def startup(options):
    """From the command to the first step / importing TensorFlow and tracing alone; help; a wrong command."""
    ours, alone = [], []
    for _ in range(options.amount(5, 2)):
        start = time.perf_counter()
        with Trainer("--recipe=cifar10_tutorial", "--dataset=synthetic", "--train_steps=1000", log_steps=1):
            ours.append(time.perf_counter() - start)
        alone.append(seconds([sys.executable, "-m", "launch.peers.trace_alone"]))
    yield result("startup", [a / b for a, b in zip(ours, alone)], at_most=1.3, ours=ours, other=alone, side="seconds")
    for what, flag, code in ("help", "--help", 0), ("wrong_command", "--global_batch_size=zero", 2):
        command = [sys.executable, "-m", "trainer.main", flag]
        yield result(what, [seconds(command, code=code) for _ in options.rounds(7)], unit="seconds", at_most=0.7)


@row(12)
def memory(options):
    """Peak memory / Keras fit's, the same job."""
    amount = options.amount(300, 20)
    with Program([sys.executable, "-m", "launch.peers.keras_fit", "float32"]) as peer:
        peer.measure(amount)
    with Trainer("--recipe=cifar10_tutorial", "--dataset=synthetic", "--train_steps=10000000", "--precision=float32",
                 f"--checkpoint_steps={options.amount(50, 10)}") as ours:
        ours.measure(amount)
    yield result("memory", [ours.peak_bytes / peer.peak_bytes], at_most=1.0, ours=[ours.peak_bytes / 2**20],
                 other=[peer.peak_bytes / 2**20], side="MiB")


@row(13)
def workers(options):
    """Two local workers / one process with two replicas, the same global batch."""
    flags = ("--recipe=cifar10_tutorial", "--dataset=synthetic", "--train_steps=10000000", "--precision=float32")
    rates = {"one": [], "two": []}
    # A gang must not be stopped from outside, as its watchers would end it: so each is started anew.
    for _ in range(options.amount(3, 1)):
        for name, launcher, more in (("one", ("trainer.main",), ("--num_gpus=2", "--emulate")),
                                     ("two", ("launch.local", "--num_workers=2", "--"), ())):
            with Trainer(*flags, *more, launcher=launcher, pausing=False) as side:
                side.measure(options.amount(50, 10))
                rates[name].append(side.measure(options.amount(200, 40)))
    yield result("workers", [a / b for a, b in zip(rates["two"], rates["one"])], at_least=0.9, ours=rates["two"],
                 other=rates["one"], side="examples a second")


@row(14)
def summaries(options):
    """A step with every summary due / a plain step, cifar10_tutorial."""
    yield from _answers("summaries", "steps:summaries", options.amount(30, 10), options.rounds(5), at_most=3,
                        side="seconds a step", recipe="cifar10_tutorial", dataset="synthetic")


@row(15)
def speed_run(options):
    """Examples a second / PyTorch, cifar10_fast; in bfloat16 where that is fast."""
    if not options.torch_python:
        yield {"what": "speed_run", "skipped": NO_TORCH}
        return
    precision = "bfloat16" if devices.has_fast_bfloat16("CPU") else "float32"
    batch = str(options.amount(2000, 500))
    yield from _peer(f"speed_run_{precision}", [options.torch_python, "-m", "launch.peers.torch_fast", precision, batch], precision,
                     1.11, options, f"--global_batch_size={batch}", recipe="cifar10_fast", log_steps=1,
                     amount=options.amount(10, 4))


def selected(text: str) -> list[str]:
    """The rows that `text` names, numbers or names separated by commas; all for "". ValueError: what is unknown."""
    numbers = {str(entry.number): name for name, entry in ROWS.items()}
    names = []
    for part in filter(None, text.split(",")):
        name = numbers.get(part, part)
        if name not in ROWS:
            raise ValueError(f"{part!r} must be one of {', '.join(ROWS)}, or a number from 1 to {len(ROWS)}")
        names.append(name)
    return names or list(ROWS)


def run(names: list[str], options: Options) -> Iterator[dict]:
    """The results of these rows; a row that failed is a result too."""
    for name in names:
        try:
            yield from ROWS[name].run(options)
        except (Failed, OSError, subprocess.SubprocessError) as error:
            yield {"what": name, "failed": " ".join(str(error).split())[-600:]}
