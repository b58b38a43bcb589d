"""Tells the daemon how far the run is."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from azaion import progress
from azaion.layout import AttemptFolder
from azaion.progress import Progress

#: Seconds between two reports at least, except where something changed that a reader waits for.
_INTERVAL: Final = 0.5

#: How much the newest epoch counts in the smoothed time of an epoch.
_SMOOTHING: Final = 0.3

#: Batches before which an estimate from the first epoch is worth nothing: the first ones warm caches.
_BATCHES_BEFORE_ESTIMATE: Final = 3

logger = logging.getLogger(__name__)


class Reporter:
    """Writes ``progress.json``, at most about twice a second, and a line of ``metrics.jsonl`` for each epoch.

    A batch costs microseconds. A report that cannot be written (a full disk) is no reason to end a run.
    """

    def __init__(self, folder: AttemptFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._now = Progress(phase="starting")
        self._written_at = float("-inf")
        self._epoch_began = 0.0
        self._epoch_s: float | None = None
        self._trained_batches = 0

    def phase(self, phase: str, *, batches: int = 0) -> None:
        """Something else begins."""
        self._now = replace(self._now, phase=phase, batch=0, batches=batches)
        self._write()

    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` pieces of the phase are done."""
        self._now = replace(self._now, batch=done, batches=total)
        self._write_seldom()

    def batch(self) -> None:
        """One more batch of the phase is done."""
        self._now = replace(self._now, batch=self._now.batch + 1)
        if self._now.phase == "training":
            self._trained_batches = self._now.batch
        self._write_seldom()

    def epoch_begins(self, epoch: int, *, epochs: int, batches: int, gpu_mem_gb: float | None = None) -> None:
        """Epoch ``epoch`` (from 1) begins."""
        self._epoch_began = self._clock()
        self._trained_batches = 0
        self._now = replace(
            self._now,
            phase="training",
            epoch=epoch,
            epochs=epochs,
            batch=0,
            batches=batches,
            gpu_mem_gb=gpu_mem_gb,
        )
        self._write()

    def epoch_ends(self, metrics: Mapping[str, float], *, gpu_mem_gb: float | None = None) -> None:
        """The epoch is done, its checkpoint durable."""
        took = self._clock() - self._epoch_began
        self._epoch_s = took if self._epoch_s is None else self._epoch_s + _SMOOTHING * (took - self._epoch_s)
        self._epoch_began = self._clock()
        self._trained_batches = 0
        self._now = replace(self._now, metrics=dict(metrics), gpu_mem_gb=gpu_mem_gb)
        line = {
            "epoch": self._now.epoch,
            "epochs": self._now.epochs,
            "time": time.time(),
            "metrics": self._now.metrics,
            "epoch_s": round(took, 3),
        }
        _append(self._folder, json.dumps(line))
        self._write(epochs_left=self._now.epochs - self._now.epoch)

    def ends(self, metrics: Mapping[str, float]) -> None:
        """The run is done, with these figures."""
        self._now = replace(self._now, metrics={**self._now.metrics, **metrics})
        self._write()

    def _eta(self, epochs_left: int | None) -> float | None:
        """Seconds to the end of the last epoch, or None as long as nobody can know."""
        now = self._now
        if not now.epoch:
            return None
        if epochs_left is None:
            epochs_left = now.epochs - now.epoch + 1
        in_epoch = self._clock() - self._epoch_began
        if self._epoch_s is not None:
            return max(0.0, self._epoch_s * epochs_left - in_epoch)
        if now.phase == "training" and self._trained_batches >= _BATCHES_BEFORE_ESTIMATE:
            return in_epoch / self._trained_batches * now.batches * epochs_left - in_epoch
        return None

    def _write_seldom(self) -> None:
        if self._clock() - self._written_at >= _INTERVAL:
            self._write()

    def _write(self, *, epochs_left: int | None = None) -> None:
        self._written_at = self._clock()
        eta = self._eta(epochs_left)
        self._now = replace(self._now, eta_s=None if eta is None else round(eta, 1))
        try:
            progress.write_progress(self._folder, self._now)
        except OSError as error:
            logger.warning("progress could not be written: %s", error)


def _append(folder: AttemptFolder, line: str) -> None:
    descriptor = os.open(folder.metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as stream:
        stream.write(line.encode() + b"\n")
