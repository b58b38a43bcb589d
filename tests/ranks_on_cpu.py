"""Trains on two processes of the CPU what is meant for two GPUs: ``python tests/ranks_on_cpu.py ATTEMPT_FOLDER``.

Ultralytics spreads a training over GPUs only. What of it insists on them is replaced here, in the processes of the
ranks: the device, and the way in which they talk.
"""

# ruff: noqa: PLC0415 - nothing heavy may be imported before the worker has prepared for it

import os
import sys
from typing import Any


def worker() -> None:
    """The worker, with other ranks than usual."""
    from workers.training import ranks

    ranks.COMMAND = (sys.executable, __file__, "--rank")
    from workers import train
    from workers.attempt import conduct

    conduct("train", train._begin)


def rank() -> None:
    """One of the two."""
    import torch
    from torch import distributed, nn
    from ultralytics.engine.trainer import BaseTrainer

    begin, whole = BaseTrainer.__init__, nn.parallel.DistributedDataParallel

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.world_size = int(os.environ["WORLD_SIZE"])

    def set_up(self: Any) -> None:
        self.device = torch.device("cpu")
        distributed.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=self.world_size)

    def wrapped(model: Any, device_ids: Any = None, **named: Any) -> Any:  # noqa: ARG001 - only GPUs have any
        return whole(model, **named)

    BaseTrainer.__init__, BaseTrainer._setup_ddp = init, set_up
    nn.parallel.DistributedDataParallel = wrapped
    from workers import rank as ranks

    code = ranks.main()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        sys.argv = sys.argv[1:]
        rank()
    else:
        worker()
