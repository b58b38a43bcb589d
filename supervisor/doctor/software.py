"""What is installed, and what is configured."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from azaion import __version__
from supervisor import processes
from supervisor.control.client import Client, ClientError, UnreachableError
from supervisor.doctor.model import Diagnosis, Patient, ill, weak, well
from supervisor.gpus import Probe

_DISTRIBUTION: Final = "azaion-training"
#: What the units ask of systemd.
_SYSTEMD: Final = 252
#: How long torch may take to be imported and to find its GPUs.
_TORCH_S: Final = 60.0
_TORCH: Final = (
    "import json, torch; print(); print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.device_count()]))"
)
_PINNED: Final = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*([^\\]+))?")
_SHOWN: Final = 5


def configuration(patient: Patient) -> list[Diagnosis]:
    """Whether the configuration can be used."""
    if patient.env_file is None and len(patient.problems) > _SHOWN:
        names = _some([problem.partition(":")[0] for problem in patient.problems])
        cure = "cd to the folder of your .env; if there is none: cp .env.example .env, and fill it in"
        return [ill("configuration", f"there is no .env in this folder, and the environment lacks {names}", cure)]
    if patient.problems:
        return [ill("configuration", problem, "azaionctl config check") for problem in patient.problems]
    where = patient.env_file or "the environment"
    return [well("configuration", f"{where} is good")]


def python(_patient: Patient) -> list[Diagnosis]:
    """Whether this interpreter will do."""
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata(_DISTRIBUTION)["Requires-Python"]
    if not _fits(found, wanted):
        return [ill("python", f"{found}, wanted is {wanted}", "uv venv --python 3.11 .venv, then install again")]
    return [well("python", f"{found}, {sys.executable}")]


def packages(_patient: Patient) -> list[Diagnosis]:
    """Whether what is installed is what was tested together."""
    lock = Path(__file__).parents[2] / "requirements" / "train.lock"
    # A wheel has no lock beside it, but knows what it needs.
    wanted = dict(_locked(lock.read_text(encoding="utf-8"))) if lock.exists() else {}
    exact = {name: version for name, version in _required() if name not in wanted}
    missing, other = [], []
    for name, version in {**wanted, **exact}.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version and found.partition("+")[0] != version.partition("+")[0]:
            other.append(f"{name} {found} for {version}")
    cure = f"{sys.executable} -m pip install -r {lock}" if lock.exists() else "install the release again"
    said = []
    if missing:
        said.append(ill("packages", f"missing: {_some(missing)}", f"{cure}; pip install torch torchvision: README.md"))
    if other:
        said.append(weak("packages", f"not what was tested: {_some(other)}", cure))
    return said or [well("packages", f"{len(wanted) + len(exact)} as they were tested")]


def _locked(text: str) -> Iterator[tuple[str, str]]:
    from packaging.markers import Marker  # noqa: PLC0415 - whatever is missing, the rest is looked at

    for line in text.splitlines():
        found = _PINNED.match(line)
        if found and (found[3] is None or Marker(found[3].strip()).evaluate()):
            yield found[1], found[2]


def _required() -> Iterator[tuple[str, str]]:
    """What the package asks for itself, with a version where it asks for just one."""
    for line in metadata.requires(_DISTRIBUTION) or []:
        needed, _, marker = line.partition(";")
        if "extra" in marker and "'train'" not in marker:
            continue
        if found := re.match(r"([A-Za-z0-9._-]+)(?:==([^\s;,]+)$)?", needed.strip()):
            yield found[1], found[2] or ""


def _fits(version: str, wanted: str | None) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - as above

    return version in SpecifierSet(wanted or "")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


async def gpus(patient: Patient) -> list[Diagnosis]:
    """Whether the driver shows GPUs and torch can use them."""
    wanted = patient.config is None or patient.config.daemon.gpu_ids != ()
    reading, torch = await asyncio.gather(Probe().ask(), _torch())
    driver = "look: nvidia-smi; sudo dmesg | grep -i nvrm; after an upgrade of the driver: sudo reboot"
    said = []
    if not wanted:
        said.append(well("driver", "AZAION_GPUS=none: no GPU is used"))
    elif reading.problem:
        said.append(ill("driver", reading.problem, driver))
    elif reading.absent:
        cure = "sudo apt install nvidia-driver && sudo reboot; without a GPU: AZAION_GPUS=none in .env"
        said.append(weak("driver", f"{reading.absent}: trainings run on the CPU", cure))
    else:
        bad = [gpu for gpu in reading.gpus if gpu.problem]
        said += [ill("driver", f"GPU {gpu.number}: {gpu.problem}", driver) for gpu in bad]
        names = ", ".join(gpu.name or str(gpu.number) for gpu in reading.gpus)
        said += [] if bad else [well("driver", f"{len(reading.gpus)} GPUs: {names}")]
    needed = len(reading.gpus) if wanted else 0
    return [*said, _judge_torch(torch, needed)]


def _judge_torch(found: tuple[str, str | None, int] | str, gpus: int) -> Diagnosis:
    install = f"{sys.executable} -m pip install --force-reinstall torch torchvision, with CUDA: docs/gpu.md"
    if isinstance(found, str):
        return ill("torch", found, install)
    version, cuda, count = found
    if gpus and cuda is None:
        return ill("torch", f"{version} is built without CUDA", install)
    if count < gpus:
        cure = "look: nvidia-smi (its CUDA version must not be older); echo $CUDA_VISIBLE_DEVICES"
        return ill("torch", f"{version}, CUDA {cuda}, sees {count} of {gpus} GPUs", cure)
    return well("torch", f"{version}, {f'CUDA {cuda}, {count} GPUs' if cuda else 'for the CPU'}")


async def _torch() -> tuple[str, str | None, int] | str:
    """What torch says of itself, in a child: it is large, and may hang at a sick GPU."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as answer, _child(write) as process:
        os.close(write)
        try:
            async with asyncio.timeout(_TORCH_S):
                code = await processes.finished(process)
        except TimeoutError:
            return f"does not come up within {_TORCH_S:g} s"
        finally:
            if process.poll() is None:
                process.kill()
        if code != 0:
            return f"cannot be imported (exit code {code})"
        version, cuda, count = json.loads(answer.read().rstrip().rpartition(b"\n")[2])
        return version, cuda, count


