"""Whatever becomes of the files of checkpoints, a training goes on from what it has saved itself, or says why not.

AZAION_FUZZ says how often (a 20th of it), AZAION_SEED replays a run.
"""

import os
import random
import shutil
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Final

from azaion.layout import RunFolder
from tests.faults.test_state_fuzz import KINDS, spoil
from tests.tallies import tally
from tests.unit.test_checkpoint import content, save
from workers.training.checkpoint import CheckpointStore
from workers.training.errors import CheckpointError

CASES: Final = max(1, int(os.environ.get("AZAION_FUZZ", "20000")) // 20)
_EPOCHS: Final = 5


def test_anything_in_place_of_checkpoints_is_never_gone_on_from(tmp_path: Path) -> None:
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed} AZAION_FUZZ={CASES * 20}")
    good = RunFolder(path=tmp_path / "good")
    good.weights.mkdir(parents=True)
    for epoch in range(1, _EPOCHS + 1):
        save(CheckpointStore(good), epoch, period=2) if epoch == 1 else _go_on(good, epoch)
    ends: Counter[str] = Counter()
    for number in range(CASES):
        try:
            ends[_one(random.Random(seed + number), good, tmp_path)] += 1
        except BaseException:
            print(f"AZAION_SEED={seed + number} AZAION_FUZZ=20")
            raise
    assert len(ends) == 3 or CASES < 300, ends
    tally("files of checkpoints spoilt", CASES, "gone on from what was saved, or from nothing", str(dict(ends)))


def _go_on(run: RunFolder, epoch: int) -> None:
    store = CheckpointStore(run)
    store.open()
    save(store, epoch, period=2)


def _one(rng: random.Random, good: RunFolder, folder: Path) -> str:
    run = RunFolder(path=folder / "run")
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.copytree(good.path, run.path)
    chosen = rng.sample(sorted(path for path in run.path.rglob("*") if path.is_file()), rng.choice((1, 1, 2, 3)))
    for path in chosen:
        spoil(rng, path, rng.choice(KINDS), folder / "theirs")
    left = Counter(_files(run.path).values())
    store = CheckpointStore(run)
    found = refusal = None
    try:
        found = store.open()
    except CheckpointError as error:
        refusal = str(error)
    if refusal is not None:
        assert str(run.path) in refusal
        # Nothing that a person could still have a use for is gone.
        assert not left - Counter(_files(run.path).values())
        assert {run.last, run.previous, run.manifest} & set(chosen)
        return "refused"
    assert found is not None, "checkpoints were completed, and it would begin afresh"
    epoch = found.generation.epoch
    assert found.path.read_bytes() == content(epoch)
    intact = not {run.last, run.manifest} & set(chosen)
    assert epoch == _EPOCHS or (epoch == _EPOCHS - 1 and not intact)
    best = store.best(found)
    assert best.path.read_bytes() == content(best.generation.epoch)
    # And it can go on.
    save(store, epoch + 1, period=2)
    again = CheckpointStore(run).open()
    assert again is not None
    assert again.path.read_bytes() == content(epoch + 1)
    return "the last" if epoch == _EPOCHS else "the one before"


def _files(folder: Path) -> dict[Path, str]:
    """What is in the files, by place; of what is none, nothing."""
    regular = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path: sha256(path.read_bytes()).hexdigest() for path in regular if path.stat().st_size < 1 << 20}
