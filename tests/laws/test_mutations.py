"""The mutations can still be made: each changes one place that is there, and names a test that is there."""
import pytest

from tests.laws import mutations


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_place_and_the_test_are_there(mutation):
    assert (mutations.ROOT / mutation.file).read_text().count(mutation.old) == 1
    path, *names = mutation.test.split("::")
    assert (mutations.ROOT / path).is_file()
    for name in names:
        assert f"def {name.split('[')[0]}" in (mutations.ROOT / path).read_text()
