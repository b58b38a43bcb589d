"""One azaiond has the annotations, another one on the same data the jobs: the two containers of docs/containers.md."""

from http.client import HTTPConnection

from tests.annotation_trees import LABEL, picture
from tests.installations import Installation, installation
from tests.ports import HOST, free_ports
from tests.waiting import until


def test_the_one_without_a_consumer_leaves_it_to_the_other() -> None:
    (port,) = free_ports(1)
    with (
        installation() as queue,
        installation(AZAION_SOURCE="none", AZAION_ROOT_DIR=str(queue.root), AZAION_HTTP_PORT=str(port)) as training,
    ):
        training.start()
        told = training.json("consumer")
        assert (told["service"], told["offset"]) == ("elsewhere", None)
        assert training.json("services") == []

        queue.start()
        until(lambda: queue.json("consumer").get("state") == "consuming", "the other one has the data for itself")
        images = queue.folder / "images"
        images.mkdir()
        (images / "clip.jpg").write_bytes(picture())
        (images / "clip.txt").write_text(LABEL, encoding="utf-8")
        assert queue.json("annotations", "import", str(images))["sent"] == 1
        until(lambda: training.json("consumer")["offset"] == 1, "the offset is seen")
        assert "consumer  elsewhere, offset 1" in training.ctl("status").stdout

        # What it knows nothing of it does not judge, and tells nobody.
        checked = {finding["check"] for finding in until(lambda: _findings(training), "the first looks")}
        assert {"consumer", "offset", "quarantine", "broker"}.isdisjoint(checked)
        assert "azaion_consumer" not in _metrics(port)
        refused = training.ctl("annotations", "import", str(images))
        assert (refused.returncode, "AZAION_SOURCE is none" in refused.stderr) == (1, True)


def _findings(where: Installation) -> list[dict[str, str]]:
    told: list[dict[str, str]] = where.client.get("/v1/health")["findings"]
    return told


def _metrics(port: int) -> str:
    connection = HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert "azaion_build_info" in text
    return text
