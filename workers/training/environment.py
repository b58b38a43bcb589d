"""Keeps ultralytics, torch and matplotlib off the network and inside the run folder."""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from azaion import files
from azaion.layout import RunFolder

#: A Unix socket's path, which multiprocessing makes in the temporary folder, may not be longer: 108 less its own part.
_LONGEST_TEMPORARY_FOLDER = 64

#: ultralytics fetches these two from the network where it does not find them.
_FONTS = ("Arial.ttf", "Arial.Unicode.ttf")


def prepare(run: RunFolder) -> None:
    """Set the environment. Must come before the first import of torch, ultralytics or matplotlib."""
    cache = run.cache
    # First: who only makes folders leaves their names, and so what is saved below them, to a power loss.
    files.make_folder(run.weights)
    # Left by an attempt that was killed.
    files.remove_tree(cache / "tmp")
    for folder in (run.path, run.train):
        files.remove_temporaries(folder)
    for folder in (cache / "ultralytics" / "Ultralytics", cache / "matplotlib", cache / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_CONFIG_DIR": str(cache / "ultralytics"),
        "ULTRALYTICS_SAFE_LOAD": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "TORCH_HOME": str(cache / "torch"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # A launcher's leftovers would make ultralytics believe in a distributed run.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ULTRALYTICS_API_KEY"):
        os.environ.pop(name, None)
    sys.dont_write_bytecode = True
    if len(str(cache / "tmp")) <= _LONGEST_TEMPORARY_FOLDER:
        os.environ["TMPDIR"] = tempfile.tempdir = str(cache / "tmp")
    _lay_out_fonts(cache / "ultralytics" / "Ultralytics")
    os.chdir(run.path)


def settle(run: RunFolder) -> None:
    """Turn off everything in ultralytics' settings that would talk to somebody; ultralytics is imported by this."""
    from ultralytics import settings  # noqa: PLC0415 - must not be imported before `prepare`

    settings.update(
        datasets_dir=str(run.cache / "datasets"),
        weights_dir=str(run.cache / "weights"),
        runs_dir=str(run.cache / "runs"),
        **dict.fromkeys(("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"), False),
    )


def _lay_out_fonts(folder: Path) -> None:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return
    font = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in _FONTS:
        if not (folder / name).exists():
            shutil.copyfile(font, folder / name)
