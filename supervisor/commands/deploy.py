"""``azaionctl deploy`` and ``azaionctl releases``: which release the daemon runs from."""

import argparse
import datetime as dt
import os
import pwd
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from azaion.layout import ContainersFolder, ServerLayout
from supervisor.commands import text
from supervisor.releases import making, use
from supervisor.releases.deploy import Deployer, release_at
from supervisor.releases.host import Host
from supervisor.releases.making import Environment, Given, Locked
from supervisor.releases.model import Release, ReleaseError, Verdict
from supervisor.releases.shelf import Shelf
from supervisor.releases.verification import LIMIT_S, STEADY_S

_SHOWN: Final = 10


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``deploy`` and ``releases``."""
    deploy = commands.add_parser(
        "deploy",
        help="put a release to use, and take it back by itself if it does not prove itself",
        description="Goes through the checklist, switches to a release, restarts the daemon and sees whether all is "
        "well afterwards; if not, it goes back. Runs go on with the release that they were started with.",
        epilog="Exit codes: 0 in use, 1 nothing was changed or it was taken back.",
    )
    deploy.add_argument(
        "release", nargs="?", help="a name of `azaionctl releases`, or the folder of a checkout to make one of"
    )
    deploy.add_argument("--rollback", action="store_true", help="go back to the release before this one")
    deploy.add_argument("--check", action="store_true", help="only go through the checklist (of the current release)")
    deploy.add_argument(
        "--recover",
        action="store_true",
        help="only go back to what has proven itself, if a deploy was cut off; the daemon is not touched (at the boot)",
    )
    deploy.add_argument("--one-way", action="store_true", help="also if the state can then not be read by the old one")
    deploy.add_argument(
        "--containers", action="store_true", help="where azaiond runs in containers: RELEASE is the tag of their images"
    )
    deploy.add_argument(
        "--folder",
        type=Path,
        default=ContainersFolder().path,
        metavar="DIR",
        help=f"where docker-compose.production.yml lies, with --containers (default: {ContainersFolder().path})",
    )
    add_environment(deploy)
    add_patience(deploy)
    deploy.set_defaults(run=_deploy)
    releases = commands.add_parser("releases", help="the releases on this server, and what became of the last deploys")
    releases.set_defaults(run=_releases)


def add_environment(parser: argparse.ArgumentParser) -> None:
    """Add where the libraries of a new release come from."""
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="DIR",
        help="take the libraries of this virtual environment, which must stay, instead of installing them",
    )
    parser.add_argument("--python", type=Path, metavar="FILE", help="the interpreter (default: this command's)")


def add_patience(parser: argparse.ArgumentParser) -> None:
    """Add how long a release may take to prove itself."""
    parser.add_argument(
        "--within", type=float, default=LIMIT_S, metavar="S", help=f"seconds it may take (default: {LIMIT_S:g})"
    )
    parser.add_argument(
        "--steady", type=float, default=STEADY_S, metavar="S", help=f"seconds all must be well (default: {STEADY_S:g})"
    )


def environment_of(arguments: argparse.Namespace) -> Environment:
    """Where the libraries come from, as the options say."""
    python: Path = arguments.python or making.interpreter()
    if arguments.environment is not None:
        return Given(python=python, folder=arguments.environment.absolute())
    return Locked(python=python)


def deployer_of(shelf: Shelf, arguments: argparse.Namespace) -> Deployer:
    """Whoever deploys, as the options say."""
    return Deployer(
        shelf=shelf,
        host=Host(),
        by=_caller(),
        say=partial(say, to=sys.stderr) if arguments.json else say,
        limit_s=arguments.within,
        steady_s=arguments.steady,
    )


def only_root(what: str) -> None:
    """Refuse everybody else, and prepare for a session that is lost meanwhile.

    Raises:
        ReleaseError: the caller is not root.
    """
    if os.geteuid() != 0:
        raise ReleaseError(f"{what} is for root: sudo azaionctl {what}")
    os.umask(0o022)
    # A lost session must not leave half a deploy.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def say(line: str, to: TextIO | None = None) -> None:
    """Tell whoever is still there, on the standard output if not elsewhere."""
    with suppress(OSError):
        print(line, file=to, flush=True)


def _deploy(arguments: argparse.Namespace) -> int:
    alone = arguments.check or arguments.recover
    if bool(arguments.release) == arguments.rollback and not (alone and not arguments.release):
        arguments.usage_error("name a release or a checkout, or say --rollback")
    if arguments.containers:
        from supervisor.commands import containers  # noqa: PLC0415 - what a server of units never needs

        return containers.deploy(arguments)
    only_root("deploy")
    shelf = Shelf(ServerLayout())
    with shelf.held():
        deployer = deployer_of(shelf, arguments)
        if arguments.recover:
            deployer.recover()
            return 0
        deployer.finish()
        release = deployer.previous() if arguments.rollback else _wanted(shelf, deployer, arguments)
        if arguments.check:
            return 1 if deployer.check(release, one_way=arguments.one_way).failed else 0
        if deployer.serves(release):
            deployer.say(f"{release.name} is in use already")
            return 0
        done = deployer.deploy(release, one_way=arguments.one_way, rollback=arguments.rollback)
        deployer.prune()
    if arguments.json:
        text.put_json(done.record())
    return 0 if done.verdict is Verdict.KEPT else 1


def _wanted(shelf: Shelf, deployer: Deployer, arguments: argparse.Namespace) -> Release:
    given = arguments.release or shelf.current
    if shelf.current is None or given is None:
        raise ReleaseError("nothing is installed here yet: sudo azaionctl install")
    found = release_at(shelf, given)
    return found or making.make(shelf, Path(given).absolute(), environment_of(arguments), deployer.say)


def _caller() -> str:
    """Who asks for it: whoever called sudo, or root."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _releases(arguments: argparse.Namespace) -> int:
    shelf = Shelf(ServerLayout())
    current, users = shelf.current, use.uses(shelf.server.releases)
    records = [
        {**asdict(each), "current": each.name == current, "used_by": list(users.get(each.name, ()))}
        for each in shelf.releases()
    ]
    deploys = [each.record() for each in shelf.deployments()[-_SHOWN:]]
    if arguments.json:
        text.put_json({"current": current, "releases": records, "deploys": deploys})
    elif not records:
        print("there is no release here: sudo azaionctl install")
    else:
        print(screen(records, deploys))
    return 0


def screen(records: list[dict[str, Any]], deploys: list[dict[str, Any]]) -> str:
    """What there is, and what became of it."""
    rows = [["", "RELEASE", "SOURCE", "MADE", "USED BY"]]
    rows += [
        [
            "*" if each["current"] else "",
            each["name"],
            (each["commit"] or each["source"])[:19],
            _stamp(each["made"]),
            _users(each),
        ]
        for each in records
    ]
    lines = [text.table(rows)]
    if deploys:
        lines += ["", text.table([["DEPLOYED", "FROM", "TO", "BY", "VERDICT"], *map(_row, deploys)])]
    return "\n".join(lines)


def _users(record: dict[str, Any]) -> str:
    return ", ".join(record["used_by"]) or "-"


def _row(deploy: dict[str, Any]) -> list[str]:
    verdict = deploy["verdict"] + (f": {text.cut(deploy['reason'], 100)}" if deploy["reason"] else "")
    if deploy["consumer_away_s"] is not None:
        verdict += f" (consumer away {deploy['consumer_away_s']:.1f} s)"
    return [_stamp(deploy["began"]), deploy["origin"] or "-", deploy["target"], deploy["by"], verdict]


def _stamp(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