def _child(write: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _TORCH], stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL
    )


def systemd(_patient: Patient) -> list[Diagnosis]:
    """Whether there is a systemd that is new enough to run the daemon."""
    try:
        told = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S607 - the user's own
        found = re.match(r"systemd (\d+)", told.stdout)
    except (OSError, subprocess.TimeoutExpired):
        found = None
    if found is None:
        return [weak("systemd", "there is none; azaiond must be started by hand", "azaiond, under a supervisor")]
    if int(found[1]) < _SYSTEMD:
        return [weak("systemd", f"{found[1]}, wanted is {_SYSTEMD}", "sudo apt full-upgrade, to Debian 12 or later")]
    if not Path("/run/systemd/system").is_dir():
        text = f"{found[1]} is installed and does not run this machine; azaiond must be started by hand"
        return [weak("systemd", text, "azaiond, under a supervisor")]
    return [well("systemd", found[1])]


def daemon(patient: Patient) -> list[Diagnosis]:
    """Whether the daemon answers and is what this command is."""
    try:
        told = Client(patient.socket).get("/v1/status", timeout=10)["daemon"]
    except UnreachableError as error:
        return [weak("azaiond", str(error), "azaiond, or sudo systemctl start azaion; then: azaionctl status")]
    except ClientError as error:
        return [ill("azaiond", str(error), "journalctl -u azaion -n 50")]
    if told["version"] != __version__:
        text = f"{told['version']} runs, this command is {__version__}"
        return [weak("azaiond", text, "sudo systemctl restart azaion (no run is interrupted)")]
    return [well("azaiond", f"{told['version']}, pid {told['pid']}")]
