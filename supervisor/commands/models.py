"""``azaionctl models``: which there are, how good they are, which one is in use."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

_METRICS: Final = {"map50_95": "mAP50-95", "map50": "mAP50", "precision": "precision", "recall": "recall"}
#: Arguments that name files of the run.
_PATHS: Final = frozenset({"data", "model", "project"})
_COMPARED: Final = ("job", "created", "epochs", "best_epoch", "release", "parent", "dataset", "dataset_digest")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``models`` with its actions."""
    parser = commands.add_parser("models", help="trained models: which is in use, how good they are, exports")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="every model, with scores and the gate's verdict").set_defaults(run=_list)
    show = actions.add_parser("show", help="everything about one: scores by class, lineage, exports, history")
    show.set_defaults(run=_show)
    diff = actions.add_parser("diff", help="what is different between two: data, arguments, scores")
    diff.add_argument("first", metavar="A")
    diff.add_argument("second", metavar="B")
    diff.set_defaults(run=_diff)
    promote = actions.add_parser("promote", help="put a model to use")
    promote.set_defaults(run=_promote)
    back = actions.add_parser("rollback", help="put the model to use that was before the current one")
    back.set_defaults(run=_rollback)
    export = actions.add_parser("export", help="file a job that writes a model in another format")
    export.add_argument(
        "--format", choices=("onnx", "engine"), default="onnx", help="engine is TensorRT (default: onnx)"
    )
    export.add_argument("--imgsz", type=int, metavar="PIXELS", help="a multiple of 32 (default: EXPORT_ONNX_IMGSZ)")
    export.add_argument("--half", action="store_true", help="compute with 16 bits")
    export.add_argument("--nms", action="store_true", help="have it suppress overlapping boxes itself")
    export.set_defaults(run=_export)
    evaluate = actions.add_parser("evaluate", help="file a job that scores a model on the test images of a dataset")
    evaluate.add_argument("--dataset", metavar="D", help="which (default: the one that it was trained on)")
    evaluate.add_argument("--gate", action="store_true", help="put it to use if the gate lets it through")
    evaluate.set_defaults(run=_evaluate)
    for one in (show, promote, export, evaluate):
        one.add_argument("name", metavar="NAME")
    for one in (export, evaluate):
        one.add_argument("--priority", type=int, default=0, metavar="N", help="higher goes first (default: 0)")
        one.add_argument("--wait", action="store_true", help="follow it; exit with its outcome (0, 10, 11)")


def _list(arguments: argparse.Namespace) -> int:
    told = _client(arguments).get("/v1/models")
    if arguments.json:
        text.put_json(told)
        return 0
    if not told["models"]:
        print("no models yet; `azaionctl submit-train` makes one")
        return 0
    rows = [["", "NAME", "CREATED", "JOB", "DATASET", "mAP50-95", "ON TEST IMAGES", "GATE", "EXPORTS", "PUBLISHED"]]
    rows += [_row(record) for record in told["models"]]
    print(text.table(rows))
    if told["before"]:
        print(f"\n* is in use; `models rollback` leads to {told['before']}")
    return 0


def _row(record: dict[str, Any]) -> list[str]:
    mark = "*" if record["current"] else ""
    if "metrics" not in record:
        return [mark, record["name"], record["problem"], *[""] * 7]
    own = next((each for each in record["evaluations"] if each["dataset"] == record["dataset"]), None)
    return [
        mark,
        record["name"],
        _moment(record["created"] or "-"),
        str(record["job"] or "-"),
        record["dataset"] or "-",
        _figure(record["metrics"].get("mAP50-95")),
        _interval((own or {}).get("scores", {}).get("map50_95")),
        (record["gate"] or {}).get("outcome", "-"),
        ", ".join(each["name"] for each in record["exports"] if "name" in each) or "-",
        next((_moment(each["time"]) for each in reversed(record["publications"]) if not each["removed"]), "-"),
    ]


def _show(arguments: argparse.Namespace) -> int:
    record = _client(arguments).get(f"/v1/models/{arguments.name}")
    if arguments.json:
        text.put_json(record)
    else:
        print("\n".join(_lines(record)))
    return 0


def _lines(record: dict[str, Any]) -> Iterator[str]:
    use = "in use" if record["current"] else "not in use"
    yield f"{record['name']}: {use}, made {record['created'] or '?'} by job {record['job'] or '?'}"
    for entry in record["promotions"]:
        yield f"promoted  {entry['time']} by {entry['by'] or '?'}: {entry['reason']}"
    if gate := record["gate"]:
        yield f"gate      {gate.get('outcome', '?')}: {gate.get('reason') or gate.get('problem')}"
    for each in record["publications"]:
        yield _published(each)
    damage = f", damaged while it was read: {record['dataset_damage'][0]}" if record["dataset_damage"] else ""
    yield f"dataset   {record['dataset'] or 'unknown'} {(record['dataset_digest'] or '')[:12]}{damage}"
    yield f"lineage   begun with {record['parent'] or '?'}, release {record['release'] or '?'}"
    yield f"classes   {text.cut(', '.join(record['classes'] or ['?']), 200)}"
    told = record["weights"]
    yield f"weights   {size(told.get('size') or 0)}, SHA-256 {told.get('sha256', '?')}"
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in record["metrics"].items())
    yield f"training  {record['epochs'] or '?'} epochs, best {record['best_epoch'] or '?'}; {figures or 'no figures'}"
    for each in record["evaluations"]:
        yield ""
        yield from _evaluation(each)
    if record["exports"]:
        yield ""
        yield text.table(
            [["EXPORT", "SIZE", "DEVIATES BY", "FILE"], *(_export_row(each) for each in record["exports"])]
        )


