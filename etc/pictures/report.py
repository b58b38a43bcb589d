"""``make pictures``: a report of a real training that loses its power on the way, as Chromium shows it.

Nothing is made up but the annotations, which are drawn shapes.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import training_runs
from tests.browsers import Browser, installed
from tests.installations import Installation, installation
from tests.waiting import until

_EPOCHS: Final = 40
#: The power fails after so many.
_EPOCH: Final = 14
_TRAINING_S: Final = 600.0
_SIZE: Final = (1240, 3000)
#: So much of it, from the top.
_SHOWN: Final = 2560


def main() -> None:
    """Make the picture that the command line names."""
    program = installed()
    if program is None:
        sys.exit("no Chromium: make .venv/chromium fetches it")
    with installation(AZAION_GPUS="none") as server, tempfile.TemporaryDirectory() as folder:
        page = _report(server)
        whole = Path(folder) / "report.png"
        Browser(program=program, folder=Path(folder)).look(page, whole, width=_SIZE[0], height=_SIZE[1])
        with Image.open(whole) as image:
            shown = image.convert("RGB").crop((0, 0, _SIZE[0], _SHOWN))
            shown.quantize(128, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)


def _report(server: Installation) -> Path:
    training_runs.draw_shapes(server.layout, images=72, size=192)
    server.start()
    wish = {
        "kind": "train",
        "name": "shapes, tiny",
        "epochs": _EPOCHS,
        "overrides": {**training_runs.QUICK, "lr0": 0.004},
    }
    training = server.client.post("/v1/jobs", wish)["id"]
    until(
        lambda: int((server.job(training)["progress"] or {}).get("epoch") or 0) > _EPOCH, "epochs are done", _TRAINING_S
    )
    server.lose_power(training)
    server.start()
    job = server.wait(training, limit_s=_TRAINING_S)
    if job["state"] != "succeeded":
        sys.exit(f"the training has {job['state']}: {job['reason']}")
    return Path(server.json("report", str(training), "--samples", "6")["path"])


if __name__ == "__main__":
    main()
