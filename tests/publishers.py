"""Who publishes annotations without end, whatever becomes of the broker meanwhile."""

import asyncio
import gc
import random
import threading
from collections.abc import Callable
from typing import Self

from rstream.connection import ConnectionClosed
from rstream.exceptions import ClientError, ServerError

from tests.annotation_messages import CREATED, OPERATOR, VALIDATOR, Event, created, deleted, edited, validated
from tests.brokers import Broker, Publication


class Publisher:
    """Publishes without end, as the platform does from its outbox: what was not confirmed in time is published again.

    The events of a group have names of their own. So one that comes twice, or at first in part, ends in the same tree.

    Args:
        rabbit: the broker.
        stream: where to.
        events: its own list, to which it adds what the broker has confirmed.
        seed: of its dice.
        pause_s: between two groups.

    Attributes:
        bad: messages that nobody can read.
        repeated: how many groups were published again.
        problem: what has ended it.
    """

    def __init__(self, rabbit: Broker, stream: str, events: list[Event], seed: int, pause_s: float = 0.0) -> None:
        self._rabbit = rabbit
        self._stream = stream
        self._events = events
        self._dice = random.Random(seed)
        self._pause_s = pause_s
        self._names = [f"n-{number}" for number in range(60)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self.bad: list[bytes] = []
        self.repeated = 0
        self.problem: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        # What rstream leaves open when it is cancelled while it connects is found here, and not in a later test.
        gc.collect()

    def _publish(self) -> None:
        try:
            while not self._ended.wait(self._pause_s):
                self._publish_group()
        except BaseException as problem:  # noqa: BLE001 - for the test to raise
            self.problem = problem

    def _publish_group(self) -> None:
        dice = self._dice
        events = self._group()
        bad = [b"nonsense %d" % len(self.bad)] if dice.random() < 0.1 else []
        publications: list[Publication] = [(event.status, event.body) for event in events]
        publications += [(CREATED, body) for body in bad]
        sub_batch = dice.choice([None, "none", "gzip"])
        while not asyncio.run(self._confirmed(publications, sub_batch)):
            self.repeated += 1
        self._events += events
        self.bad += bad

    async def _confirmed(self, publications: list[Publication], sub_batch: str | None) -> bool:
        try:
            async with asyncio.timeout(2):
                await self._rabbit.apublish(publications, stream=self._stream, sub_batch=sub_batch)
        except (OSError, TimeoutError, ConnectionClosed, ClientError, ServerError, AssertionError):
            await asyncio.sleep(0.1)
            return False
        return True

    def _group(self) -> list[Event]:
        dice = self._dice
        names = iter(dice.sample(self._names, len(self._names)))
        number = len(self._events)
        events = []
        for _ in range(dice.choice([1, 1, 3, 15])):
            role, extension = dice.choice([OPERATOR, VALIDATOR]), dice.choice([".jpg", ".png", ".bmp"])
            make: Callable[[], Event] = dice.choice(
                [
                    lambda: created(next(names), number, role, extension),  # noqa: B023 - called at once
                    lambda: created(next(names), number, role, extension),  # noqa: B023
                    lambda: edited(next(names), number, role, extension, kind=number % 9),  # noqa: B023
                    lambda: edited(next(names), None, role, kind=number % 9),  # noqa: B023
                    lambda: validated(next(names), next(names), next(names)),
                    lambda: deleted(next(names)),
                ]
            )
            events.append(make())
            number += 1
        return events
