"""``azaionctl datasets``, as a person uses it."""

from datetime import date
from pathlib import Path

from PIL import Image

from azaion import config, dataset
from tests.installations import Installation
from tests.training_runs import draw_shapes

TODAY = date(2026, 11, 23)


def test_datasets_are_listed_shown_compared_verified_and_drawn(server: Installation) -> None:
    config.make_folders(server.layout)
    server.start()
    assert "no datasets yet" in server.ctl("datasets", "list").stdout
    draw_shapes(server.layout, images=40, size=32)
    first = dataset.form(server.layout, today=TODAY, key="a")
    draw_shapes(server.layout, images=44, size=32)
    second = dataset.form(server.layout, today=TODAY, key="b")

    listed = server.ctl("datasets", "list")
    assert listed.returncode == 0
    assert first.name in listed.stdout
    assert [(each["name"], each["images"]) for each in server.json("datasets", "list")] == [
        (first.name, 40),
        (second.name, 44),
    ]
    shown = server.ctl("datasets", "show", second.name).stdout
    for words in ("train", "valid", "disc", "square", "models    none", "refused   0"):
        assert words in shown
    assert server.json("datasets", "show", second.name)["class_counts"]["0"]
    found = server.json("datasets", "diff", first.name, second.name)
    assert found["added"] == [f"shape-{number:04}" for number in range(40, 44)]
    assert found["boxes"]["disc"] == [40, 44]
    assert "4 added" in server.ctl("datasets", "diff", first.name, second.name).stdout
    assert "the same images" in server.ctl("datasets", "diff", first.name, first.name).stdout

    whole = server.ctl("datasets", "verify", second.name)
    assert whole.returncode == 0
    assert "is whole" in whole.stdout
    output = server.folder / "sheet.png"
    drawn = server.ctl("datasets", "preview", second.name, "--count", "4", "--split", "train", "-o", str(output))
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(output) as picture:
        assert picture.size == (6 + 2 * 326, 6 + 2 * 340)

    image = next(iter(second.folder.annotations("train").images.iterdir()))
    image.unlink()
    image.write_bytes(b"x")
    damaged = server.ctl("datasets", "verify", second.name)
    assert damaged.returncode == 1
    assert f"train/images/{image.name}: changed size" in damaged.stdout
    assert server.ctl("--json", "datasets", "verify", second.name).returncode == 1


def test_what_cannot_be_done_says_what_to_do(server: Installation, tmp_path: Path) -> None:
    server.start()
    unknown = server.ctl("datasets", "show", "azaion-2020-01-01")
    assert unknown.returncode == 1
    assert "There is no dataset 'azaion-2020-01-01'" in unknown.stderr
    wrong = server.ctl("datasets", "preview", "azaion-2020-01-01", "-o", str(tmp_path / "none" / "x.png"))
    assert "name a .png or .jpg in a folder that exists" in wrong.stderr
    folder = server.layout.datasets / "azaion-2020-01-02"
    folder.mkdir(parents=True)
    assert "damaged" in server.ctl("datasets", "list").stdout
