"""What a job needs is looked at before it starts, by a real daemon; the GPUs are a library of ours."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.installations import Installation
from tests.nvml import FakeNvml
from tests.waiting import until

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
def nvml(server: Installation) -> FakeNvml:
    """The server has as many GPUs as a test says, and NVML tells of them what it likes."""
    made = FakeNvml(server.folder / "nvml")
    server.variables |= {"AZAION_GPUS": "0", **made.environment}
    return made


def reason(server: Installation, number: int) -> str:
    """Why a job waits, as soon as it does."""

    def look() -> str:
        job = server.job(number)
        assert job["state"] == "queued", job
        return str(job["reason"])

    return until(look, f"job {number} says why it waits")


def events(server: Installation, *types: str) -> list[tuple[str, int | None]]:
    told: list[dict[str, Any]] = server.client.get("/v1/events", {"type": ",".join(types)})
    return [(event["type"], event["job"]) for event in told]


def test_a_job_without_the_memory_it_needs_waits_and_others_pass(server: Installation) -> None:
    server.start()
    done = server.ctl("submit", "--gpu", "0", "--ram", "900T", "--", "true")
    assert done.returncode == 0, done.stderr
    number = int(done.stdout)
    assert reason(server, number).startswith("needs 921600.0 GiB RAM, this machine has ")
    assert server.job(number)["needs"] == {"ram": 900 << 40, "vram": 0}
    other = server.submit("true", needs={"ram": MIB})
    assert server.wait(other)["state"] == "succeeded"
    assert "needs 921600.0 GiB RAM" in server.ctl("list").stdout
    assert server.job(number)["attempts"] == []
    server.client.post(f"/v1/jobs/{number}/cancel")
    assert server.wait(number)["state"] == "cancelled"


def test_memory_of_a_gpu_is_asked_of_jobs_with_one(server: Installation) -> None:
    server.start()
    wrong = server.ctl("submit", "--gpu", "0", "--vram", "2G", "--", "true")
    assert wrong.returncode == 1
    assert "--vram" in wrong.stderr
    assert server.ctl("submit", "--vram", "much", "--", "true").returncode == 2
    number = server.submit("true", devices=1, needs={"vram": 2 * GIB})
    assert reason(server, number) == "needs 2.0 GiB VRAM, and there is no GPU to use"


def test_a_foreign_process_on_the_gpu_is_named_and_waited_for(server: Installation, nvml: FakeNvml) -> None:
    # 21 GiB, of which this very test has 11.6.
    held = {"total_mb_0": 21504, "free_mb_0": 9472, "pid_0_0": os.getpid(), "pid_mb_0_0": 11870}
    nvml.tell(**held)
    server.start()
    number = server.submit("true", devices=1, needs={"vram": 14 * GIB})
    name = Path("/proc/self/comm").read_text(encoding="ascii").strip()
    told = f"needs 14.0 GiB VRAM, 9.2 free; 11.6 held by pid {os.getpid()} {name}"
    assert reason(server, number) == told
    smaller = server.submit('echo "on $CUDA_VISIBLE_DEVICES"', devices=1, needs={"vram": 9 * GIB})
    assert server.wait(smaller)["state"] == "succeeded"
    assert server.attempt(smaller).log.read_text() == "on 0\n"
    assert reason(server, number) == told
    (device,) = server.json("status")["gpus"]
    assert (device["device"], device["free"], device["processes"][0]["pid"]) == ("gpu0", 9472 * MIB, os.getpid())
    assert "gpu0: free, 9.2 GiB of 21.0 GiB free" in server.ctl("status").stdout
    nvml.tell(total_mb_0=21504, free_mb_0=21000)
    assert server.wait(number, limit_s=30)["state"] == "succeeded"


def test_memory_that_a_run_of_ours_has_is_named_by_its_job(server: Installation, nvml: FakeNvml) -> None:
    server.variables["AZAION_GPUS"] = "0,1"
    nvml.tell(count=2)
    server.start()
    # It takes memory of the device that it was not given.
    holder = server.submit("exec sleep 1000", devices=1)
    pid = server.wait(holder, "running")["attempts"][0]["pid"]
    nvml.tell(count=2, free_mb_0=1024, free_mb_1=2048, pid_1_0=pid, pid_mb_1_0=30000)
    number = server.submit("true", devices=1, needs={"vram": 14 * GIB})
    assert reason(server, number).endswith(
        f"gpu1: needs 14.0 GiB VRAM, 2.0 free; 29.3 held by job {holder} (pid {pid} sleep)"
    )


def test_a_lost_gpu_is_not_handed_out(server: Installation, nvml: FakeNvml) -> None:
    server.variables["AZAION_GPUS"] = "0,1"
    nvml.tell(count=2, lost_0=1)
    server.start()
    first = server.submit('echo "on $CUDA_VISIBLE_DEVICES"; exec sleep 1000', devices=1)
    server.wait(first, "running")
    second = server.submit("true", devices=1)
    assert reason(server, second) == f"needs a GPU; held: gpu1 by job {first}; gpu0: GPU is lost"
    assert "gpu0: GPU is lost" in server.ctl("status").stdout
    until(lambda: server.attempt(first).log.read_text() == "on 1\n", "it has the other one")
    server.client.post(f"/v1/jobs/{first}/cancel", query={"now": 1})
    assert server.wait(second, limit_s=30)["state"] == "succeeded"


def test_a_driver_that_hangs_holds_up_nothing_but_its_own_jobs(server: Installation, nvml: FakeNvml) -> None:
    nvml.tell(hang=1)
    server.start()
    number = server.submit("true", devices=1)
    began = time.monotonic()
    light = server.submit("true")
    assert server.wait(light, limit_s=4)["state"] == "succeeded"
    assert time.monotonic() - began < 4
    assert reason(server, number) == "the NVIDIA driver has not answered within 5 s"
    assert "the NVIDIA driver has not answered" in server.ctl("status").stdout
    nvml.tell()
    assert server.wait(number, limit_s=40)["state"] == "succeeded"


def test_a_driver_that_crashes_is_asked_again(server: Installation, nvml: FakeNvml) -> None:
    nvml.tell(crash=1)
    server.start()
    number = server.submit("true", devices=1)
    assert reason(server, number) == "asking the NVIDIA driver has ended by SIGABRT"
    nvml.tell()
    # It is looked at again when something changes, and every 10 seconds.
    assert server.wait(number, limit_s=30)["state"] == "succeeded"


def test_without_a_driver_nothing_depends_on_it(server: Installation, nvml: FakeNvml) -> None:
    nvml.tell(nodriver=1)
    server.start()
    assert server.wait(server.submit("true", devices=1))["state"] == "succeeded"
    (device,) = server.json("status")["gpus"]
    assert device["problem"].startswith("no NVIDIA driver")


def test_a_training_waits_for_its_model_and_its_images(server: Installation) -> None:
    server.variables["TRAINING_MODEL"] = "base.pt"
    server.start()
    server.layout.models.joinpath("base.pt").write_bytes(b"weights")
    done = server.ctl("submit-train", "--hold")
    assert done.returncode == 0, done.stderr
    number = int(done.stdout)
    server.layout.models.joinpath("base.pt").unlink()
    server.client.post(f"/v1/jobs/{number}/release")
    assert reason(server, number) == "the base model base.pt is not there: put it among the models or into the root"
    server.layout.models.joinpath("base.pt").write_bytes(b"weights")
    server.submit("true")
    waits = "there are no validated images to learn from yet"
    until(lambda: reason(server, number) == waits, "it is looked at again")
    # An image is there, and so it starts; the weights are none, which is the worker's to find.
    server.layout.data.images.joinpath("a.jpg").touch()
    server.submit("true")
    assert server.wait(number, "starting", "running", "failed")["attempts"]


def test_a_full_disk_pauses_starts_and_no_run(server: Installation) -> None:
    free = shutil.disk_usage(server.folder).free
    if free < 4 * GIB:
        pytest.skip("there is too little room on this disk to take some of it away")
    server.variables["AZAION_FREE_DISK_MB"] = str((free - 512 * MIB) // MIB)
    server.start()
    running = server.submit("until test -e go; do sleep 0.1; done")
    server.wait(running, "running")
    ballast = server.folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, GIB)
    number = server.submit("true")
    assert "GiB on the disk of" in reason(server, number)
    assert server.job(number)["reason"].endswith("free; make room")
    (alert,) = server.json("status")["alerts"]
    assert alert["job"] is None
    assert "alert     nothing has started for" in server.ctl("status").stdout
    assert server.job(running)["state"] == "running"
    (server.folder / "go").touch()
    assert server.wait(running)["state"] == "succeeded"
    assert server.job(number)["state"] == "queued"
    ballast.unlink()
    assert server.wait(number, limit_s=30)["state"] == "succeeded"
    assert events(server, "starts-paused", "starts-resumed") == [("starts-paused", None), ("starts-resumed", None)]
    assert server.json("status")["alerts"] == []


def prepared(server: Installation) -> None:
    server.layout.data.images.mkdir(parents=True, exist_ok=True)
    server.layout.data.images.joinpath("a.jpg").touch()


@pytest.mark.parametrize("daemon", [True, False])
def test_by_hand_with_and_without_a_daemon(server: Installation, nvml: FakeNvml, *, daemon: bool) -> None:
    nvml.tell(total_mb_0=16384, free_mb_0=12288)
    if daemon:
        server.start()
    prepared(server)
    good = server.ctl("preflight", "--ram", "10M", "--vram", "11G", "--disk", "1M")
    assert good.returncode == 0, good.stdout + good.stderr
    assert ("no azaiond answers" in good.stderr) is not daemon
    lines = good.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in ("memory", "gpu", "disk", "model", "data")]
    assert lines[1].endswith("gpu0: 12.0 GiB of 16.0 free, 11.0 needed")
    bad = server.ctl("--json", "preflight", "--ram", "900T", "--vram", "14G", "--disk", "900T")
    assert bad.returncode == 1
    told = json.loads(bad.stdout)
    assert not told["ok"]
    assert {check["name"] for check in told["checks"] if not check["ok"]} == {"memory", "gpu", "disk"}
    server.layout.data.images.joinpath("a.jpg").unlink()
    empty = server.ctl("preflight")
    assert empty.returncode == 1
    assert "LACKS  data    there are no validated images to learn from yet" in empty.stdout
    assert server.ctl("preflight", "--ram", "some").returncode == 2


def test_by_hand_without_anything_says_what_is_missing(server: Installation) -> None:
    done = server.ctl("preflight", AZAION_ROOT_DIR="")
    assert done.returncode == 1
    assert "AZAION_ROOT_DIR" in done.stderr
