"""Services of an installation: declared, looked at, and proven to run once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azaion.layout import AttemptFolder
from supervisor.control.client import ClientError
from tests.installations import Installation
from tests.waiting import until


def declare(server: Installation, **declared: dict[str, Any]) -> None:
    """Write ``azaion.yaml``, of which JSON is a part."""
    server.layout.state.mkdir(exist_ok=True)
    (server.layout.state / "azaion.yaml").write_text(json.dumps({"services": declared}), encoding="utf-8")


def keeper(server: Installation, name: str, then: str = "exec sleep 1000", **more: Any) -> dict[str, Any]:
    """A service that writes its PID into a ledger, and that it has been started twice if it has."""
    ledger, lock = ledger_of(server, name), server.folder / f"{name}.lock"
    script = f"exec 9>{lock}; flock -n 9 || {{ echo twice >> {ledger}; exit 1; }}; echo $$ >> {ledger}; {then}"
    return {"argv": ["sh", "-c", script], "grace_s": 5, **more}


def ledger_of(server: Installation, name: str) -> Path:
    return server.folder / f"{name}.ledger"


def starts(server: Installation, name: str) -> list[str]:
    """What its starts have written: a PID each, or ``twice``."""
    path = ledger_of(server, name)
    return path.read_text().split() if path.exists() else []


def settled(server: Installation, name: str) -> list[str]:
    """The same, when the one that is ready now has written, too."""
    pid = str(shown(server, name, "ready")["pid"])
    return until(
        lambda: found if (found := starts(server, name))[-1:] == [pid] else None, f"{name} has written its PID"
    )


def record(server: Installation, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = server.client.get("/v1/services")
    return next(each for each in found if each["name"] == name)


def shown(server: Installation, name: str, state: str, limit_s: float = 30.0) -> dict[str, Any]:
    """Wait until a service is in this state."""

    def look() -> dict[str, Any] | None:
        try:
            found = record(server, name)
        except ClientError:
            return None
        return found if found["state"] == state else None

    return until(look, f"{name} is {state}", limit_s)


def events(server: Installation, kind: str) -> list[str]:
    return [event["text"] for event in server.client.get("/v1/events") if event["type"] == kind]


def newest(server: Installation, name: str) -> AttemptFolder:
    """The folder of its last start."""
    folder = server.layout.service(name)
    return folder.start(max(int(path.name) for path in folder.path.glob("[0-9]*")))


def waits(condition: Callable[[], bool], what: str) -> None:
    until(lambda: condition() or None, what)
