"""``azaionctl datasets``: what models are trained on, what has changed, whether it is whole, and how it looks."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azaion.errors import AzaionError
from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

if TYPE_CHECKING:
    from azaion.dataset import Snapshot

#: So many names of a kind are shown; --json has all.
_SHOWN: Final = 10
_SIDES: Final = ("train", "valid", "test")
_MOST: Final = 400
#: Nobody waits for it as urgently as for a training.
_NICE: Final = 19


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``datasets`` with its actions."""
    parser = commands.add_parser("datasets", help="what models are trained on: contents, changes, integrity, pictures")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="every dataset, and the models trained on it").set_defaults(run=_list)
    show = actions.add_parser("show", help="what is in one: images and boxes by class and side")
    show.set_defaults(run=_show)
    diff = actions.add_parser("diff", help="what has changed from one to another")
    diff.add_argument("first", metavar="A")
    diff.add_argument("second", metavar="B")
    diff.set_defaults(run=_diff)
    verify = actions.add_parser(
        "verify", help="read every file and compare it with what was formed; exits 1 if any is damaged"
    )
    verify.set_defaults(run=_verify)
    preview = actions.add_parser("preview", help="a contact sheet: some images with their boxes, as one picture")
    preview.add_argument("--split", choices=_SIDES, help="from this side only")
    preview.add_argument("--count", type=_count, default=24, metavar="N", help="how many images (default: 24)")
    preview.add_argument("--seed", type=int, default=1, metavar="N", help="another one shows others (default: 1)")
    preview.add_argument("-o", "--output", type=Path, metavar="FILE", help="a .png or .jpg (default: NAME.png)")
    preview.set_defaults(run=_preview)
    for one in (show, verify, preview):
        one.add_argument("name", metavar="NAME")


def _count(given: str) -> int:
    if not given.isdecimal() or not 0 < int(given) <= _MOST:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number from 1 to {_MOST}")
    return int(given)


def _list(arguments: argparse.Namespace) -> int:
    told = Client(find_socket(arguments.socket)).get("/v1/datasets")
    if arguments.json:
        text.put_json(told["datasets"])
        return 0
    if not told["datasets"]:
        print("no datasets yet; a training forms one")
        return 0
    rows = [["NAME", "CREATED", "IMAGES", "TRAIN/VALID/TEST", "BOXES", "SIZE", "MODELS"]]
    for each in told["datasets"]:
        if "problem" in each:
            rows.append([each["name"], "damaged", "", "", "", "", _models(each)])
            continue
        sides = "/".join(str(each["sides"].get(side, 0)) for side in _SIDES)
        created = str(each["created"] or "")[:16].replace("T", " ")
        amounts = [str(each["images"]), sides, str(each["boxes"]), size(each["bytes"] or 0)]
        rows.append([each["name"], created, *amounts, _models(each)])
    print(text.table(rows))
    return 0


def _models(record: dict[str, Any]) -> str:
    return ", ".join(record["models"])


def _show(arguments: argparse.Namespace) -> int:
    told = Client(find_socket(arguments.socket)).get(f"/v1/datasets/{arguments.name}")
    if arguments.json:
        text.put_json(told)
        return 0
    print(f"{told['name']}  {told['path']}")
    print(f"formed    {str(told['created'])[:16].replace('T', ' ')} UTC, digest {told['digest'][:16]}")
    print(f"models    {_models(told) or 'none'}")
    refused = told["corrupted"]
    why = ", ".join(f"{count} {reason}" for reason, count in refused["reasons"].items())
    print(f"refused   {refused['count']}{f' ({why})' if why else ''}")
    if doubles := told.get("doubles", {}).get("count"):
        print(f"doubles   {doubles} left out, since the same image is on another side")
    print()
    rows = [["SIDE", "IMAGES", "MEDIA", "EMPTY", "BOXES", "SIZE"]]
    for side in _SIDES:
        facts = told["splits"].get(side, {})
        amounts = [str(facts.get(name, 0)) for name in ("images", "media", "background", "boxes")]
        rows.append([side, *amounts, size(facts.get("bytes", 0))])
    print(text.table(rows))
    print()
    rows = [["CLASS", *(side.upper() for side in _SIDES), "BOXES"]]
    for number, counts in told["class_counts"].items():
        boxes = [int(counts.get(side, 0)) for side in _SIDES]
        rows.append([_class(told, number), *map(str, boxes), str(sum(boxes))])
    print(text.table(rows))
    return 0


