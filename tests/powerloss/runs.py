"""What is recorded: ``python -m tests.powerloss.runs NAME FOLDER`` does one thing below FOLDER, as the product does it.

Whatever somebody could have been told stands in FOLDER/marks, a line each: after that it must be true for ever.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Final

from azaion import files, models
from azaion.annotations.spool import Spool
from azaion.annotations.store import AnnotationStore
from azaion.layout import Layout
from tests.annotation_messages import VALIDATOR, Event, created, deleted, edited, validated
from tests.consumers import Consuming
from tests.installations import Installation

#: An annotation without an image is none.
BAD: Final = Event(10, ("x",), picture=None)
#: Groups of events: some of them of few files, which are flushed one by one, and one of many.
STORY: Final[list[list[Event]]] = [
    [created("a", 1), created("b", 2, VALIDATOR)],
    [validated("a"), edited("b", 3, VALIDATOR, ".png"), BAD],
    [created(f"n{number}", number, VALIDATOR) for number in range(6)],
    [deleted("b", "n1"), created("c", 4), edited("a", 5, VALIDATOR, kind=1)],
    [validated("c"), deleted("a")],
]
#: The number of the job that is held.
HELD: Final = 3
WEIGHTS: Final = {name: name.encode() * 3000 for name in ("first", "second")}


class Marks:
    """The file of marks."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def put(self, text: str) -> None:
        os.write(self._file, f"{text}\n".encode())


def consumer(folder: Path) -> None:
    """The consumer's process takes the story in, group by group."""
    server = Installation(folder)
    root = Consuming(server)
    process = root.start()
    for group in STORY:
        root.send(group)
        root.consumed(process)
    root.stop(process)
    root.close()


def spool(folder: Path) -> None:
    """Messages are put into the embedded stream."""
    marks, stream = Marks(folder), Spool(layout_of(folder).spool)
    for group in STORY:
        count = stream.append((event.status, event.body) for event in group)
        marks.put(str(count))


def daemon(folder: Path) -> None:
    """A daemon is given jobs, and they run."""
    marks, server = Marks(folder), Installation(folder)
    server.start()
    for script in ("exit 0", "exit 3"):
        number = server.submit(script)
        marks.put(json.dumps({"job": number}))
        marks.put(json.dumps({"job": number, "state": server.wait(number)["state"]}))
    number = server.submit("exit 0", hold=True)
    marks.put(json.dumps({"job": number}))
    server.client.post(f"/v1/jobs/{number}/cancel", query={})
    marks.put(json.dumps({"job": number, "state": "cancelled"}))
    server.close()


def promotion(folder: Path) -> None:
    """Models are registered and put to use, one after the other, then the first again."""
    marks, layout = Marks(folder), layout_of(folder)
    files.make_folder(layout.models)
    names = []
    for key, data in WEIGHTS.items():
        made = folder / f"{key}.pt"
        made.write_bytes(data)
        model = models.register(layout, key=key, attempt=1, weights=made, card={}, files={}, today=date(2026, 11, 23))
        names.append(model.name)
        models.promote(layout, model.name)
        marks.put(key)
    models.promote(layout, names[0])
    marks.put("first")


def layout_of(folder: Path) -> Layout:
    """The layout of a run that needs no settings."""
    return Layout(
        root=folder / "azaion", state=folder / "var", spool=folder / "var" / "spool", socket=folder / "socket"
    )


def replay(layout: Layout, first: int) -> None:
    """What the consumer does after a crash, with the messages from ``first`` on."""
    store, stream = AnnotationStore(layout), Spool(layout.spool)
    store.clean()
    incarnation = stream.incarnation
    assert incarnation is not None or not stream.end()
    while messages := stream.read(first, count=2, size=1 << 20):
        store.apply(messages, incarnation or 0)
        first = messages[-1].offset + 1


RUNS: Final[dict[str, Callable[[Path], None]]] = {
    "consumer": consumer,
    "daemon": daemon,
    "promotion": promotion,
    "spool": spool,
}

if __name__ == "__main__":
    RUNS[sys.argv[1]](Path(sys.argv[2]))
