# ruff: noqa: INP001 - a program of its own
"""Sends annotations to the broker as the platform would, and waits until the annotation queue has them on the disk.

Runs in the image `azaion/annotation-queue`, beside the container that is tried: docker-compose.test.yml.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from PIL import Image

from azaion import config
from azaion.environment import env_file

COUNT: Final = 20
LIMIT_S: Final = 60.0
DATA: Final = config.settings(os.environ, env_file(os.environ)).layout.data


def main() -> str | None:
    """Send, and wait; returns what is wrong, None if all is well."""
    names = {f"check-{time.time_ns()}-{number}" for number in range(COUNT)}
    with TemporaryDirectory() as folder:
        for colour, name in enumerate(names):
            Image.new("RGB", (64, 64), (10 * colour, 0, 0)).save(Path(folder, f"{name}.jpg"))
            Path(folder, f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
        subprocess.run(["azaionctl", "annotations", "publish", folder], check=True)  # noqa: S607 - the image's own
    deadline = time.monotonic() + LIMIT_S
    while (missing := names - present()) and time.monotonic() < deadline:
        time.sleep(0.2)
    print(f"{COUNT - len(missing)} of {COUNT} annotations are on the disk")  # noqa: T201 - for whoever looks on
    return f"{len(missing)} of {COUNT} annotations have not come within {LIMIT_S:g} s" if missing else None


def present() -> set[str]:
    """The annotations that are whole: an image and its label."""
    images, labels = ({path.stem for path in folder.iterdir()} for folder in (DATA.images, DATA.labels))
    return images & labels


if __name__ == "__main__":
    sys.exit(main())
