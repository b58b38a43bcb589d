"""The annotation consumer as a process of its own, without a daemon."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from azaion import config, files
from azaion.annotations import offset
from azaion.annotations.spool import Spool
from tests.annotation_messages import Event
from tests.installations import Installation, installation
from tests.waiting import until


class Consuming:
    """An installation's root with its spool, and consumers that come and go."""

    def __init__(self, server: Installation) -> None:
        self.server = server
        self.layout = server.layout
        self.spool = Spool(self.layout.spool)
        self.processes: list[subprocess.Popen[bytes]] = []
        config.make_folders(self.layout)
        self.configure()

    def configure(self, **variables: str) -> None:
        config.write(config.settings(self.server.variables | variables, None), self.layout.config)

    def send(self, events: Iterable[Event]) -> None:
        self.spool.append((event.status, event.body) for event in events)

    def start(self, failpoints: str = "") -> subprocess.Popen[bytes]:
        with (self.server.folder / "consumer.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.consumer", "--parent-pipe", "--config", str(self.layout.config)],
                cwd=self.server.folder,
                env=self.server.environment(AZAION_FAILPOINTS=failpoints, PYTHONPATH=str(self.server.code)),
                stdin=subprocess.PIPE,
                stderr=log,
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        return (self.server.folder / "consumer.log").read_text(encoding="utf-8")

    @property
    def status(self) -> dict[str, Any]:
        try:
            return files.read_json(self.layout.consumer_status)
        except FileNotFoundError:
            return {}

    @property
    def offset(self) -> int:
        position = offset.read(self.layout.offset)
        return position.offset if position is not None else 0

    def told(self, **wanted: object) -> dict[str, Any]:
        """Wait until the status says so."""

        def look() -> dict[str, Any] | None:
            status = self.status
            return status if wanted.items() <= status.items() else None

        found = until(look, f"the consumer tells {wanted}")
        assert found is not None
        return found

    def gone_or_at(self, process: subprocess.Popen[bytes], end: int) -> None:
        """Wait until everything before ``end`` is committed, or the consumer is dead."""
        until(lambda: self.offset == end or process.poll() is not None, f"offset {end}")

    def consumed(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until everything in the spool is committed."""
        end = self.spool.end()
        self.gone_or_at(process, end)
        assert process.poll() is None, self.log

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        assert process.wait(10) == 0, self.log

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


@contextmanager
def consuming() -> Iterator[Consuming]:
    """A root without a daemon."""
    with installation() as server:
        made = Consuming(server)
        try:
            yield made
        finally:
            made.close()
