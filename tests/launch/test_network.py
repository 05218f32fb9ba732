"""The time of an all-reduce: hand-computed cases, and what must hold of any."""
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import chips, network

SIZES, BANDWIDTHS, LATENCIES = st.floats(1, 1e12), st.floats(1e6, 1e12), st.floats(0, 1)
POWERS = st.integers(0, 12).map(lambda k: 2**k)


def test_a_ring_by_hand():
    """4 devices, 8 MB at 1 GB/s: 6 messages of 2 MB, 12 ms, and 6 latencies of 10 us. One alone needs nothing."""
    assert network.ring(4, 8e6, bandwidth=1e9, latency=1e-5) == pytest.approx(12e-3 + 60e-6)
    assert network.ring(2, 8e6, bandwidth=1e9, latency=0) == pytest.approx(8e-3)
    assert network.ring(1, 8e6, bandwidth=1e9, latency=1.0) == 0


def test_a_torus_by_hand():
    """4 x 2: a ring of 4 over 8 MB (12 ms), then one of 2 over the 2 MB that are left (2 ms at 1 GB/s); 6 + 2 latencies."""
    assert network.grid((4, 2), 8e6, bandwidths=(1e9, 1e9), latency=1e-5) == pytest.approx(14e-3 + 80e-6)
    assert network.grid((4, 2), 8e6, bandwidths=(1e9, 2e9), latency=0) == pytest.approx(13e-3)
    chip = chips.TPUS["v5e"]
    assert network.torus(chip, (2, 4))(8e6) == pytest.approx(14e-3 * 1e9 / chip.link + 8 * network.HOP)


def test_machines_of_eight_by_hand():
    """16 GPUs: a ring of 8 over NVLink, then one of 2 over the network with an eighth."""
    seconds = network.machines(300e9, 25e9)(16)(80e6)
    inside = 14 / 8 * 80e6 / 300e9 + 14 * network.NVLINK_HOP
    between = 10e6 / 25e9 + 2 * network.NETWORK_HOP
    assert seconds == pytest.approx(inside + between)
    assert network.machines(300e9, 25e9)(4)(80e6) == pytest.approx(1.5 * 80e6 / 300e9 + 6 * network.NVLINK_HOP)


@given(POWERS, SIZES, BANDWIDTHS, LATENCIES)
def test_more_devices_bytes_and_latency_take_longer(n, size, bandwidth, latency):
    def seconds(n=n, size=size, bandwidth=bandwidth, latency=latency):
        return network.ring(n, size, bandwidth=bandwidth, latency=latency)

    assert 0 <= seconds() <= seconds(n=2 * n) and seconds() <= seconds(size=2 * size)
    assert seconds() <= seconds(latency=latency + 1) and seconds() >= seconds(bandwidth=2 * bandwidth)
    assert seconds() < 2 * size / bandwidth + 2 * n * latency + 1e-9  # no ring sends twice the array


@given(POWERS, SIZES, BANDWIDTHS)
def test_a_torus_moves_as_many_bytes_as_a_ring_in_fewer_messages(n, size, bandwidth):
    sides = network.near_square(n, 2)
    ring = network.ring(n, size, bandwidth=bandwidth, latency=0)
    assert network.grid(sides, size, bandwidths=(bandwidth,) * 2, latency=0) == pytest.approx(ring)
    assert network.grid(sides, 0, bandwidths=(bandwidth,) * 2, latency=1) <= network.ring(n, 0, bandwidth=1, latency=1)


@given(st.integers(1, 5000), st.integers(1, 3))
def test_sides_multiply_to_the_number_of_chips(n, axes):
    sides = network.near_square(n, axes)
    assert math.prod(sides) == n and len(sides) == axes and list(sides) == sorted(sides, reverse=True)
    assert network.near_square(16, 2) == (4, 4) and network.near_square(8, 3) == (2, 2, 2)
