"""The power is cut while a training saves its checkpoints: it goes on from the last one that it had saved.

AZAION_POWER and AZAION_SEED as for the other runs.
"""

import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from azaion import files
from azaion.layout import RunFolder
from tests.powerloss.runs import Marks, layout_of
from tests.powerloss.test_power_loss import CODE, Recording, after_a_cut
from tests.powerloss.trace import Call, strace, traced
from tests.tallies import tally
from workers.training import environment
from workers.training.checkpoint import CheckpointStore

pytestmark = pytest.mark.skipif(strace() is None, reason="needs strace: apt-get install strace")

STATES = 300
EPOCHS = 4
BEST = 2


def content(epoch: int) -> bytes:
    """What torch writes is a zip archive, here the same at any time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), f"epoch {epoch} " * 500)
    return stream.getvalue()


def run_of(folder: Path) -> RunFolder:
    return RunFolder(path=layout_of(folder).job(1, "u").run)


def save(store: CheckpointStore, epoch: int) -> None:
    data = content(epoch)
    store.save(data, epoch=epoch, epochs=9, fitness=0.5, best=epoch == BEST, finished=False, period=2)


def training(folder: Path) -> None:
    """What the daemon and the trainer do to the folders of a run, and what the trainer saves."""
    marks, run = Marks(folder), run_of(folder)
    files.make_folder(layout_of(folder).job(1, "u").attempt(1).path)
    environment.prepare(run)
    store = CheckpointStore(run)
    assert store.open() is None
    for epoch in range(1, EPOCHS + 1):
        save(store, epoch)
        marks.put(str(epoch))


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    with tempfile.TemporaryDirectory(prefix="az-", ignore_cleanup_errors=True) as folder:
        told = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CODE), "PYTHONDONTWRITEBYTECODE": "1"}
        calls = traced([sys.executable, "-m", "tests.powerloss.test_checkpoints", folder], told, Path(folder))
        yield Recording(Path(folder), calls)


def of_the_libraries(call: Call) -> bool:
    """What they keep may be lost."""
    return "/.cache/" in call.path


def goes_on(folder: Path, told: list[str]) -> None:
    run = run_of(folder)
    files.make_folder(run.weights)
    store = CheckpointStore(run)
    found = store.open()
    epoch = found.generation.epoch if found is not None else 0
    # One that was being saved may be there already.
    assert epoch - len(told) in {0, 1}
    if found is None:
        return
    assert found.path.read_bytes() == content(epoch)
    best = store.best(otherwise=found)
    assert best.path.read_bytes() == content(best.generation.epoch)
    assert best.generation.epoch == BEST or epoch <= BEST
    save(store, epoch + 1)
    again = CheckpointStore(run).open()
    assert again is not None
    assert again.generation.epoch == epoch + 1


def test_a_training_goes_on_from_what_it_has_saved(recording: Recording) -> None:
    count = STATES * int(os.environ.get("AZAION_POWER", "1"))
    tried = 0
    with closing(after_a_cut(recording.disk(of_the_libraries), recording.folder, count)) as states:
        for _, told in states:
            goes_on(recording.folder, told)
            tried += 1
    tally(
        "state of the disk after a power cut: training", tried, "it goes on from the last checkpoint that it had saved"
    )


if __name__ == "__main__":
    training(Path(sys.argv[1]))
