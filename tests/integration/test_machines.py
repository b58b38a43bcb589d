"""What machines are told by a daemon: on the socket, and on the port of this host."""

import http.client
import json
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.installations import Installation, installation
from tests.nvml import FakeNvml
from tests.waiting import until

PATHS = ("/metrics", "/health", "/health/detailed", "/queue/stats", "/info")


class Unix(http.client.HTTPConnection):
    """Plain HTTP on the control socket, as curl --unix-socket speaks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("azaion")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def server() -> Iterator[Installation]:
    with installation(AZAION_HTTP_PORT=str(free_port())) as made:
        yield made


def ask(
    where: Installation | Path, path: str, method: str = "GET", host: str | None = None
) -> tuple[HTTPStatus, bytes]:
    if isinstance(where, Path):
        connection: http.client.HTTPConnection = Unix(where)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", int(where.variables["AZAION_HTTP_PORT"]))
    connection.request(method, path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    status, body = HTTPStatus(response.status), response.read()
    connection.close()
    return status, body


def told(where: Installation | Path, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(where, path)[1])
    return found


def figures(where: Installation | Path) -> dict[tuple[str, ...], float]:
    """Value by name and values of labels."""
    status, body = ask(where, "/metrics")
    assert status == HTTPStatus.OK, body
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_the_port_tells_what_the_socket_tells_and_nothing_else(server: Installation) -> None:
    server.start()
    until(lambda: ask(server, "/info")[0] == HTTPStatus.OK, "the port is there")
    for path in PATHS:
        assert ask(server, path)[0] == ask(server.layout.socket, path)[0] == HTTPStatus.OK
        assert ask(server, path, "HEAD") == (HTTPStatus.OK, b"")
        assert ask(server, path, "POST")[0] == HTTPStatus.METHOD_NOT_ALLOWED
        assert ask(server, path, host="evil.example")[0] == HTTPStatus.FORBIDDEN
        assert ask(server, path, host="localhost:1")[0] == HTTPStatus.OK
        assert ask(server, path, host="[::1]:1")[0] == HTTPStatus.OK
    for path in ("/v1/status", "/v1/jobs", "/v1/jobs/1/log", "/v1/events", "/"):
        assert ask(server, path)[0] == HTTPStatus.NOT_FOUND
    assert told(server, "/info")["devices"] == ["cpu"]
    listening = Path("/proc/net/tcp").read_text(encoding="ascii")
    port = f"{int(server.variables['AZAION_HTTP_PORT']):04X}"
    assert f" 0100007F:{port} " in listening
    assert f" 00000000:{port} " not in listening


def test_a_port_that_somebody_else_has_stops_nothing(server: Installation) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(server.variables["AZAION_HTTP_PORT"])))
        other.listen()
        server.start()
        until(lambda: "http-failed" in server.ctl("events", "--all").stdout, "it is told")
        assert server.wait(server.submit("true"))["state"] == "succeeded"
        assert ask(server.layout.socket, "/info")[0] == HTTPStatus.OK


def test_the_queue_in_figures(server: Installation) -> None:
    server.start()
    server.wait(server.submit("exit 3"))
    server.wait(server.submit("true"))
    name = "a name that nobody else is to see"
    first = server.submit("exec sleep 60", devices=1, name=name)
    server.wait(first, "running")
    server.submit("true", devices=1, name=name)
    found = figures(server.layout.socket)
    assert found["azaion_jobs", "command", "running"] == 1
    assert found["azaion_jobs", "command", "queued"] == 1
    assert found["azaion_jobs_ended_total", "command", "failed"] == 1
    assert found["azaion_jobs_failed_total", "exit"] == 1
    assert found["azaion_attempts_ended_total", "none"] == 1
    assert found["azaion_device_leased", "cpu"] == 1
    assert found["azaion_device_job_number", "cpu"] == first
    assert found["azaion_queue_waiting_seconds",] > 0
    assert found["azaion_disk_size_bytes", "root"] > found["azaion_disk_free_bytes", "root"] > 0
    assert 20e6 < found["process_resident_memory_bytes",] < 65e6
    stats = told(server, "/queue/stats")
    assert (stats["jobs"]["running"], stats["failed"]) == (1, {"exit": 1})
    assert (stats["running"][0]["id"], stats["running"][0]["device"]) == (first, "cpu")
    for path in PATHS:
        assert name.encode() not in ask(server, path)[1]
    # What is counted outlives the daemon.
    server.kill()
    server.start()
    assert figures(server.layout.socket)["azaion_jobs_failed_total", "exit"] == 1


def test_health_in_a_status_code(server: Installation) -> None:
    server.layout.state.mkdir()
    server.layout.state.joinpath("azaion.yaml").write_text(
        "health: {checks: {disk: {interval_s: 1, warning: 0, critical: 0.001}}}", encoding="utf-8"
    )
    server.start()
    until(lambda: ask(server.layout.socket, "/health")[0] == HTTPStatus.SERVICE_UNAVAILABLE, "the disk is found full")
    assert told(server, "/health")["status"] == "critical"
    detailed = told(server, "/health/detailed")
    (disk,) = (finding for finding in detailed["findings"] if finding["check"] == "disk")
    assert (disk["verdict"], bool(disk["advice"])) == ("critical", True)
    found = figures(server)
    assert (found["azaion_health",], found["azaion_health_check", "disk", disk["subject"]]) == (2, 2)
    server.client.post("/v1/health/mute", {"name": "disk", "seconds": 60})
    assert ask(server, "/health")[0] == HTTPStatus.OK
    assert figures(server)["azaion_health_check_muted", "disk", disk["subject"]] == 1


def test_gpus_in_figures(server: Installation) -> None:
    nvml = FakeNvml(server.folder / "nvml")
    nvml.tell(count=2, total_mb_0=1000, free_mb_0=400, lost_1=1)
    server.variables |= {"AZAION_GPUS": "0,1", **nvml.environment}
    server.start()
    found = figures(server.layout.socket)
    assert (found["azaion_gpu_up", "gpu0"], found["azaion_gpu_up", "gpu1"]) == (1, 0)
    assert found["azaion_gpu_memory_size_bytes", "gpu0"] == 1000 << 20
    assert found["azaion_gpu_memory_free_bytes", "gpu0"] == 400 << 20
    assert ("azaion_gpu_memory_size_bytes", "gpu1") not in found
