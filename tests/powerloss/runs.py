"""What is recorded: ``python -m tests.powerloss.runs NAME FOLDER`` does one thing below FOLDER, as the product does it.

Whatever somebody could have been told stands in FOLDER/marks, a line each: after that it must be true for ever.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from azaion import failpoints, files, models
from azaion.annotations.spool import Spool
from azaion.annotations.store import AnnotationStore
from azaion.layout import Layout, ServerLayout
from supervisor.releases.checklist import Ready
from supervisor.releases.deploy import Deployer
from supervisor.releases.host import Host
from supervisor.releases.model import Release
from supervisor.releases.shelf import Shelf
from supervisor.releases.verification import Baseline, Result
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
#: Where a consumer dies in each of them: when it has renamed what it has not flushed.
STEPS: Final = (
    *("store.file.renamed=2", "store.file.moved=2", "store.record.renamed=3", "store.record.renamed=2"),
    "store.file.moved=4",
)
#: The number of the job that is held.
HELD: Final = 3
RELEASES: Final = ("first", "second")
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


def deaths(folder: Path) -> None:
    """The same, but it is killed in the middle of each group, and another one goes on."""
    root = Consuming(Installation(folder))
    for group, step in zip(STORY, STEPS, strict=True):
        root.send(group)
        root.gone_or_at(process := root.start(f"{step}:kill"), root.end())
        if process.poll() is None:
            root.stop(process)
        process = root.start()
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


class Still(Host):
    """A machine on which nothing runs: systemd does what it is told, and nobody answers."""

    def restart(self) -> str:
        return ""

    def must(self, *command: str) -> str:
        del command
        return ""

    def last_words(self, count: int = 5) -> list[str]:
        del count
        return []

    def status(self) -> None:
        return None


class Satisfied(Deployer):
    """Finds that a release is as it should be, and proves itself, so that all that is left is the change."""

    def check(self, release: Release, *, one_way: bool = False) -> Ready:
        del release, one_way
        return Ready(checks=(), before=None)

    def _watch(self, name: str, before: Baseline, began: float, steady_s: float) -> Result:
        del name, before, began, steady_s
        return Result(reason="", proofs=(), consuming_after_s=None)


def deployer_of(folder: Path) -> Satisfied:
    """Who changes which release is in use below a folder that stands for a server's file system."""
    return Satisfied(shelf=Shelf(ServerLayout(root=folder)), host=Still(), by="anna", say=lambda _: None)


def release(folder: Path) -> None:
    """Two releases take turns; each brings a unit that the other does not have, and one that is another's.

    The last turn is killed, and so is who takes it back.
    """
    marks, deployer = Marks(folder), deployer_of(folder)
    made = []
    for number, name in enumerate(RELEASES):
        place = deployer.shelf.server.release(name)
        files.make_folder(place.units)
        (place.units / "azaion.service").write_text(f"# of {name}\n", encoding="utf-8")
        (place.units / f"last-{name}.timer").write_text("# its own\n", encoding="utf-8")
        record = Release(name=name, version="1", source=name, made=number, schema=1, environment="")
        files.write_json(place.record, record.record())
        files.fsync_tree(place.path)
        made.append(record)
    for number in (0, 1, 0):
        with deployer.shelf.held():
            deployer.deploy(made[number], rollback=number == 0)
        marks.put(made[number].name)
    units = deployer.shelf.server.units
    with deployer.shelf.held():
        killed(lambda: deployer.deploy(made[1]), failpoints, "hit", lambda step: step == "release.switched")
        # Right after the last unit has gone, and before that is durable.
        last = units / f"last-{made[1].name}.timer"
        killed(deployer.finish, files, "fsync_folder", lambda path: path == units and not last.exists())
        deployer.finish()
    marks.put(made[0].name)


def killed(act: Callable[[], object], module: ModuleType, function: str, when: Callable[[Any], bool]) -> None:
    """Do something in a process of its own, which dies where this function of this module is called so."""
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return
    whole = getattr(module, function)

    def dies(given: object) -> None:
        if when(given):
            os.kill(os.getpid(), signal.SIGKILL)
        whole(given)

    try:
        setattr(module, function, dies)
        act()
    finally:
        os._exit(1)


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
    "deaths": deaths,
    "promotion": promotion,
    "release": release,
    "spool": spool,
}

if __name__ == "__main__":
    RUNS[sys.argv[1]](Path(sys.argv[2]))
