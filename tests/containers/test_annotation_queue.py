"""The image of the annotation queue as it is shipped, run without Docker. By hand, for it takes root and minutes:

    sudo AZAION_CONTAINERS=localhost/python:bookworm .venv/bin/python -m pytest tests/containers

AZAION_CONTAINERS is the base of the image; `etc/containers/base.sh` makes one where no registry can be reached. It
needs buildah, runc and tini.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.containers.oci import USER, Container, Image, mounted, started

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("AZAION_CONTAINERS", "")
SETTINGS = {
    "AZAION_DATA_DIR": "data",
    "AZAION_DATA_SEED_DIR": "data-seed",
    "AZAION_DATA_DELETED_DIR": "data_deleted",
    "TRAINING_MODEL": "yolo26m.pt",
    "TRAINING_EPOCHS": "120",
    "TRAINING_BATCH_SIZE": "11",
    "TRAINING_IMGSZ": "1280",
    "TRAINING_SAVE_PERIOD": "1",
    "TRAINING_WORKERS": "0",
    "EXPORT_ONNX_IMGSZ": "1280",
}

pytestmark = [
    pytest.mark.skipif(not BASE, reason="AZAION_CONTAINERS names no base: by hand, docs/containers.md"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def built() -> str:
    told = {"ENGINE": "buildah", "IMAGES": "annotation-queue", "TAG": "tried", "PYTHON_IMAGE": BASE}
    subprocess.run(["make", "images"], cwd=ROOT, env=os.environ | told, check=True)  # noqa: S607
    return "localhost/azaion/annotation-queue:tried"


@pytest.fixture
def image(built: str) -> Iterator[Image]:
    with mounted(built) as made:
        yield made


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Path]:
    made = {"/azaion": tmp_path / "azaion", "/var/lib/azaion": tmp_path / "state"}
    for folder in made.values():
        folder.mkdir()
        os.chown(folder, USER, USER)
    return made


@pytest.fixture
def settings(rabbit: Broker, stream: str) -> dict[str, str]:
    broker = {name: str(value) for name, value in rabbit.credentials.items()}
    return SETTINGS | {
        "RABBITMQ_HOST": broker["host"],
        "RABBITMQ_PORT": broker["port"],
        "RABBITMQ_USER": broker["username"],
        "RABBITMQ_PASSWORD": broker["password"],
        "RABBITMQ_QUEUE_NAME": stream,
    }


def test_annotations_come_through_and_a_stop_is_quick(
    image: Image, volumes: dict[str, Path], settings: dict[str, str]
) -> None:
    check = {"/check.py": ROOT / "etc" / "containers" / "check.py"}
    with started(image, volumes | check, settings) as queue:
        queue.ready()
        sent = queue.run("python", "/check.py")
        assert (sent.returncode, "20 of 20" in sent.stdout) == (0, True), sent.stderr
        assert len(list((volumes["/azaion"] / "data" / "images").iterdir())) == 20
        asked = image.config["Healthcheck"]["Test"] if "Healthcheck" in image.config else ["CMD", "azaionctl", "health"]
        assert queue.run(*asked[1:]).returncode == 0
        assert confined(queue)
        began = time.monotonic()
        queue.signal("TERM")
        assert queue.wait(30) == 0, queue.log
        assert time.monotonic() - began < 10


def confined(container: Container) -> bool:
    """Nothing of the image can be written, and nobody in it may more than read."""
    written = container.run("touch", "/opt/azaion/x")
    capabilities = container.run("grep", "CapEff", "/proc/self/status").stdout.split()[1]
    return "Read-only" in written.stderr and int(capabilities, 16) == 0


def test_without_the_data_it_refuses_to_start(image: Image, volumes: dict[str, Path], settings: dict[str, str]) -> None:
    with started(image, {"/var/lib/azaion": volumes["/var/lib/azaion"]}, settings) as queue:
        assert queue.wait(30) == 78
        assert "/azaion does not exist" in queue.log
