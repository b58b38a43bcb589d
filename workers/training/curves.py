"""The curves of a run (``results.csv``), cut back to the epoch that a run goes on from."""

import csv
import io
from pathlib import Path

from azaion import files


def cut_back(path: Path, epoch: int) -> None:
    """Drop the rows of epochs after ``epoch``: they were written and then lost with the process."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    kept = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= epoch]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *kept])
    files.replace(path, stream.getvalue().encode())
