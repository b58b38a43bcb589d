"""Fixtures that more than one room's tests use."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.installations import Installation, installation

# A busy machine is no failure; one that is, is printed so that it can be replayed.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


@pytest.fixture
def server() -> Iterator[Installation]:
    """An installation whose daemon has not been started yet."""
    with installation() as made:
        yield made
