"""Fixtures that more than one room's tests use."""

from collections.abc import Iterator

import pytest

from tests.installations import Installation, installation


@pytest.fixture
def server() -> Iterator[Installation]:
    """An installation whose daemon has not been started yet."""
    with installation() as made:
        yield made
