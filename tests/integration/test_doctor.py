"""The doctor, of machines that are ill for real; what no test can make ill is shown to him as the kernel would."""

import asyncio
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.commands.doctor import screen
from supervisor.doctor import machine, reach, software, storage
from supervisor.doctor.model import Diagnosis, Patient, ill, well
from supervisor.doctor.table import examine, patient_of
from supervisor.health.model import Verdict
from tests.azaion_api import Platform
from tests.installations import Installation
from tests.nvml import FakeNvml
from tests.objects import BUCKET, ObjectStore


def patient(server: Installation, **more: str) -> Patient:
    return patient_of(server.environment(**more), None, server.layout.socket)


def only(found: list[Diagnosis], name: str) -> Diagnosis:
    (diagnosis,) = [each for each in found if each.name == name]
    return diagnosis


def examined(server: Installation, **more: str) -> dict[str, dict[str, Any]]:
    done = server.ctl("--json", "doctor", **more)
    assert done.returncode in {0, 1, 2}, done.stderr
    told = json.loads(done.stdout)
    codes = {"ok": 0, "unknown": 1, "warning": 1, "critical": 2}
    assert done.returncode == codes[told["verdict"]]
    assert all(bool(each["cure"]) == (each["verdict"] != "ok") for each in told["findings"]), told
    return {each["name"]: each for each in told["findings"]}


def test_a_machine_whose_daemon_runs(server: Installation) -> None:
    server.start()
    found = examined(server)
    assert found["azaiond"]["verdict"] == "ok"
    assert str(server.daemon.pid if server.daemon else 0) in found["azaiond"]["text"]
    for name in ("configuration", "permissions", "python", "packages", "torch", "root disk", "broker", "driver"):
        assert found[name]["verdict"] == "ok", found[name]
    # Nothing is declared, so nobody hears of trouble.
    assert found["alerts"]["verdict"] == "warning"
    assert "\n          -> declare a channel in azaion.yaml" in screen(list(found.values()))


def test_without_a_daemon_and_without_a_valid_configuration(server: Installation) -> None:
    found = examined(server, TRAINING_EPOCHS="many")
    assert found["configuration"]["text"].startswith("TRAINING_EPOCHS: ")
    assert found["configuration"]["verdict"] == "critical"
    assert found["azaiond"]["verdict"] == "warning"
    assert found["packages"]["verdict"] == "ok"
    shown = screen(list(found.values()))
    assert shown.startswith("CRITICAL  configuration: TRAINING_EPOCHS: ")
    assert "\n          -> azaionctl config check\n" in shown


def test_a_wrong_declaration_is_named(server: Installation) -> None:
    server.layout.state.mkdir()
    (server.layout.state / "azaion.yaml").write_text("alerts: {chanels: {}}", encoding="utf-8")
    (problem,) = patient(server).problems
    assert "did you mean channels?" in problem


async def test_a_broker_and_an_api_that_are_not_there(server: Installation) -> None:
    broker = {"RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": "9", "RABBITMQ_USER": "u", "RABBITMQ_PASSWORD": "hushhush"}
    api = {"AZAION_API_URL": "http://127.0.0.1:9", "AZAION_API_EMAIL": "a@b.example", "AZAION_API_PASSWORD": "hushhush"}
    more = {"AZAION_SOURCE": "rabbitmq", "AZAION_PUBLISH_TARGET": "azaion", "RABBITMQ_QUEUE_NAME": "q"}
    found = await examine(patient(server, **broker, **api, **more), [reach.broker, reach.publishing])
    for name in ("broker", "publishing"):
        diagnosis = only(found, name)
        assert (diagnosis.verdict, "Connection refused" in diagnosis.text) == (Verdict.CRITICAL, True), diagnosis
    assert "hushhush" not in str(found)


async def test_the_two_far_ends_of_publishing(server: Installation, azaion: Platform, objects: ObjectStore) -> None:
    access = azaion.access
    cdn = {"AZAION_CDN_CA": str(objects.ca), "AZAION_CDN_BUCKET": BUCKET}
    given = {**azaion.variables, **cdn, "AZAION_PUBLISH_TARGET": "azaion"}
    login = well("publishing", f"{access.url} takes the login {access.email}")
    lacking = await examine(patient(server, **given), [reach.publishing])
    assert lacking[0] == login
    assert "cdn.yaml" in only(lacking, "cdn").text
    azaion.keep("cdn.yaml", objects.yaml)
    good = await examine(patient(server, **given), [reach.publishing])
    assert [(each.name, each.verdict) for each in good] == [("publishing", Verdict.OK), ("cdn", Verdict.OK)]
    nowhere = await examine(patient(server, **{**given, "AZAION_CDN_BUCKET": "nowhere"}), [reach.publishing])
    assert only(nowhere, "cdn").verdict is Verdict.CRITICAL
    wrong = await examine(patient(server, **{**given, "AZAION_API_PASSWORD": "hushhush"}), [reach.publishing])
    diagnosis = only(wrong, "publishing")
    assert (diagnosis.verdict, "does not take the login" in diagnosis.text) == (Verdict.CRITICAL, True)
    assert "hushhush" not in str(wrong)


