"""A stand-in for torchvision where the installed one cannot be imported.

PyPI's torchvision wheel is built for CUDA: beside a CPU torch its import fails (``torchvision::nms does not exist``),
and ultralytics cannot validate without it. It needs one function of it only.
"""

import importlib
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)


def provide() -> bool:
    """Make ``torchvision.ops.nms`` importable; does nothing where the native import works.

    Returns:
        Whether the stand-in is in use.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        logger.warning("torchvision cannot be imported (%s); boxes are suppressed by OpenCV instead", error)
    else:
        return False
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "torchvision":
            del sys.modules[name]
    package, operations = ModuleType("torchvision"), ModuleType("torchvision.ops")
    # Other libraries ask importlib whether torchvision is there, which fails on a module without a spec.
    package.__spec__ = ModuleSpec("torchvision", None, is_package=True)
    operations.__spec__ = ModuleSpec("torchvision.ops", None)
    package.__path__ = []
    operations.nms = suppress  # type: ignore[attr-defined]
    package.ops = operations  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.ops": operations}
    return True


def suppress(boxes: Any, scores: Any, threshold: float) -> Any:
    """Non-maximum suppression with torchvision's contract.

    Args:
        boxes: tensor (N, 4) of corners x1, y1, x2, y2.
        scores: tensor (N,), each above zero.
        threshold: boxes that overlap a better one by more than this (intersection over union) are dropped.

    Returns:
        Indices of the boxes that stay, best first.
    """
    import cv2  # noqa: PLC0415 - heavy, and of no use where torchvision works
    import torch  # noqa: PLC0415 - the same

    corners = boxes.detach().double().cpu().numpy().copy()
    corners[:, 2:] -= corners[:, :2]
    kept = cv2.dnn.NMSBoxes(corners, scores.detach().float().cpu().numpy(), 0.0, threshold)
    return torch.as_tensor(kept, dtype=torch.int64, device=boxes.device).reshape(-1)