def _published(each: dict[str, Any]) -> str:
    sealing = each["sealing"]
    keys, signers = (", ".join(text.cut(each, 16) for each in sealing[name]) for name in ("keys", "signers"))
    by = f" by job {each['job']}" if each["job"] else ""
    gone = f"; removed there {each['removed']}" if each["removed"] else ""
    return (
        f"published {each['time']}{by} as {each['name']} at {each['place']}: {each['file']}, "
        f"{sealing['format']} for {keys}, signed by {signers}{gone}"
    )


def _evaluation(each: dict[str, Any]) -> Iterator[str]:
    if "problem" in each:
        yield f"on {each['dataset']}: {each['problem']}"
        return
    yield f"on the {each['images']} test images of {each['dataset']} ({each['time']}, job {each['job']}):"
    rows = [["CLASS", "BOXES", *_METRICS.values()]]
    for name, boxes, scores in (
        ("all", each["boxes"], each["scores"]),
        *((one["name"], one["boxes"], one["scores"]) for one in each["per_class"]),
    ):
        rows.append([text.cut(name, 40), str(boxes), *(_interval(scores.get(metric)) for metric in _METRICS)])
    yield text.table(rows)


def _export_row(each: dict[str, Any]) -> list[str]:
    if "parity" not in each:
        return ["?", "", str(each.get("problem")), ""]
    parity = each["parity"]
    return [
        each["name"],
        size(each["size"]),
        f"{parity['pixels']:.2f} px, {parity['confidence']:.4f} ({parity['boxes']} boxes)",
        each["path"],
    ]


def _diff(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    first, second = (client.get(f"/v1/models/{name}") for name in (arguments.first, arguments.second))
    found = differences(first, second)
    if arguments.json:
        text.put_json({"a": first["name"], "b": second["name"], "differences": found})
        return 0
    if not found:
        print("nothing is different")
        return 0
    rows = [["", first["name"], second["name"]]]
    rows += [[name, *(text.cut(_plain(value), 60) for value in pair)] for name, pair in found.items()]
    print(text.table(rows))
    return 0


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[Any]]:
    """What two models differ in: a name, and the value of each."""
    sides = [_facts(record) for record in (first, second)]
    names = dict.fromkeys(name for side in sides for name in side)
    return {name: [side.get(name) for side in sides] for name in names if sides[0].get(name) != sides[1].get(name)}


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    facts = {name: record[name] for name in _COMPARED}
    facts["classes"] = ", ".join(record["classes"]) if record["classes"] else None
    facts |= {f"argument {name}": value for name, value in record["arguments"].items() if name not in _PATHS}
    facts |= record["metrics"]
    for each in record["evaluations"]:
        for metric, score in each.get("scores", {}).items():
            facts[f"{_METRICS.get(metric, metric)} on {each['dataset']}"] = score["value"]
    return facts


def _promote(arguments: argparse.Namespace) -> int:
    return _changed(arguments, _client(arguments).post(f"/v1/models/{arguments.name}/promote"))


def _rollback(arguments: argparse.Namespace) -> int:
    return _changed(arguments, _client(arguments).post("/v1/models/rollback"))


def _changed(arguments: argparse.Namespace, told: dict[str, Any]) -> int:
    if arguments.json:
        text.put_json(told)
    elif told["model"] == told["instead_of"]:
        print(f"{told['model']} was in use already")
    else:
        print(f"{told['model']} is in use now, instead of {told['instead_of'] or 'none'}")
        if told["target"] != "none":
            print(f"consumers get it by `azaionctl publish {told['model']}`", file=sys.stderr)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    names = ("format", "imgsz", "half", "nms", "priority")
    return _file(arguments, "export", {name: getattr(arguments, name) for name in names})


def _evaluate(arguments: argparse.Namespace) -> int:
    names = ("dataset", "gate", "priority")
    return _file(arguments, "evaluate", {name: getattr(arguments, name) for name in names})


def _file(arguments: argparse.Namespace, action: str, body: dict[str, Any]) -> int:
    client = _client(arguments)
    job = client.post(f"/v1/models/{arguments.name}/{action}", body)
    if arguments.wait:
        from supervisor.commands.watch import follow  # noqa: PLC0415 - only for whoever stays

        if not arguments.json:
            print(f"job {job['id']}")
        return follow(client, job["id"], as_json=arguments.json)
    if arguments.json:
        text.put_json(job)
    else:
        print(job["id"])
        if (waiting := job["maintenance"]) is not None:
            print(f"it waits for the end of the {waiting}", file=sys.stderr)
    return 0


def _moment(stamp: str) -> str:
    return stamp[:16].replace("T", " ")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(score: dict[str, Any] | None) -> str:
    return "-" if score is None else f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _client(arguments: argparse.Namespace) -> Client:
    return Client(find_socket(arguments.socket))
