"""What it costs to watch: the idle daemon with every check on, and with none: ``python -m benchmarks.watching``.

=========  ========================================================================================================
spool      the embedded stream, no GPU
whole      a RabbitMQ, a GPU (a fake NVML), a service with a readiness check
nothing    the embedded stream, all checks switched off in ``azaion.yaml``
=========  ========================================================================================================
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from azaion.declarations.health import HealthDeclaration
from benchmarks.measure import cpu_seconds, machine, resident_mib
from supervisor.commands.text import table
from tests.brokers import broker
from tests.consumers import broker_variables
from tests.installations import Installation, installation
from tests.nvml import FakeNvml

#: The start itself is not what is measured.
_SETTLE_S: Final = 20.0


@contextmanager
def spool() -> Iterator[Installation]:
    """A server as it is without any setting."""
    with installation() as server:
        yield server


@contextmanager
def nothing() -> Iterator[Installation]:
    """The same without a single check."""
    with installation() as server:
        server.layout.state.mkdir()
        checks = {name: {"enabled": False} for name in HealthDeclaration().checks}
        (server.layout.state / "azaion.yaml").write_text(json.dumps({"health": {"checks": checks}}))
        yield server


@contextmanager
def whole() -> Iterator[Installation]:
    """A server with everything there is to look at."""
    with broker() as rabbit, installation(**broker_variables(rabbit, rabbit.fresh())) as server:
        nvml = FakeNvml(server.folder / "nvml")
        nvml.tell(total_mb_0=21504, free_mb_0=20000)
        server.variables |= {"AZAION_GPUS": "0", **nvml.environment}
        server.layout.state.mkdir()
        service = {"argv": ["sleep", "100000"], "ready": {"command": ["true"]}}
        (server.layout.state / "azaion.yaml").write_text(json.dumps({"services": {"web": service}}))
        yield server


def run(seconds: float) -> list[list[str]]:
    """The table."""
    rows = [["SERVER", "SECONDS", "CPU", "MEMORY", "CHECKS"]]
    for make in (spool, whole, nothing):
        with make() as server:
            server.start()
            assert server.daemon is not None
            time.sleep(_SETTLE_S)
            before, began = cpu_seconds(server.daemon.pid), time.monotonic()
            time.sleep(seconds)
            used, passed = cpu_seconds(server.daemon.pid) - before, time.monotonic() - began
            findings = server.client.get("/v1/status")["health"]["findings"]
            rows.append(
                [
                    make.__name__,
                    f"{passed:.0f}",
                    f"{100 * used / passed:.3f} %",
                    f"{resident_mib(server.daemon.pid):.1f} MiB",
                    str(len(findings)),
                ]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    print(machine())
    print(table(run(arguments.seconds)))


if __name__ == "__main__":
    main()
