"""Reading what may never answer, such as a filesystem whose server is gone, without waiting for it for ever."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from supervisor.health.looks import UnreadableError

_Facts = TypeVar("_Facts")


class Apart(Generic[_Facts]):
    """Calls a function in a thread of its own, one at a time. Cancelled, it leaves the thread to itself.

    Threads of a pool would not do: the interpreter waits for them at its end.
    """

    def __init__(self, function: Callable[[], _Facts], name: str) -> None:
        self._function = function
        self._name = name
        self._thread: threading.Thread | None = None
        self._began = 0.0

    async def __call__(self) -> _Facts:
        """What the function returns, or raises.

        Raises:
            UnreadableError: an earlier call has not come back.
        """
        if self._thread is not None and self._thread.is_alive():
            raise UnreadableError(f"a look has not come back for {time.monotonic() - self._began:.0f} s")
        loop = asyncio.get_running_loop()
        coming: asyncio.Future[_Facts] = loop.create_future()

        def tell(facts: _Facts) -> None:
            if not coming.done():
                coming.set_result(facts)

        def fail(error: Exception) -> None:
            if not coming.done():
                coming.set_exception(error)

        def run() -> None:
            # The loop may have closed in the meantime.
            with suppress(RuntimeError):
                try:
                    facts = self._function()
                except Exception as error:  # noqa: BLE001 - whoever waits decides
                    loop.call_soon_threadsafe(fail, error)
                else:
                    loop.call_soon_threadsafe(tell, facts)

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._began = time.monotonic()
        self._thread.start()
        return await coming