def _class(told: dict[str, Any], number: str) -> str:
    names = told["classes"]
    return str(names[int(number)]) if int(number) < len(names) else f"class {number}"


def _diff(arguments: argparse.Namespace) -> int:
    from azaion.dataset import difference  # noqa: PLC0415 - what no other command should pay for

    first, second = _load(arguments, arguments.first), _load(arguments, arguments.second)
    found = asdict(difference(first, second))
    classes = _class_changes(first.manifest, second.manifest)
    if arguments.json:
        text.put_json({"a": first.name, "b": second.name, **found, "boxes": classes})
        return 0
    for kind, names in found.items():
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            print(f"{len(names):>8} {kind:<10}  {', '.join(names[:_SHOWN])}{more}")
    if not any(found.values()):
        print("the same images with the same labels")
    if classes:
        print()
        rows = [["CLASS", first.name, second.name, "CHANGE"]]
        rows += [[name, str(a), str(b), f"{b - a:+}"] for name, (a, b) in classes.items()]
        print(text.table(rows))
    return 0


def _class_changes(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Boxes of each class in both, where they differ."""

    def totals(manifest: dict[str, Any]) -> dict[str, int]:
        counts = manifest.get("class_counts", {})
        return {_class(manifest, number): sum(sides.values()) for number, sides in counts.items()}

    before, after = totals(first), totals(second)
    names = sorted(before.keys() | after.keys())
    both = {name: (before.get(name, 0), after.get(name, 0)) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _verify(arguments: argparse.Namespace) -> int:
    from azaion.dataset import verify  # noqa: PLC0415 - what no other command should pay for

    snapshot = _load(arguments, arguments.name)
    os.nice(_NICE)
    problems = _shown(lambda progress: verify(snapshot, progress))
    if arguments.json:
        text.put_json({"name": snapshot.name, "ok": not problems, "problems": problems})
    elif problems:
        for problem in problems[:_SHOWN]:
            print(problem)
        if len(problems) > _SHOWN:
            print(f"and {len(problems) - _SHOWN} more; --json names them all")
        print(f"{snapshot.name} is damaged ({len(problems)} files): train on another one, and look for a failing disk")
    else:
        print(f"{snapshot.name} is whole: {snapshot.manifest['totals']['files']} files are as they were formed")
    return 1 if problems else 0


def _preview(arguments: argparse.Namespace) -> int:
    from azaion.dataset.sheet import sheet  # noqa: PLC0415 - the same
    from azaion.dataset.split import Split  # noqa: PLC0415 - the same

    output = (arguments.output or Path(f"{arguments.name}.png")).absolute()
    if not output.parent.is_dir() or output.is_dir() or output.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise AzaionError(f"{output} cannot be written: name a .png or .jpg in a folder that exists, with -o FILE")
    snapshot = _load(arguments, arguments.name)
    split = Split(arguments.split) if arguments.split else None
    picture = sheet(snapshot, split=split, count=arguments.count, seed=arguments.seed)
    try:
        picture.save(output)
    except OSError as error:
        raise AzaionError(f"{output} cannot be written: {error}") from None
    written = output.stat().st_size
    if arguments.json:
        text.put_json({"name": snapshot.name, "path": str(output), "bytes": written})
    else:
        print(f"{output}  ({size(written)})")
    return 0


def _load(arguments: argparse.Namespace, name: str) -> "Snapshot":
    """A dataset, read by ourselves: what is heavy is not the daemon's work."""
    from azaion import config, dataset  # noqa: PLC0415 - the same

    told = Client(find_socket(arguments.socket)).get(f"/v1/datasets/{name}")
    try:
        return dataset.load(config.load(Path(told["config"])).layout, name)
    except PermissionError as error:
        raise AzaionError(
            f"you may not read {error.filename}: run this as the user of the daemon, or as root"
        ) from None


def _shown(work: "Callable[[Callable[[int, int], None] | None], list[str]]") -> list[str]:
    """Do it with a bar at a terminal."""
    if not sys.stderr.isatty():
        return work(None)
    from rich import console, progress  # noqa: PLC0415 - only for someone who looks

    with progress.Progress(console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return work(lambda done, whole: bar.update(task, completed=done, total=whole))
