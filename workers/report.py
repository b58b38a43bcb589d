"""The report worker: ``python -P -m workers.report OUTPUT CONFIG SAMPLES``, with the job's record on stdin.

Makes one page of all that is known of a training, on the processor, and lets everything else on the machine go first.
What goes wrong is said in the last line on the standard error.
"""

import json
import logging
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from azaion import config, files
from azaion.errors import AzaionError
from azaion.layout import Layout, RunFolder

_NICEST = 19


def main() -> None:
    """Make the page."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    output, configuration, samples = Path(sys.argv[1]).absolute(), Path(sys.argv[2]), int(sys.argv[3])
    _step_back()
    try:
        layout = config.load(configuration).layout
        record = json.load(sys.stdin)
        with tempfile.TemporaryDirectory(prefix="azaion-report-") as folder:
            page = _page(record, layout, samples, RunFolder(path=Path(folder)))
        files.replace(output, page.encode(errors="replace"), durable=False)
    except (AzaionError, OSError) as error:
        # On one line, for only the last one is shown.
        sys.exit(" ".join(str(error).split()))


def _page(record: dict[str, object], layout: Layout, number: int, scratch: RunFolder) -> str:
    from workers.training import environment  # noqa: PLC0415 - must be prepared before anything heavy is imported

    environment.prepare(scratch)
    from azaion import report  # noqa: PLC0415 - the same
    from workers.reporting import predictions, sources  # noqa: PLC0415 - the same

    def load(weights: Path, imgsz: int) -> predictions.Predict:
        from workers.training import nms  # noqa: PLC0415 - torch, where there are weights to look with

        nms.provide()
        environment.settle(scratch)
        return predictions.detector(weights, imgsz)

    known = sources.open_sources(record, layout)
    try:
        return report.render(sources.facts(known, predictions.look(known, number, load)))
    finally:
        os.chdir("/")


def _step_back() -> None:
    """A training that runs meanwhile must not feel it: it has the processor first, and outlives us at the memory."""
    os.nice(_NICEST)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
