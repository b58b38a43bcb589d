"""One tiny training for all tests of what comes after it, and registries made of what it has left."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from azaion import config, files, models
from azaion.layout import AttemptFolder, Layout
from azaion.models import Model
from tests.training_runs import UID, World

#: Enough to be sure of a few boxes.
EPOCHS = 15
#: The checkpoint of so many is kept.
FEW = 5
IMAGES = 40


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training has left.

    Attributes:
        root: with one model, its dataset and the annotations.
        good: the finished model.
        weak: the same after a few epochs.
        card: of the finished one.
    """

    root: Path
    good: Path
    weak: Path
    card: dict[str, Any]


def train(folder: Path) -> Trained:
    """Train for some seconds. Nothing is put to use."""
    world = World(folder, images=IMAGES)
    ending = world.finish(world.file(1, epochs=EPOCHS, save_period=FEW, promote=False))
    assert ending.code == 0, ending.log
    assert "waits for its evaluation" in ending.result["message"]
    assert models.current(world.layout) is None
    (model,) = models.load_all(world.layout)
    return Trained(
        root=world.layout.root, good=model.weights, weak=world.run_folder.periodic(FEW), card=dict(model.card)
    )


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a worker ended."""

    code: int
    result: dict[str, Any]
    log: str


class Workshop:
    """A registry of its own, and the workers that work on it."""

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder = folder
        self._trained = trained
        shutil.copytree(trained.root, folder / "root", symlinks=True)
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
        self.layout: Layout = settings.layout
        config.make_folders(self.layout)
        config.write(settings, self.layout.config)
        self._gate = settings.daemon.declarations

    @property
    def good(self) -> Model:
        """The model of the training."""
        found = models.find(self.layout, UID)
        assert found is not None
        return found

    def weak(self, key: str = "weak") -> Model:
        """A worse model with the same data."""
        return register(self.layout, self._trained, key)

    def rules(self, **rules: Any) -> None:
        """Declare a gate."""
        self._gate.write_text(yaml.safe_dump({"gate": rules}))

    def file(self, kind: str, uid: str, attempt: int = 1, **parameters: Any) -> AttemptFolder:
        """Write the spec of an attempt, as the daemon does."""
        job = self.layout.job(7, uid)
        folder = job.attempt(attempt)
        folder.path.mkdir(parents=True)
        spec = {
            "protocol": 1,
            "job": 7,
            "uid": uid,
            "attempt": attempt,
            "nonce": f"nonce-{attempt}",
            "kind": kind,
            "argv": [],
            "cwd": "/",
            "env": {},
            "config": str(self.layout.config),
            "run": str(job.run),
            kind: parameters,
        }
        files.write_json(folder.spec, spec)
        return folder

    def finish(self, attempt: AttemptFolder, failpoints: str = "") -> Ending:
        """Run the worker on an attempt to its end."""
        kind = files.read_json(attempt.spec)["kind"]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "AZAION_FAILPOINTS": failpoints,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"workers.{kind}", str(attempt.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
            cwd="/",
            timeout=150,
            check=False,
        )
        result = files.read_json(attempt.result) if attempt.result.exists() else {}
        return Ending(code=done.returncode, result=result, log=done.stdout + done.stderr)


def register(layout: Layout, trained: Trained, key: str) -> Model:
    """Register the weak model."""
    card = {name: value for name, value in trained.card.items() if name not in {"key", "attempt", "created", "weights"}}
    return models.register(
        layout,
        key=key,
        attempt=1,
        weights=trained.weak,
        card=card,
        files={},
        today=datetime.now(UTC).date(),
    )
