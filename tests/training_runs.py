"""A small world to train in: drawn shapes, an attempt's folder, and the real worker as a child process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from azaion import config, files
from azaion.layout import AttemptFolder, Layout, RunFolder

UID = "9f3a1c2d"
CLASSES = [{"Id": 0, "Name": "disc", "Color": "#ff0000"}, {"Id": 1, "Name": "square", "Color": "#00ff00"}]

#: Hyperparameters with which a tiny model learns in seconds; `nbs` as the batch, or it steps once an epoch.
QUICK: Mapping[str, Any] = {
    "nbs": 4,
    "optimizer": "AdamW",
    "lr0": 0.01,
    "warmup_epochs": 1.0,
    "mosaic": 0.0,
    "plots": False,
}


def draw_shapes(layout: Layout, *, images: int, size: int, seed: int = 1) -> None:
    """Fill the validated annotations with discs and squares on noise, and their labels."""
    generator = random.Random(seed)
    for folder in (layout.data.images, layout.data.labels):
        folder.mkdir(parents=True, exist_ok=True)
    layout.classes.write_text(json.dumps(CLASSES))
    for number in range(images):
        noise = Image.frombytes("L", (size, size), generator.randbytes(size * size))
        image = noise.point(lambda value: 96 + value // 4).convert("RGB")
        pen = ImageDraw.Draw(image)
        lines = []
        for kind in (0, 1):
            edge = generator.randint(size // 5, size // 3)
            # One in each half, so that they never cover each other.
            left = generator.randint(0, size // 2 - edge) + kind * size // 2
            top = generator.randint(0, size - edge)
            box = (left, top, left + edge, top + edge)
            if kind == 0:
                pen.ellipse(box, fill=(230, 40, 40))
            else:
                pen.rectangle(box, fill=(40, 60, 230))
            centre = ((left + edge / 2) / size, (top + edge / 2) / size)
            lines.append(f"{kind} {centre[0]:.6f} {centre[1]:.6f} {edge / size:.6f} {edge / size:.6f}\n")
        name = f"shape-{number:04}"
        image.save(layout.data.images / f"{name}.jpg", quality=95)
        (layout.data.labels / f"{name}.txt").write_text("".join(lines))


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a worker ended."""

    code: int
    result: dict[str, Any]
    epochs: list[int]
    log: str


class World:
    """A configured tree with data, and one training job in it."""

    def __init__(self, folder: Path, *, images: int = 24, size: int = 96) -> None:
        self.folder = folder
        (folder / "root").mkdir(parents=True)
        (folder / "home").mkdir()
        settings = config.settings(
            {
                "AZAION_ROOT_DIR": str(folder / "root"),
                "AZAION_STATE_DIR": str(folder / "state"),
                "AZAION_SOCKET": str(folder / "socket"),
                "AZAION_SOURCE": "spool",
                "AZAION_PUBLISH_TARGET": "none",
                "AZAION_DATA_DIR": "data",
                "AZAION_DATA_SEED_DIR": "data-seed",
                "AZAION_DATA_DELETED_DIR": "data_deleted",
                "TRAINING_MODEL": "yolo26t.yaml",
                "TRAINING_EPOCHS": "3",
                "TRAINING_BATCH_SIZE": "4",
                "TRAINING_IMGSZ": "96",
                "TRAINING_SAVE_PERIOD": "1",
                "TRAINING_WORKERS": "0",
                "EXPORT_ONNX_IMGSZ": "96",
            },
            None,
        )
        self.layout = settings.layout
        config.make_folders(self.layout)
        config.write(settings, self.layout.config)
        if images:
            draw_shapes(self.layout, images=images, size=size)
        self.job = self.layout.job(42, UID)

    @property
    def run_folder(self) -> RunFolder:
        """The run."""
        return RunFolder(path=self.job.run)

    def file(self, number: int, *, overrides: Mapping[str, Any] = QUICK, **parameters: Any) -> AttemptFolder:
        """Write the spec of attempt ``number``, as the daemon does."""
        attempt = self.job.attempt(number)
        attempt.path.mkdir(parents=True)
        train = {
            "model": "yolo26t.yaml",
            "epochs": 3,
            "batch": 4,
            "imgsz": 96,
            "save_period": 1,
            "workers": 0,
            "dataset": None,
            "overrides": dict(overrides),
        }
        spec = {
            "protocol": 1,
            "job": 42,
            "uid": UID,
            "attempt": number,
            "nonce": f"nonce-{number}",
            "kind": "train",
            "argv": [],
            "cwd": "/",
            "env": {},
            "config": str(self.layout.config),
            "run": str(self.job.run),
            "train": train | parameters,
        }
        files.write_json(attempt.spec, spec)
        return attempt

    def start(self, attempt: AttemptFolder, **environment: str) -> subprocess.Popen[bytes]:
        """Start the worker on an attempt."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        }
        if "PYTHONPATH" in os.environ:
            env.setdefault("PYTHONPATH", os.environ["PYTHONPATH"])
        with attempt.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.train", str(attempt.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd="/",
            )

    def finish(self, attempt: AttemptFolder, **environment: str) -> Ending:
        """Run the worker on an attempt to its end."""
        process = self.start(attempt, **environment)
        process.wait(timeout=150)
        return self.ending(attempt, process)

    def ending(self, attempt: AttemptFolder, process: subprocess.Popen[bytes]) -> Ending:
        """What a worker that has ended left behind."""
        return Ending(
            code=process.wait(timeout=150),
            result=files.read_json(attempt.result) if attempt.result.exists() else {},
            epochs=epochs_done(attempt),
            log=attempt.log.read_text(errors="replace"),
        )


def epochs_done(attempt: AttemptFolder) -> list[int]:
    """The epochs that an attempt has reported as done."""
    if not attempt.metrics.exists():
        return []
    return [json.loads(line)["epoch"] for line in attempt.metrics.read_text().splitlines()]


def phase(attempt: AttemptFolder) -> str:
    """What an attempt says it is doing."""
    return str(files.read_json(attempt.progress)["phase"]) if attempt.progress.exists() else ""


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], *, seconds: float = 60.0) -> None:
    """Wait until ``condition`` holds; fail if the worker ends before, or time runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the worker ended with {process.returncode} too early"
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a worker of ours for good."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def tree(*folders: Path) -> dict[str, str]:
    """Every file below ``folders``, with its SHA-256."""
    return {
        str(path): files.sha256(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
