"""One server for all tests of this folder, and what a test may do to its daemon."""

import os
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine, lacking, machine


def without_reason() -> None:
    """Skip what this machine cannot do; fail where it should."""
    if reason := lacking():
        if os.environ.get("AZAION_REQUIRE_SYSTEMD") == "1":
            pytest.fail(f"AZAION_REQUIRE_SYSTEMD=1, and this machine {reason}")
        pytest.skip(f"tests/systemd {reason}")


@pytest.fixture(scope="session")
def booted() -> Iterator[Machine]:
    """One server; it takes a second to boot."""
    without_reason()
    with machine() as made:
        yield made


@pytest.fixture
def server(booted: Machine) -> Iterator[Machine]:
    """The server with a daemon that runs as its unit says, however the test before has left it."""
    yield booted
    booted.settle()
