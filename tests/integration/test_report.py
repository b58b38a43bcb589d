"""``azaionctl report`` of a real training that was interrupted, and what a real browser makes of it."""

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from tests import training_runs
from tests.browsers import Browser, browser
from tests.installations import Installation
from tests.waiting import until

NAME = "crowns <script>document.title = 'taken over'</script>"
SECTIONS = ("course", "curves", "scores", "samples", "data", "arguments", "surroundings")


@pytest.fixture
def chromium(tmp_path: Path) -> Browser:
    return browser(tmp_path / "browser")


def epoch(server: Installation, number: int) -> int:
    return int((server.job(number)["progress"] or {}).get("epoch") or 0)


def made(server: Installation, number: int, *options: str) -> tuple[Path, str]:
    done = server.json("report", str(number), *options)
    page = Path(done["path"])
    assert page.stat().st_size == done["bytes"] < 5_000_000
    return page, page.read_text(encoding="utf-8")


def looked_at(chromium: Browser, page: Path, **how: Any) -> float:
    """How bright it is, from 0 to 255, when all else is as it should be."""
    picture = page.with_suffix(".png")
    look = chromium.look(page, picture, **how)
    assert (look.console, look.calls) == ([], 0)
    assert re.search(r"<title>Training \d+: crowns &lt;script&gt;document.title", look.dom)
    for section in SECTIONS:
        assert f'<section id="{section}">' in look.dom
    with Image.open(picture) as image:
        return ImageStat.Stat(image.convert("L")).mean[0]


@pytest.mark.train
def test_a_report_of_a_run_that_was_interrupted(server: Installation, chromium: Browser) -> None:
    training_runs.draw_shapes(server.layout, images=24, size=96)
    server.start()
    wish = {"kind": "train", "name": NAME, "epochs": 8, "overrides": dict(training_runs.QUICK)}
    training = server.client.post("/v1/jobs", wish)["id"]

    # While it runs, from the best checkpoint so far.
    until(lambda: epoch(server, training) > 2, "two epochs are done")
    # It must not end while it is looked at.
    trainer = server.job(training)["attempts"][-1]["pid"]
    os.kill(trainer, signal.SIGSTOP)
    page, html = made(server, training, "--samples", "1")
    os.kill(trainer, signal.SIGCONT)
    assert page == server.folder / f"report-{training}.html"
    assert "a report so far" in html
    assert "is judged on all validation images when the last epoch is done" in html
    assert html.count('class="pair"') == 1

    # The power fails; it goes on and ends well.
    server.lose_power(training)
    server.start()
    job = server.wait(training)
    assert (job["state"], len(job["attempts"])) == ("succeeded", 2)
    page, html = made(server, training, "-o", "whole.html")
    assert "It was interrupted once; no finished epoch was lost." in html
    assert f"attempt 2 went on after epoch {job['attempts'][1]['resumed_from_epoch']}" in html
    assert 'aria-label="Confusion matrix"' in html
    assert re.search(r"<dt>torch</dt><dd>2", html)
    # Each image shows one box of each of the two classes.
    assert html.count("50.0 %</td>") == 2
    assert html.count('href="data:image/jpeg;base64') == html.count('class="pair"') > 0
    light = looked_at(chromium, page)
    assert looked_at(chromium, page, dark=True) < light / 2
    assert looked_at(chromium, page, width=500, height=6000) > light / 2

    # All is gone but the model and the daemon's record.
    shutil.rmtree(job["folder"])
    shutil.rmtree(server.layout.datasets)
    page, html = made(server, training, "-o", "rest.html")
    for words in ("The folders of its attempts are gone", "There are no images to look at", "Mean average precision"):
        assert words in html
    looked_at(chromium, page)


def test_what_has_no_report_is_refused_with_a_reason(server: Installation) -> None:
    server.start()
    command = server.submit("true")
    waiting = server.client.post("/v1/jobs", {"kind": "train", "hold": True})["id"]
    for number, options, why in (
        (command, (), f"job {command} is no training but command"),
        (waiting, (), f"job {waiting} has not begun (held)"),
        (99, (), "there is no job 99"),
    ):
        done = server.ctl("report", str(number), *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
    assert server.ctl("report", str(waiting), "--samples", "1000").returncode == 2


def test_the_browser_sees_what_a_page_must_not_do(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://pictures.example/a.png'><script>console.error('loud')</script>")
    look = chromium.look(page, tmp_path / "bad.png")
    assert look.calls > 0
    assert any("loud" in line for line in look.console)
