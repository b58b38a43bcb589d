"""Non-maximum suppression that can be written into an ONNX file where torchvision cannot be imported.

The stand-in of `workers.training.nms` computes by OpenCV, of which a trace sees nothing but the result. With this in
its place the trace sees one node ``NonMaxSuppression``, as it does with torchvision's own.
"""

import sys
from typing import Any, Final

import torch
from torch.onnx import symbolic_helper

from workers.training import nms

_NO_LIMIT: Final = (1 << 63) - 1


class Suppression(torch.autograd.Function):  # type: ignore[misc] # torch is untyped here
    """One node of the graph."""

    @staticmethod
    def forward(_context: Any, boxes: Any, scores: Any, threshold: float) -> Any:
        """Compute it."""
        return nms.suppress(boxes, scores, threshold)

    @staticmethod
    @symbolic_helper.parse_args("v", "v", "f")  # type: ignore[untyped-decorator,unused-ignore] # the same
    def symbolic(graph: Any, boxes: Any, scores: Any, threshold: float) -> Any:
        """Write it: the node takes batches and classes of one, and answers in rows whose third column counts."""

        def whole(*values: int) -> Any:
            return graph.op("Constant", value_t=torch.tensor(values, dtype=torch.long))

        batched = graph.op("Unsqueeze", boxes, whole(0))
        scored = graph.op("Unsqueeze", scores, whole(0, 1))
        overlap = graph.op("Constant", value_t=torch.tensor([threshold], dtype=torch.float))
        chosen = graph.op("NonMaxSuppression", batched, scored, whole(_NO_LIMIT), overlap)
        column = graph.op("Gather", chosen, whole(2), axis_i=1)
        return graph.op("Squeeze", column, whole(1))


def provide() -> None:
    """Make ``torchvision.ops.nms`` importable, and fit for an export."""
    nms.provide()
    operations: Any = sys.modules["torchvision.ops"]
    if operations.nms is nms.suppress:
        operations.nms = Suppression.apply
