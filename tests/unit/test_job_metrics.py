"""What the daemon reads of a worker's own files."""

import json
from pathlib import Path

import pytest

from azaion import progress
from azaion.layout import AttemptFolder
from azaion.progress import Progress
from supervisor.jobs import metrics

SIZE = 200 << 10


def line(epoch: object, **more: object) -> bytes:
    return json.dumps({"epoch": epoch, "metrics": {"loss": float("nan")}, **more}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "epochs"),
    [
        (b"", (0, 0)),
        (line(1), (1, 1)),
        (b"".join(map(line, range(3, 9))), (3, 8)),
        (b"".join(line(epoch, note="x" * 1000) for epoch in range(1, 501)), (1, 500)),
        # Torn, of another kind, or no epoch at all.
        (line(2) + line(3)[:-9], (2, 2)),
        (b"[]\n{}\n" + line(True) + line(0) + line(1 << 40) + b"\xff\n" + line(5) + line("6"), (5, 5)),
        # However large: what is neither at its beginning nor at its end is not looked at.
        (b"{" * SIZE + line(4) + b"[" * SIZE, (0, 0)),
        (line(1) + b"\n" * SIZE + line(7), (1, 7)),
    ],
)
def test_the_epochs_are_at_both_ends(tmp_path: Path, content: bytes, epochs: tuple[int, int]) -> None:
    folder = AttemptFolder(path=tmp_path)
    assert metrics.epochs_told(folder) == (0, 0)
    folder.metrics.write_bytes(content)
    assert metrics.epochs_told(folder) == epochs


def test_progress_is_small_or_none(tmp_path: Path) -> None:
    folder = AttemptFolder(path=tmp_path)
    assert metrics.progress(folder) == {}
    progress.write_progress(folder, Progress(phase="training", epoch=3, epochs=10, metrics={"loss": 0.5}))
    assert (metrics.progress(folder)["epoch"], metrics.progress(folder)["metrics"]) == (3, {"loss": 0.5})
    folder.progress.write_bytes(folder.progress.read_bytes() + b" " * SIZE)
    assert metrics.progress(folder) == {}
    folder.progress.write_bytes(b'{"phase": ' + b"[" * 10_000)
    assert metrics.progress(folder) == {}
    folder.progress.write_bytes(b'{"phase": "training", "epochs": 1%s}' % (b"0" * 400))
    assert metrics.progress(folder) == {}
