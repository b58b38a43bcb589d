"""Whether a service is ready, by looking at it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp

from azaion.declarations.services import Check
from supervisor.processes import finished

_SHOWN = 200


async def look(check: Check, environment: Mapping[str, str], cwd: str) -> str:
    """Look once, for as long as the check allows.

    Args:
        check: what to look at.
        environment: for a command, the service's own.
        cwd: where a command runs.

    Returns:
        Why it is not ready, in a few words; empty if it is.
    """
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.tcp is not None:
                return await _tcp(*check.address)
            if check.http is not None:
                return await _http(check.http)
            return await _command(check.command or (), environment, cwd)
    except TimeoutError:
        return f"{_name(check)}: no answer within {check.timeout_s:g} s"
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return f"{_name(check)}: {_text(error)}"[:_SHOWN]


def _text(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        # What asyncio makes of it says the address once more.
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _name(check: Check) -> str:
    if check.tcp is not None:
        host, port = check.address
        return f"{host}:{port}"
    return check.http or " ".join(check.command or ())[:80]


async def _tcp(host: str, port: int) -> str:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def _http(address: str) -> str:
    # A connection of its own each time: one that is kept open would say nothing of whether another can be made.
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.get(address, allow_redirects=False) as response,
    ):
        if response.status < HTTPStatus.BAD_REQUEST:
            return ""
        return f"{address}: {response.status} {response.reason}"


async def _command(argv: tuple[str, ...], environment: Mapping[str, str], cwd: str) -> str:
    process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec: a millisecond
        argv,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = await finished(process)
    finally:
        if process.returncode is None:
            # Not reaped yet, so the number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(finished(process))
    return "" if code == 0 else f"{argv[0]} ended with {code}"
