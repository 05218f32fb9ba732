"""How long the sum of an array over many devices takes: rings, and tori of two or three axes.

    network.ring(8, 4e6, bandwidth=1e9, latency=1e-6)      # seconds
    seconds = network.torus(chip, (4, 4))                  # bytes -> seconds

Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009: on a ring each of n devices sends 2 (n - 1) messages of
1 / n of the array. On a torus the sum is first scattered along one axis, then what is left summed along the next one, then
gathered back (Ying et al., Image classification at supercomputer scale, 2018, arXiv:1811.06992).
"""
import math
from collections.abc import Callable

from launch.chips import Chip

# Bytes a second of one GPU, to the others in its machine of eight and to other machines; seconds of one message.
NVLINK_MACHINE = 8
NVLINK_HOP, NETWORK_HOP = 3.4e-6, 14e-6  # github.com/NVIDIA/nccl, src/graph/tuning.cc: ring, simple protocol
ETHERNET_HOP = 50e-6  # assumed: TCP between two machines of a rack
HOP = 1e-6  # seconds from one TPU chip to the next; jax-ml.github.io/scaling-book/sharding: about 1 us a hop


def ring(n: int, size: float, *, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce of `size` bytes on a ring of n devices: 2 (n - 1) / n size / bandwidth + 2 (n - 1) latency.

    bandwidth: bytes a second that each device sends; latency: seconds of one message. One device needs none.
    """
    return 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency


def grid(sides: tuple[int, ...], size: float, *, bandwidths: tuple[float, ...], latency: float) -> float:
    """Seconds of an all-reduce on a torus: a ring along each axis in turn, each of what the ones before left of `size`."""
    seconds = 0.0
    for side, bandwidth in zip(sides, bandwidths, strict=True):
        seconds += ring(side, size, bandwidth=bandwidth, latency=latency)
        size /= side
    return seconds


def torus(chip: Chip, sides: tuple[int, ...]) -> Callable[[float], float]:
    """Bytes to seconds, on a slice of TPU chips: the longest axis first. The cores of one chip share its memory, and count
    as one device. An axis sends one link's bandwidth: as one that is not closed does; closed ones, in whole pods, send twice
    as much, which is not counted on."""
    ordered = tuple(sorted(sides, reverse=True))
    return lambda size: grid(ordered, size, bandwidths=(chip.link,) * len(ordered), latency=HOP)


def machines(nvlink: float, nic: float) -> Callable[[int], Callable[[float], float]]:
    """Number of GPUs to (bytes to seconds): a ring over NVLink in each machine of eight, then one a place over the network."""
    def of(n: int) -> Callable[[float], float]:
        inside = math.gcd(n, NVLINK_MACHINE) if n > NVLINK_MACHINE else n
        return lambda size: (ring(inside, size, bandwidth=nvlink, latency=NVLINK_HOP)
                             + ring(n // inside, size / inside, bandwidth=nic, latency=NETWORK_HOP))
    return of


def near_square(n: int, axes: int) -> tuple[int, ...]:
    """n chips as sides of a torus that are as equal as whole numbers allow, such as (4, 2) of 8."""
    sides = []
    for left in range(axes, 0, -1):
        side = next(d for d in range(max(1, round(n ** (1 / left))), 0, -1) if n % d == 0)
        sides.append(side)
        n //= side
    assert n == 1 and math.prod(sides) > 0
    return tuple(sorted(sides, reverse=True))
