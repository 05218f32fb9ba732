"""What is known of TPU chips and of the networks between them: memory, peaks, bandwidths, each with its source.

    chip = chips.TPUS["v5e"]
    chip.core_memory                   # bytes a core may use
    chips.topology("v5e:4x4")          # (that chip, (4, 4)); ValueError says what is wrong
    chips.cores(chip, (4, 4))          # 16

Peaks are the makers'; networks reach a part of theirs. Nothing here was measured by this project but what says so.
"""
import dataclasses
import math
import re

GIB, GIGA, TERA = 2**30, 10**9, 10**12
DOCS, BOOK = "cloud.google.com/tpu/docs", "jax-ml.github.io/scaling-book/tpus"
CACM = "Jouppi et al., A domain-specific supercomputer for training deep neural networks, CACM 63 (7), 2020, table 3"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU chip. cores: replicas that one chip is, as libtpu's topologies count them. memory: bytes of HBM. flops:
    bfloat16 operations a second. bandwidth: of HBM, bytes a second. link: bytes a second of one link in one direction.
    axes: of the torus. pod: chips of the largest one.
    dcn: bytes a second of one chip to other pods (the same book; v2 and v3: assumed to be v4's)."""

    name: str
    cores: int
    memory: int
    flops: float
    bandwidth: float
    link: float
    axes: int
    pod: int
    dcn: float
    source: str

    @property
    def core_memory(self) -> int:
        """Bytes of HBM a core."""
        return self.memory // self.cores

    @property
    def core_flops(self) -> float:
        """Operations a second of a core."""
        return self.flops / self.cores

    @property
    def core_bandwidth(self) -> float:
        """Bytes of HBM a second of a core."""
        return self.bandwidth / self.cores


TPUS = {chip.name: chip for chip in (
    Chip(name="v2", cores=2, memory=16 * GIB, flops=46 * TERA, bandwidth=700 * GIGA, link=62 * GIGA, axes=2, pod=256,
         dcn=6.25 * GIGA, source=f"{CACM}: 46 TFLOPS, 16 GB, 700 GB/s, 4 links of 496 Gbit/s; pod: {DOCS}/v2"),
    Chip(name="v3", cores=2, memory=32 * GIB, flops=123 * TERA, bandwidth=900 * GIGA, link=82 * GIGA, axes=2, pod=1024,
         dcn=6.25 * GIGA, source=f"{CACM}: 123 TFLOPS, 32 GB, 900 GB/s, 4 links of 656 Gbit/s; pod: {DOCS}/v3"),
    Chip(name="v4", cores=2, memory=32 * GIB, flops=275 * TERA, bandwidth=1200 * GIGA, link=45 * GIGA, axes=3, pod=4096,
         dcn=6.25 * GIGA, source=f"{DOCS}/v4: 275 TFLOPS, 32 GiB, 1200 GB/s, 4,096 chips; link: {BOOK}, 4.5e10 bytes/s one way"),
    Chip(name="v5e", cores=1, memory=16 * GIB, flops=197 * TERA, bandwidth=819 * GIGA, link=45 * GIGA, axes=2, pod=256,
         dcn=3.125 * GIGA, source=f"{DOCS}/v5e: 197 TFLOPS, 16 GB, 819 GB/s, 256 chips; link: {BOOK}, 4.5e10 bytes/s one way"),
    Chip(name="v5p", cores=1, memory=95 * GIB, flops=459 * TERA, bandwidth=2765 * GIGA, link=90 * GIGA, axes=3, pod=8960,
         dcn=6.25 * GIGA, source=f"{DOCS}/v5p: 459 TFLOPS, 95 GB, 2765 GB/s, 8,960 chips; link: {BOOK}, 9e10 bytes/s one way"),
    Chip(name="v6e", cores=1, memory=32 * GIB, flops=918 * TERA, bandwidth=1640 * GIGA, link=90 * GIGA, axes=2, pod=256,
         dcn=12.5 * GIGA, source=f"{DOCS}/v6e: 918 TFLOPS, 32 GB, 1640 GB/s, 256 chips; link: {BOOK}, 9e10 bytes/s one way"),
)}


def topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sides of a topology such as v5e:4x4, v4:2x2x1. ValueError says what is wrong with it."""
    match = re.fullmatch(r"([a-z0-9]{1,8}):([0-9]{1,3}(?:x[0-9]{1,3})*)", text)
    if not match or match[1] not in TPUS:
        raise ValueError(f"must be a chip and its sides, such as v5e:4x4 or v4:2x2x1; chips: {', '.join(TPUS)}")
    chip, sides = TPUS[match[1]], tuple(map(int, match[2].split("x")))
    example = "x".join(["2", "2", "1"][:chip.axes])
    if len(sides) != chip.axes or 0 in sides:
        raise ValueError(f"{chip.name} has {chip.axes} axes, each of 1 or more; write such as {chip.name}:{example}")
    if math.prod(sides) > chip.pod:
        raise ValueError(f"has {math.prod(sides)} chips, and a pod of {chip.name} at most {chip.pod}; give a smaller one")
    return chip, sides


def cores(chip: Chip, sides: tuple[int, ...]) -> int:
    """Replicas of a topology."""
    return math.prod(sides) * chip.cores
