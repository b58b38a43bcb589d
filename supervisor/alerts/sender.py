"""Sends one message by a child process: Apprise is large, and may take its time."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from azaion.declarations.alerts import Channel
from azaion.errors import AzaionError
from azaion.settings import SecretReference
from supervisor import processes
from supervisor.alerts.outbox import Parcel

#: How long sending may take.
LIMIT_S: Final = 30.0
#: Where to find ourselves, what a network needs, and nothing that is secret to it.
_ENVIRONMENT: Final = (
    *("PATH", "PYTHONPATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


class Sender:
    """Sends messages.

    Args:
        resolve: looks up a secret; raises `AzaionError` where there is none.
        limit_s: how long one message may take.
    """

    def __init__(self, resolve: Callable[[SecretReference], str], limit_s: float = LIMIT_S) -> None:
        self._resolve = resolve
        self._limit_s = limit_s
        # Two children at once are memory enough.
        self._turns = asyncio.Semaphore(2)

    async def __call__(self, channel: Channel, parcel: Parcel) -> str:
        """Send a message; returns why it was not taken, empty if it was."""
        try:
            url = self._resolve(channel.url) if isinstance(channel.url, SecretReference) else channel.url
        except AzaionError as error:
            return " ".join(str(error).split())
        order = {"url": url, "title": parcel.title, "body": parcel.body, "level": str(parcel.level)}
        async with self._turns:
            try:
                return await self._ask(json.dumps(order).encode())
            except OSError as error:
                return f"the child that sends cannot be started: {error.strerror}"

    async def _ask(self, order: bytes) -> str:
        question, answer = os.memfd_create("order"), os.memfd_create("answer")
        try:
            os.pwrite(question, order, 0)
            process = _child(question, answer)
            try:
                async with asyncio.timeout(self._limit_s):
                    code = await processes.finished(process)
            except TimeoutError:
                return f"no answer within {self._limit_s:g} s"
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return _read(os.pread(answer, os.fstat(answer).st_size, 0), code)
        finally:
            os.close(question)
            os.close(answer)


def _child(question: int, answer: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "workers.notify"],
        stdin=question,
        stdout=answer,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )


def _read(text: bytes, code: int) -> str:
    # A plugin may have its own things to print; ours is the last line.
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(text.rstrip().rpartition(b"\n")[2])
        return "" if told["ok"] is True else str(told["error"])
    return f"the child that sends has ended with {code}; try: {sys.executable} -c 'import apprise'"