def test_folders(server: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(**more: str) -> list[Diagnosis]:
        return storage.permissions(patient(server, **more))

    assert of() == [well("permissions", f"{server.root} and {server.layout.state} can be written")]
    assert "mount its disk" in only(of(AZAION_ROOT_DIR="/nowhere"), "root").cure
    server.root.chmod(0o777)
    assert only(of(), "root").cure == f"chmod o-w {server.root}"
    (server.folder / "file").touch()
    assert "is no folder" in only(of(AZAION_STATE_DIR=str(server.folder / "file")), "state").text
    # Root, whom tests may be run by, may do everything.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert only(of(), "state").text == f"{server.layout.state} cannot be made"
    assert "chown -R" in only(of(), "root").cure


def test_an_env_file_that_others_can_read(server: Installation) -> None:
    env_file = server.folder / ".env"
    env_file.write_text("TRAINING_EPOCHS=3\n", encoding="utf-8")
    sick = replace(patient(server), env_file=env_file)
    env_file.chmod(0o644)
    assert storage.secrets(sick)[0].cure == f"chmod 640 {env_file}"
    env_file.chmod(0o640)
    assert storage.secrets(sick)[0].verdict is Verdict.OK


def test_disks(server: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def of(kind: str, options: str = "rw", name: str = "state disk") -> Diagnosis:
        table = tmp_path / "mountinfo"
        table.write_text(
            f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / {server.folder} {options} shared:1 - {kind} none rw\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(storage, "_MOUNTS", table)
        return only(storage.disks(patient(server)), name)

    assert only(storage.disks(patient(server)), "root disk").verdict in {Verdict.OK, Verdict.WARNING}
    assert of("ext4").verdict is Verdict.OK
    assert "lost with the power" in of("tmpfs").text
    assert "a database is not safe there" in of("nfs4").text
    assert of("nfs4", name="root disk").verdict is Verdict.OK
    assert "remount,rw" in of("ext4", "ro").cure
    assert "volume" in of("overlay").cure


def test_a_disk_that_is_filled(server: Installation) -> None:
    server.layout.state.mkdir()
    (server.layout.state / "azaion.yaml").write_text(
        "health: {checks: {disk: {warning: 0, critical: 0}}}", encoding="utf-8"
    )
    full = only(storage.disks(patient(server)), "disk")
    assert (full.verdict, "azaionctl retention" in full.cure) == (Verdict.CRITICAL, True)


async def test_gpus_that_the_driver_shows_and_torch_does_not(
    server: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FakeNvml(tmp_path / "nvml").environment.items():
        monkeypatch.setenv(name, value)
    found = await software.gpus(patient(server, AZAION_GPUS="auto"))
    assert only(found, "driver").text.startswith("1 GPUs")
    assert "built without CUDA" in only(found, "torch").text or "sees 0 of 1" in only(found, "torch").text
    assert "built without CUDA" in software._judge_torch(("2.13.0", None, 0), 1).text
    assert "sees 1 of 2 GPUs" in software._judge_torch(("2.13.0", "13.0", 1), 2).text
    monkeypatch.setattr(software, "_TORCH", "raise SystemExit(3)")
    assert "cannot be imported (exit code 3)" in only(await software.gpus(patient(server)), "torch").text
    monkeypatch.setattr(software, "_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(software, "_TORCH_S", 0.2)
    assert "does not come up" in only(await software.gpus(patient(server)), "torch").text


def test_packages_that_are_others(server: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnx":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "aiohttp" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    missing, other = software.packages(patient(server))
    assert (missing.verdict, missing.text) == (Verdict.CRITICAL, "missing: onnx")
    assert other.text.startswith("not what was tested: aiohttp 0.0.1 for ")
    assert other.cure.endswith("train.lock")


def test_limits_of_files(server: Installation) -> None:
    code = "from supervisor.doctor import machine; print(machine.limits(None)[0].verdict)"
    done = subprocess.run(
        ["prlimit", "--nofile=1024:1024", sys.executable, "-c", code],  # noqa: S607 - any will do
        cwd=server.code,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "warning\n", done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096 or machine.limits(patient(server))[0].cure == ""


async def test_an_examination_that_fails_hides_nothing(server: Installation) -> None:
    def broken(_patient: Patient) -> list[Diagnosis]:
        raise OSError(5, "Input/output error")

    sick = replace(patient(server), problems=("a", "b"))
    found = await examine(sick, [broken, software.configuration])
    assert [each.verdict for each in found] == [Verdict.UNKNOWN, Verdict.CRITICAL, Verdict.CRITICAL]
    assert found[0].text == "could not be examined: OSError: [Errno 5] Input/output error"
    assert found[1] == ill("configuration", "a", "azaionctl config check")


async def test_what_hangs_is_left_behind(server: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = server.folder / "pipe"
    os.mkfifo(pipe)

    def hangs(_patient: Patient) -> list[Diagnosis]:
        pipe.read_bytes()
        return []

    monkeypatch.setattr("supervisor.doctor.table._LIMIT_S", 0.1)
    (found,) = await examine(patient(server), [hangs])
    assert found.text == "could not be examined within 0.1 s"
    # Whoever waits for the pipe's other end gets it.
    await asyncio.to_thread(pipe.write_bytes, b"")
