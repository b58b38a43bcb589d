"""In what an attempt has run: versions, processor, GPU, host. Of use when two runs differ and nobody knows why."""

import os
import platform
from importlib import metadata
from typing import Any, Final

import torch

from azaion import BUILD

_PACKAGES: Final = ("torch", "ultralytics-opencv-headless", "numpy")


def facts() -> dict[str, Any]:
    """What is known of it, by names for people. Never fails: what cannot be found is left out."""
    found: dict[str, Any] = {"release": BUILD, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.split("-", 1)[0]] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # `platform` would start a process to ask.
    machine = os.uname()
    found |= {
        "host": machine.nodename,
        "system": f"{machine.sysname} {machine.release} {machine.machine}",
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    return found | {"gpus": _gpus()} | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    devices = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
    return [{"name": device.name, "memory": device.total_memory} for device in devices]
