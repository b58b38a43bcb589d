"""Relays in front of a server, which a test can cut or stall."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

HOST = "127.0.0.1"


class Proxy:
    """A relay on a loopback port of its own, which a test can cut or stall.

    Args:
        upstream: where it leads; may be set, and changed, later.
    """

    def __init__(self, upstream: tuple[str, int] | None = None) -> None:
        self.upstream = upstream
        #: How often it has cut its connections.
        self.cuts = 0
        self._changed = threading.Condition()
        self._flowing = True
        self._closed = False
        self._left: int | None = None
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((HOST, 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """End all connections now; new ones are welcome."""
        with self._changed:
            self._left = None
            self.cuts += 1
            for end in self._sockets:
                _shut(end)

    def cut_after(self, count: int) -> None:
        """End all connections when the next ``count`` bytes have gone from the broker to its clients."""
        with self._changed:
            self._left = count

    def stall(self) -> None:
        """Forward nothing from now on; connections stay open, and new ones are accepted."""
        with self._changed:
            self._flowing = False

    def go_on(self) -> None:
        """Forward again, beginning with what has been held back."""
        with self._changed:
            self._flowing = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for end in self._sockets:
                _shut(end)
        _shut(self._listener)
        self._threads[0].join()
        self._listener.close()
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                assert self.upstream is not None
                server = socket.create_connection(self.upstream, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._changed:
                self._sockets |= {client, server}
                if self._closed:
                    _shut(client)
                    _shut(server)
            pumps = [
                threading.Thread(target=self._pump, args=(client, server), daemon=True),
                threading.Thread(target=self._pump, args=(server, client), kwargs={"counted": True}, daemon=True),
            ]
            for pump in pumps:
                pump.start()
            self._threads += [*pumps, self._retire(pumps, client, server)]

    def _retire(self, pumps: Sequence[threading.Thread], *ends: socket.socket) -> threading.Thread:
        """Close both ends when nobody uses them any more, and not before: their numbers would be reused."""

        def retire() -> None:
            for pump in pumps:
                pump.join()
            with self._changed:
                self._sockets -= set(ends)
                for end in ends:
                    end.close()

        thread = threading.Thread(target=retire, daemon=True)
        thread.start()
        return thread

    def _pump(self, source: socket.socket, sink: socket.socket, *, counted: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                last = False
                with self._changed:
                    self._changed.wait_for(lambda: self._flowing or self._closed)
                    if counted and self._left is not None:
                        data = data[: self._left]
                        self._left -= len(data)
                        last = self._left == 0
                sink.sendall(data)
                if last:
                    self.cut()
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
