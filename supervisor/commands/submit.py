"""``azaionctl submit-train`` and ``submit``: file a job."""

import argparse
import datetime as dt
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from azaion.errors import AzaionError
from supervisor.commands import text
from supervisor.commands.watch import follow
from supervisor.control.client import Client, find_socket

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: What of the caller's environment a command needs to find its programs.
_CARRIED: Final = ("PATH", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")

#: What follows a training unless somebody says no.
_STEPS: Final = ("evaluate", "export", "publish")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``submit-train`` and ``submit``."""
    train = commands.add_parser(
        "submit-train",
        help="train a model on the annotations as they are when it starts",
        description="Files a training. What is not given comes from the configuration (TRAINING_*).",
    )
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch", type=int)
    train.add_argument("--imgsz", type=int, metavar="PIXELS", help="a multiple of 32")
    train.add_argument("--model", metavar="FILE", help="base model: a .pt file, or a .yaml to begin from nothing")
    train.add_argument("--save-period", type=int, metavar="EPOCHS", help="keep a checkpoint every so many epochs")
    train.add_argument("--workers", type=int, help="processes that load images")
    train.add_argument("--gpu", type=int, metavar="N", dest="devices", help="GPUs to train on together (default: 1)")
    train.add_argument("--dataset", metavar="NAME", help="an existing dataset (default: form a new one)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="any other training argument of ultralytics, e.g. --set lr0=0.005 (repeatable)",
    )
    train.add_argument(
        "--no-evaluate",
        action="store_const",
        const="evaluate",
        help="do not hold the model against the one in use: it takes over when it is there",
    )
    train.add_argument("--no-export", action="store_const", const="export", help="do not export the model to ONNX")
    train.add_argument(
        "--no-publish",
        action="store_const",
        const="publish",
        help="do not publish the model (nothing is where AZAION_PUBLISH_TARGET is none)",
    )
    train.set_defaults(run=_train)
    command = commands.add_parser(
        "submit",
        help="run any command under management, e.g. a model test",
        description="Files a command. It runs in the current folder, with the daemon's user and your PATH.",
        usage="azaionctl submit [options] -- COMMAND [ARGUMENT ...]",
    )
    command.add_argument("--gpu", type=int, default=1, metavar="N", help="GPUs it needs, 0 for none (default: 1)")
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for its environment (repeatable)",
    )
    command.add_argument("argv", nargs="+", metavar="COMMAND")
    command.set_defaults(run=_command)
    for parser in (train, command):
        parser.add_argument("--name", help="what to call it")
        parser.add_argument("--priority", type=int, default=0, metavar="N", help="higher goes first (default: 0)")
        parser.add_argument("--key", help="submitting the same key again gives the same job, not a second one")
        parser.add_argument("--after", type=int, metavar="ID", help="start when that job has succeeded")
        parser.add_argument(
            "--begin",
            type=_moment,
            metavar="TIME",
            help="not before 2026-12-24T20:00, 20:00 (the next one), or +90m (2h, 1d)",
        )
        parser.add_argument("--hold", action="store_true", help="not before `azaionctl release`")
        parser.add_argument(
            "--preempt",
            action="store_true",
            help="have trainings of a lower priority step aside; they go on afterwards",
        )
        parser.add_argument(
            "--ram", type=text.amount, metavar="SIZE", help="start when so much memory is free, e.g. 10G"
        )
        parser.add_argument(
            "--vram", type=text.amount, metavar="SIZE", help="start on a GPU that has so much memory free, e.g. 14G"
        )
        parser.add_argument(
            "--memory",
            type=text.amount,
            metavar="SIZE",
            help="killed if all its processes together have more, e.g. 12G",
        )
        parser.add_argument(
            "--cpu-quota", type=_processors, metavar="N", help="so many processors' worth of time: 1.5, or 150%%"
        )
        parser.add_argument("--nice", type=int, metavar="N", help="give way to others: 0 to 19")
        parser.add_argument(
            "--time", type=_duration, metavar="TIME", help="ended when it has run for so long: 90m, 4h, 2d (no waiting)"
        )
        parser.add_argument("--wait", action="store_true", help="follow it; exit with its outcome (0, 10, 11)")


def _moment(given: str) -> float:
    """A time that somebody has typed, in seconds since 1970."""
    now = dt.datetime.now().astimezone()
    if found := re.fullmatch(r"\+([0-9]{1,9})([smhd])", given):
        return now.timestamp() + int(found[1]) * _UNITS[found[2]]
    if found := re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", given):
        with suppress(ValueError):
            today = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
            return (today if today > now else today + dt.timedelta(days=1)).timestamp()
    with suppress(ValueError, OverflowError, OSError):
        moment = dt.datetime.fromisoformat(given).astimezone().timestamp()
        if moment >= 0:
            return moment
    raise argparse.ArgumentTypeError(f"{given!r} is not a time such as 2026-12-24T20:00, 20:00, +90m, +2h or +1d")


def _processors(given: str) -> float:
    """A share of processors that somebody has typed."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(%?)", given)
    if found is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no share of processors such as 1.5 or 150%")
    return float(found[1]) / (100 if found[2] else 1)


