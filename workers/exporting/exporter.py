"""Ultralytics' exporter, and both models at work on the same pictures."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import nms, ops

from workers.exporting.parity import CONFIDENCE, Boxes
from workers.exporting.spec import Format
from workers.training.errors import BaseModelError, SpecError
from workers.training.trainer import UNREADABLE

Picture = NDArray[np.float32]
Look = Callable[[Picture], Boxes]

#: Boxes of one class that overlap more are one; ultralytics' own default.
_OVERLAP: Final = 0.7
#: More than anybody compares.
_MOST: Final = 1000
#: Far below any floor, so that nothing is missing just above it.
_ALL: Final = 0.001
#: Seconds; a busy machine is no reason to find less.
_PATIENCE_S: Final = 3600.0


def check(kind: Format) -> None:
    """Make sure that this machine can write a format.

    Raises:
        SpecError: it cannot.
    """
    if kind is not Format.TENSORRT:
        return
    if not torch.cuda.is_available():
        raise SpecError(
            "a TensorRT engine is built on the GPU that is to run it, and this job has none: "
            "export to onnx here, or build the engine on a machine with an NVIDIA GPU"
        )
    if importlib.util.find_spec("tensorrt") is None:
        raise SpecError("TensorRT is not installed: pip install tensorrt, then retry the job")


def export(weights: Path, kind: Format, *, imgsz: int, half: bool, embedded: bool) -> Path:
    """Write a model in another format, beside ``weights``.

    Args:
        weights: a copy of the model of which nobody else knows.
        kind: the format.
        imgsz: the edge of the square that it takes.
        half: whether it computes with 16 bits.
        embedded: whether overlapping boxes are suppressed in it.

    Raises:
        BaseModelError: the weights cannot be loaded.
    """
    try:
        model = YOLO(str(weights))
    except UNREADABLE as error:
        raise BaseModelError(f"the model {weights} cannot be loaded: {' '.join(str(error).split())}") from error
    return Path(
        model.export(
            format=str(kind),
            imgsz=imgsz,
            batch=1,
            # False would take the other head of the network, which nothing here was judged by.
            nms=True if embedded else None,
            conf=CONFIDENCE,
            iou=_OVERLAP,
            quantize=16 if half else None,
            simplify=True,
            device="0" if kind is Format.TENSORRT else "cpu",
        )
    )


def pictures(paths: Sequence[Path], imgsz: int) -> list[Picture]:
    """Images as a model takes them; those that cannot be read are left out."""
    scale = LetterBox((imgsz, imgsz), auto=False)
    read = [image for path in paths if (image := cv2.imread(str(path))) is not None]
    return [_taken(scale(image=image)) for image in read]


def _taken(image: Any) -> Picture:
    """Blue, green, red by rows, columns and colours becomes red, green, blue from 0 to 1 by colours, rows, columns."""
    whole: Picture = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
    whole /= 255
    return whole


def model_look(weights: Path, *, suppressed: bool) -> Look:
    """The model itself, in full precision: its boxes, or what it says of every place."""
    backend = AutoBackend(model=str(weights), device=torch.device("cpu"), fp16=False, end2end=False)
    backend.eval()

    def look(picture: Picture) -> Boxes:
        with torch.inference_mode():
            output = backend(torch.from_numpy(picture))
        return _suppressed(output) if suppressed else _places(output)

    return look


def exported_look(file: Path, kind: Format, *, embedded: bool) -> Look:
    """The exported model: its boxes where their suppression is embedded, or what it says of every place."""
    run = _onnx(file) if kind is Format.ONNX else _tensorrt(file)

    def look(picture: Picture) -> Boxes:
        output = run(picture)
        if not embedded:
            return _places(torch.from_numpy(output))
        boxes: Boxes = output[0].astype(np.float64)
        return boxes[boxes[:, 4] > 0]

    return look


def _onnx(file: Path) -> Callable[[Picture], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(picture: Picture) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, {given.name: picture})[0]
        return output.astype(np.float32)

    return run


def _tensorrt(file: Path) -> Callable[[Picture], NDArray[np.float32]]:
    backend = AutoBackend(model=str(file), device=torch.device("cuda:0"), fp16=False)

    def run(picture: Picture) -> NDArray[np.float32]:
        output: Any = backend(torch.from_numpy(picture).cuda())
        whole: NDArray[np.float32] = (output[0] if isinstance(output, list | tuple) else output).float().cpu().numpy()
        return whole

    return run


def _places(output: Any) -> Boxes:
    """A box for every place of one image, with the class that is likeliest there."""
    whole = output[0] if isinstance(output, list | tuple) else output
    (rows,) = whole.transpose(1, 2).double()
    confidence, kind = rows[:, 4:].max(1)
    boxes: Boxes = torch.cat([ops.xywh2xyxy(rows[:, :4]), confidence[:, None], kind[:, None]], 1).cpu().numpy()
    return boxes


def _suppressed(output: Any) -> Boxes:
    """The boxes of one image, from what the network says of every place."""
    (found,) = nms.non_max_suppression(output, _ALL, _OVERLAP, max_det=_MOST, max_time_img=_PATIENCE_S)
    boxes: Boxes = found.cpu().numpy().astype(np.float64)
    return boxes
