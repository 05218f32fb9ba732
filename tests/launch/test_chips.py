"""The table of chips, and topologies as text."""
import pytest

from launch import chips


def test_memory_of_a_core_is_its_share_of_the_chip():
    found = {name: chip.core_memory // chips.GIB for name, chip in chips.TPUS.items()}
    assert found == {"v2": 8, "v3": 16, "v4": 16, "v5e": 16, "v5p": 95, "v6e": 32}
    assert all(chip.source and chip.core_flops * chip.cores == chip.flops for chip in chips.TPUS.values())


def test_topologies():
    """Counts are those of libtpu 0.0.52 for the same names."""
    for text, cores in (("v2:2x2", 8), ("v3:2x2", 8), ("v3:4x4", 32), ("v4:2x2x1", 8), ("v4:4x4x4", 128), ("v5e:4x4", 16),
                        ("v5e:16x16", 256), ("v5p:2x2x1", 4), ("v6e:4x4", 16)):
        assert chips.cores(*chips.topology(text)) == cores


@pytest.mark.parametrize("text", ["", "v5e", "v7:2x2", "v5e:4x4x4", "v4:2x2", "v5e:0x4", "v5e:32x32", "v5e:4x", "v5e:-1x4",
                                  "V5E:4x4", "v5e:4x4 ", "v5e:9999x1"])
def test_wrong_topologies(text):
    with pytest.raises(ValueError, match="such as|at most"):
        chips.topology(text)