def _duration(given: str) -> float:
    """A duration that somebody has typed, in seconds."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", given)
    if found is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no duration such as 30s, 90m, 4h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """What each attempt may use, as far as it has been said."""
    given = {
        "memory": arguments.memory,
        "cpus": arguments.cpu_quota,
        "nice": arguments.nice,
        "time_s": arguments.time,
    }
    return {name: value for name, value in given.items() if value is not None}


def _scheduling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What both kinds of jobs can be told of when to start, and within which limits."""
    given = {
        "after": arguments.after,
        "begins": arguments.begin,
        "hold": arguments.hold or None,
        "preempt": arguments.preempt or None,
        "needs": {name: value for name in ("ram", "vram") if (value := getattr(arguments, name))} or None,
        "limits": _limits(arguments) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _train(arguments: argparse.Namespace) -> int:
    names = ("epochs", "batch", "imgsz", "model", "save_period", "workers", "dataset", "devices", "name", "key")
    body = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    overrides = {name: _value(value) for name, value in _pairs(arguments, arguments.overrides, "--set")}
    if "model" in body and "/" in body["model"]:
        # The daemon has another working folder.
        body["model"] = str(Path(body["model"]).absolute())
    left_out = {arguments.no_evaluate, arguments.no_export, arguments.no_publish}
    then = [step for step in _STEPS if step not in left_out]
    body |= {"kind": "train", "then": then, "overrides": overrides, "priority": arguments.priority}
    body |= _scheduling(arguments)
    return _submit(arguments, body)


def _command(arguments: argparse.Namespace) -> int:
    environment = {name: os.environ[name] for name in _CARRIED if name in os.environ}
    environment |= dict(_pairs(arguments, arguments.env, "--env"))
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:
        raise AzaionError("the current folder has been removed; go to the one in which the command shall run") from None
    body = {
        "kind": "command",
        "argv": arguments.argv,
        "cwd": folder,
        "env": environment,
        "devices": arguments.gpu,
        "priority": arguments.priority,
        **_scheduling(arguments),
    }
    body |= {name: getattr(arguments, name) for name in ("name", "key") if getattr(arguments, name) is not None}
    return _submit(arguments, body)


def _submit(arguments: argparse.Namespace, body: dict[str, Any]) -> int:
    client = Client(find_socket(arguments.socket))
    job = client.post("/v1/jobs", body)
    if arguments.wait:
        if not arguments.json:
            print(f"job {job['id']}")
        return follow(client, job["id"], as_json=arguments.json)
    if arguments.json:
        text.put_json({"id": job["id"], "chain": job["chain"] or [job["id"]]} if body["kind"] == "train" else job)
    else:
        print(job["id"])
        if job["chain"]:
            steps = ", ".join(map(str, job["chain"][1:]))
            print(f"what follows it: {steps}; `azaionctl cancel {job['id']}` cancels all of them", file=sys.stderr)
        if (waiting := job["maintenance"]) is not None:
            print(f"it waits for the end of the {waiting}", file=sys.stderr)
    return 0


def _pairs(arguments: argparse.Namespace, given: list[str], option: str) -> list[tuple[str, str]]:
    pairs = []
    for entry in given:
        name, equals, value = entry.partition("=")
        if not (name and equals):
            arguments.usage_error(f"{option} takes NAME=VALUE, not {entry!r}")
        pairs.append((name, value))
    return pairs


def _value(value: str) -> Any:
    """A training argument as it is meant: a number, true or false, or text."""
    try:
        return json.loads(value.lower() if value in {"True", "False"} else value)
    except (ValueError, RecursionError):
        return value
