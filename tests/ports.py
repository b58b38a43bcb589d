"""Ports of this machine that nobody uses."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Final

HOST: Final = "127.0.0.1"


def free_ports(count: int) -> Iterator[int]:
    """Ports below those that the kernel gives to outgoing connections, so that a stopped server finds its own again."""
    with ExitStack() as held:
        while count:
            port = random.SystemRandom().randrange(15_000, 30_000)
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((HOST, port))
                count -= 1
                yield port
