"""What the Dockerfiles and the compose files name is there. Their schemas are held by `make validate`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from azaion.config import VARIABLES

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "etc" / "containers"
COMPOSE = sorted(ROOT.glob("docker-compose*.yml"))
DOCKERFILES = sorted(CONTAINERS.glob("*.Dockerfile"))
SETTINGS = {variable.name for variable in VARIABLES}
STAGES = {"base", "development", "production"}


def services(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    return found


def stages(path: Path) -> set[str]:
    return set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", path.read_text(encoding="utf-8")))


def production() -> dict[str, dict[str, Any]]:
    return services(ROOT / "docker-compose.production.yml")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_is_made_of_is_there_and_comes_into_the_build(path: Path) -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if "!" in line
    }
    text = path.read_text(encoding="utf-8")
    for sources in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed, source
    for stage in re.findall(r"(?m)^(?:FROM|COPY --from=)(\w+)", text):
        assert stage in stages(path)
    assert stages(path) >= STAGES | ({"h100"} if path.stem == "training" else set())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_shipped_runs_as_nobody_special_and_tells_its_health(path: Path) -> None:
    shipped = path.read_text(encoding="utf-8").split(" AS production\n")[1]
    assert re.findall(r"(?m)^USER (.+)$", shipped) == ["10001:10001"]
    assert "HEALTHCHECK" in shipped
    assert set(re.findall(r"\b((?:AZAION|RABBITMQ|TRAINING)_[A-Z_]+)=", path.read_text(encoding="utf-8"))) <= SETTINGS
    # The data must be mounted: a folder of the image's own would swallow them.
    assert not re.search(r"(?m)(install|mkdir).* /azaion\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.stem)
def test_what_a_compose_file_names_is_there(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, service in document["services"].items():
        if (build := service.get("build")) is not None:
            assert build["target"] in stages(ROOT / build["dockerfile"]), name
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith("./etc"):
                assert (ROOT / source).is_file(), source
            elif not source.startswith((".", "/")):
                assert source in document["volumes"], source
        assert set(service.get("networks", [])) <= set(document.get("networks", {})), name
        assert set(service.get("depends_on", [])) <= set(document["services"]), name
        ours = {each for each in service.get("environment", {}) if not each.startswith("GF_")}
        assert ours <= SETTINGS, ours - SETTINGS


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.stem)
def test_nothing_is_published_to_others(path: Path) -> None:
    for name, service in services(path).items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_containers_of_a_server_are_confined() -> None:
    for name, service in production().items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["stop_grace_period"] == "30s", name
        assert set(service["deploy"]["resources"]["limits"]) >= {"memory", "pids"}, name
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"]), name
        assert "ports" not in service, name
        assert not any("PASSWORD" in each or "KEY" in each for each in service["environment"]), name
    networks = [set(service["networks"]) for service in production().values()]
    assert not set.intersection(*networks)


def test_one_container_has_the_annotations_and_the_other_leaves_them_alone() -> None:
    sources = {name: service["environment"]["AZAION_SOURCE"] for name, service in production().items()}
    assert sources == {"annotation-queue": "rabbitmq", "training": "none"}
    # Neither does it remove datasets, for it knows nothing of the jobs that need them.
    given = production()["annotation-queue"]["environment"]
    assert {given["RETENTION_DATASET_DAYS"], given["RETENTION_CORRUPTED_DAYS"]} == {"0"}


def test_the_example_names_what_the_compose_file_asks_for() -> None:
    text = (ROOT / "docker-compose.production.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    example = (CONTAINERS / "containers.env.example").read_text(encoding="utf-8")
    assert asked <= set(re.findall(r"(?m)^(\w+)=", example)) <= set(re.findall(r"\$\{(\w+)", text))


def test_the_broker_of_development_has_what_the_settings_say() -> None:
    broker = json.loads((CONTAINERS / "rabbitmq" / "definitions.json").read_text(encoding="utf-8"))
    told = dict(
        line.split("=", 1) for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    assert [queue["name"] for queue in broker["queues"]] == [told["RABBITMQ_QUEUE_NAME"]]
    assert [user["name"] for user in broker["users"]] == [told["RABBITMQ_USER"]]


def test_the_annotation_queue_has_a_part_of_the_lock_and_nothing_of_training() -> None:
    whole, part = (locked(ROOT / "requirements" / f"{name}.lock") for name in ("train", "annotation-queue"))
    assert part.items() <= whole.items()
    assert not {"torch", "ultralytics-opencv-headless", "boto3", "cryptography", "numpy"} & set(part)


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", path.read_text(encoding="utf-8")))
