"""Fixtures that more than one room's tests use."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.azaion_api import Platform, platform
from tests.brokers import Broker, broker
from tests.installations import Installation, installation
from tests.objects import ObjectStore, SeaweedFS, running
from tests.swift import Swift
from tests.trained_models import Trained, train

# A busy machine is no failure; one that is, is printed so that it can be replayed.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")
# For tests/mutants: that something is found is enough, and its smallest example takes minutes.
hypothesis.settings.register_profile("any-example", deadline=None, phases=(hypothesis.Phase.generate,))


@pytest.fixture
def server() -> Iterator[Installation]:
    """An installation whose daemon has not been started yet."""
    with installation() as made:
        yield made


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Broker]:
    """One RabbitMQ for all tests that leave it as it is: no kill, no pause, and each a stream of its own (`stream`)."""
    with broker() as made:
        yield made


@pytest.fixture
def stream(rabbit: Broker) -> str:
    """A stream of `rabbit` that no other test knows."""
    return rabbit.fresh()


@pytest.fixture
def own_rabbit() -> Iterator[Broker]:
    """A RabbitMQ that the test may kill. One with options of its own: `with tests.brokers.broker(...)`."""
    with broker() as made:
        yield made


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One tiny training (some 15 s) for all tests of what comes after it; nobody writes into it."""
    return train(tmp_path_factory.mktemp("trained") / "world")


@pytest.fixture(scope="session")
def objects() -> Iterator[ObjectStore]:
    """One S3 server for all tests that leave it as it is, and take keys that no other test knows."""
    with running(SeaweedFS()) as made:
        yield made


@pytest.fixture(scope="session")
def swift() -> Iterator[ObjectStore]:
    """The same, of another make."""
    with running(Swift()) as made:
        yield made


@pytest.fixture(scope="session")
def api_process() -> Iterator[Platform]:
    """One Azaion API for all tests."""
    with platform() as made:
        yield made


@pytest.fixture
def azaion(api_process: Platform) -> Platform:
    """The Azaion API, without trouble, and with nobody logged in."""
    api_process.forget()
    return api_process
