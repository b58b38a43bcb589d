"""Putting models to use, and going back: what the history says, and what a crash leaves of it."""

import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from azaion import failpoints, files, models, promotions
from azaion.layout import Layout
from azaion.models import MeanwhileError, ModelError, Why
from azaion.promotions import PromotionError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "root"
    (root / "models").mkdir(parents=True)
    return Layout(root=root, state=tmp_path / "state", spool=tmp_path / "spool", socket=tmp_path / "socket")


def make(layout: Layout, *keys: str) -> list[str]:
    made = []
    for key in keys:
        weights = layout.root / f"{key}.pt"
        weights.write_text(key)
        day = date(2026, 11, 22)
        model = models.register(layout, key=key, attempt=1, weights=weights, card={}, files={}, today=day)
        made.append(model.name)
    return made


def test_rolling_back_goes_from_one_to_the_one_before_it(layout: Layout) -> None:
    a, b, c = make(layout, "a", "b", "c")
    for name in (a, b, c):
        models.promote(layout, name, Why(by="mila", reason=f"try {name}"))
    assert models.rollback(layout, Why(by="ivan")).name == b
    assert models.current(layout) == b
    assert models.rollback(layout).name == a
    with pytest.raises(ModelError, match=f"before {a}"):
        models.rollback(layout)
    assert models.current(layout) == a
    models.promote(layout, c)
    assert models.rollback(layout).name == a
    known = promotions.read(layout)
    assert [(each.model, each.before) for each in known] == [
        (a, None),
        (b, a),
        (c, b),
        (b, a),
        (a, None),
        (c, a),
        (a, None),
    ]
    assert (known[1].by, known[1].reason, known[3].by) == ("mila", f"try {b}", "ivan")


def test_a_link_that_was_switched_by_hand_is_what_counts(layout: Layout) -> None:
    a, b, c = make(layout, "a", "b", "c")
    models.promote(layout, a)
    models.promote(layout, b)
    files.switch_link(layout.current_model, f"{c}/azaion.pt")
    assert models.current(layout) == c
    assert models.rollback(layout).name == b
    # As the old procedure had it: "point to the previous model".
    files.switch_link(layout.current_model, f"{a}/azaion.pt")
    assert models.current(layout) == a
    with pytest.raises(ModelError, match="nobody knows"):
        models.rollback(layout)


def test_a_crash_before_the_switch_changes_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = make(layout, "a", "b", "c")
    models.promote(layout, a)
    models.promote(layout, b)

    def hit(step: str) -> None:
        if step == "models.noted":
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "hit", hit)
    with pytest.raises(KeyboardInterrupt):
        models.promote(layout, c, Why(key="job"))
    monkeypatch.undo()
    assert models.current(layout) == b
    # It is written down, and has not happened.
    assert not models.promoted(layout, "job")
    assert models.rollback(layout).name == a
    models.promote(layout, c, Why(key="job"))
    assert models.promoted(layout, "job")
    assert models.rollback(layout).name == a
    assert models.promoted(layout, "job")


@pytest.mark.parametrize("step", ["files.replace.rename", "files.switch_link.rename"])
def test_what_somebody_left_who_was_killed_is_removed(layout: Layout, step: str) -> None:
    a, b = make(layout, "a", "b")
    models.promote(layout, a)
    promote = (
        "import sys; from pathlib import Path; from azaion import models; from azaion.layout import Layout;"
        "root, name = Path(sys.argv[1]), sys.argv[2];"
        "models.promote(Layout(root=root, state=root, spool=root, socket=root), name)"
    )
    environment = {**os.environ, failpoints.VARIABLE: f"{step}=1:kill"}
    killed = subprocess.run([sys.executable, "-c", promote, str(layout.root), b], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(layout.models.glob(".tmp-*"))
    # Somebody may be registering a model.
    half = layout.models / ".tmp-9f3a1c2d"
    half.mkdir()
    assert models.current(layout) == a
    models.promote(layout, b)
    assert models.current(layout) == b
    assert list(layout.models.glob(".tmp-*")) == [half]


def test_whoever_has_decided_on_another_model_is_told(layout: Layout) -> None:
    a, b = make(layout, "a", "b")
    models.promote(layout, a, instead_of=None)
    with pytest.raises(MeanwhileError, match=f"{a} is in use meanwhile"):
        models.promote(layout, b, instead_of=None)
    assert models.current(layout) == a
    models.promote(layout, b, instead_of=a)
    assert models.current(layout) == b


def test_the_file_of_the_old_product_is_what_a_rollback_leads_to(layout: Layout) -> None:
    (a,) = make(layout, "a")
    layout.current_model.write_bytes(b"old product")
    models.promote(layout, a)
    assert models.rollback(layout).weights.read_bytes() == b"old product"
    assert layout.current_model.read_bytes() == b"old product"


def test_promoting_what_is_in_use_leaves_no_trace(layout: Layout) -> None:
    a, b = make(layout, "a", "b")
    models.promote(layout, a)
    models.promote(layout, b)
    models.promote(layout, b)
    assert models.rollback(layout).name == a


def test_a_damaged_model_is_not_gone_back_to(layout: Layout) -> None:
    a, b = make(layout, "a", "b")
    models.promote(layout, a)
    models.promote(layout, b)
    layout.model(a).weights.write_text("other")
    with pytest.raises(ModelError, match="another model"):
        models.rollback(layout)
    assert models.current(layout) == b


@pytest.mark.parametrize("text", ["{", "[]", '{"promotions": [{"model": 1}]}'])
def test_a_history_that_cannot_be_read_is_not_written_over(layout: Layout, text: str) -> None:
    a, b = make(layout, "a", "b")
    models.promote(layout, a)
    layout.promotions.write_text(text)
    with pytest.raises(PromotionError, match="Move it away"):
        models.promote(layout, b)
    assert models.current(layout) == a
    assert layout.promotions.read_text() == text
