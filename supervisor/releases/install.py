"""Everything that a server needs, step by step. Each step knows whether it is done: an install can be begun again."""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from azaion import failpoints, files
from azaion.layout import RUN_FOLDER, ServerLayout
from supervisor.releases import checklist, etc, making, use
from supervisor.releases.host import DAEMON, ENABLED, SOCKET, Host
from supervisor.releases.making import Environment
from supervisor.releases.model import ReleaseError
from supervisor.releases.shelf import Shelf

USER: Final = checklist.USER
READERS: Final = checklist.READERS
#: What the settings of a new server say otherwise than the example. Secrets are for people to fill in.
_SERVER: Final = {
    "AZAION_STATE_DIR": "",
    "AZAION_LAUNCHER": "systemd",
    "AZAION_API_PASSWORD": "",
    "RABBITMQ_PASSWORD": "",
}
_LINK: Final = "/opt/azaion/current/bin/azaionctl"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to be done, and how to see whether it is.

    Attributes:
        text: what it does.
        done: whether there is nothing to do.
        do: does it; may be begun again after a death at any point.
    """

    text: str
    done: Callable[[], bool]
    do: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be installed.

    Attributes:
        shelf: where to. With another root than the machine's nothing is started.
        host: the machine.
        release: the name of the release that is to be in use at the end.
        make: makes that release, if it is not there.
        env_file: the settings; None for those of an example.
        deploy: puts the release to use, and sees whether it proves itself.
        serves: whether it is in use already.
    """

    shelf: Shelf
    host: Host
    release: str
    make: Callable[[], None]
    env_file: Path | None
    deploy: Callable[[], None]
    serves: Callable[[], bool]

    @property
    def server(self) -> ServerLayout:
        """Where everything lies."""
        return self.shelf.server

    @property
    def image(self) -> bool:
        """Whether this is another root than the machine's, where nothing runs."""
        return self.server.root != Path("/")


def steps(plan: Plan) -> list[Step]:
    """All of them, in their order."""
    server = plan.server
    folder = server.release(plan.release)
    begin = [
        Step(text="systemd 252 and polkit are there", done=partial(_equipped, plan), do=partial(_lacking, plan)),
        Step(text=f"make release {plan.release}", done=folder.record.exists, do=plan.make),
        Step(
            text=f"add the user {USER}, and the group {READERS} for those who may read the settings",
            done=lambda: _id(server, "passwd", USER) is not None and _id(server, "group", READERS) is not None,
            do=lambda: _system(plan, "systemd-sysusers", str(folder.units / "azaion.sysusers")),
        ),
        Step(
            text=f"make {_inside(server, server.state)} and {RUN_FOLDER}, {USER}'s",
            done=lambda: all(
                _owned(server, path, mode)
                for path, mode in ((server.state, 0o750), (server.root / RUN_FOLDER.relative_to("/") / "orders", 0o700))
            ),
            do=lambda: _system(plan, "systemd-tmpfiles", "--create", str(folder.units / "azaion.tmpfiles")),
        ),
        Step(
            text=f"write {_inside(server, server.settings)} ({plan.env_file or 'as for a first look'})",
            done=server.settings.exists,
            do=partial(_write_settings, plan),
        ),
        Step(
            text=f"let only root and the group {READERS} read it: 640 root:{READERS}",
            done=lambda: _readable(server),
            do=lambda: _restrict(server),
        ),
        *(_tree(plan)),
        Step(
            text=f"link {_inside(server, server.command)} to the release in use",
            done=lambda: os.path.lexists(server.command) and str(server.command.readlink()) == _LINK,
            do=lambda: _link(server),
        ),
    ]
    units = Step(
        text="install the units, the polkit rule and what goes with them",
        done=lambda: folder.units.is_dir() and not etc.changes(server, folder),
        do=lambda: etc.apply(etc.changes(server, folder)),
    )
    link = Step(
        text=f"point {_inside(server, server.current)} at {plan.release}",
        done=lambda: plan.shelf.current == plan.release,
        do=lambda: plan.shelf.switch(plan.release),
    )
    deploy = Step(
        text=f"put {plan.release} to use: units, polkit rule, {_inside(server, server.current)}, start, verification",
        done=plan.serves,
        do=plan.deploy,
    )
    enable = Step(
        text=f"have {', '.join(ENABLED)} started at every boot",
        done=lambda: all(each.is_symlink() for each in etc.wants(server).values()),
        do=lambda: _system(plan, "systemctl", "--quiet", "enable", *ENABLED),
    )
    return [*begin, *((units, link) if plan.image else (deploy,)), enable]


def carry_out(planned: Sequence[Step], say: Callable[[str], None], *, dry: bool) -> None:
    """Do what is not done yet; say of each what was done, or would be.

    Raises:
        ReleaseError: a step failed; begin again after mending what it names.
    """
    for step in planned:
        if step.done():
            say(f"already so  {step.text}")
        elif dry:
            say(f"would do    {step.text}")
        else:
            say(f"doing       {step.text}")
            try:
                step.do()
            except OSError as error:
                raise ReleaseError(
                    f"{step.text}: {error.strerror}{f' ({error.filename})' if error.filename else ''}; "
                    f"mend it and install again: what is done stays done"
                ) from None
            failpoints.hit("install.step")
            if not step.done():
                raise ReleaseError(f"{step.text}: it was done, and is not so; look by hand")


def removal(shelf: Shelf, host: Host) -> list[Step]:
    """What an uninstall does. Data, state, settings and the user stay.

    Raises:
        ReleaseError: a run goes on.
    """
    server = shelf.server
    if going := use.runs(use.uses(server.releases)):
        raise ReleaseError(f"{', '.join(sorted(going))} still runs: wait for it, or end it with azaionctl cancel")
    # Found now: who is not in a folder any more knows no places.
    placed = etc.installed(server)
    return [
        Step(
            text="start nothing at a boot any more",
            done=lambda: not any(each.is_symlink() for each in etc.wants(server).values()),
            do=lambda: _disable(server, host),
        ),
        Step(
            text=f"remove {len(placed)} files from /etc: units, polkit rule and what goes with them",
            done=lambda: not any(path.exists() for path in placed),
            do=lambda: _remove(placed),
        ),
        Step(
            text="stop the daemon and close its socket",
            done=lambda: not any(_runs(host, unit) for unit in (DAEMON, SOCKET)),
            do=lambda: _stop(host),
        ),
        Step(
            text=f"remove {server.command}",
            done=lambda: not os.path.lexists(server.command),
            do=server.command.unlink,
        ),
        Step(
            text=f"remove {server.program} with its {len(shelf.releases())} releases",
            done=lambda: not server.program.exists(),
            do=lambda: files.remove_tree(server.program),
        ),
    ]


# What the steps look at, and do.


def _equipped(plan: Plan) -> bool:
    return plan.image or not _trouble(plan)


def _trouble(plan: Plan) -> str:
    found = checklist.systemd(plan.host)
    return f"{found.text}: {found.cure}" if found.cure else ""


def _lacking(plan: Plan) -> None:
    raise ReleaseError(_trouble(plan))


def _tree(plan: Plan) -> Iterable[Step]:
    """The root of the data. Made here only, and only where the settings say nothing else: never by the daemon."""
    server = plan.server
    yield Step(
        text=f"make {_inside(server, server.data)}, the root of the data, {USER}'s (mount its disk first)",
        done=lambda: _elsewhere(server) or _owned(server, server.data),
        do=lambda: _make_data(server),
    )


def _elsewhere(server: ServerLayout) -> bool:
    """Whether the settings name another root of the data."""
    if not server.settings.exists():
        return False
    lines = server.settings.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line.partition("=")[2].strip().strip("\"'") for line in lines if line.startswith("AZAION_ROOT_DIR=")]
    return bool(named) and Path(named[-1]) != Path("/") / server.data.relative_to(server.root)


def _make_data(server: ServerLayout) -> None:
    files.make_folder(server.data)
    _own(server, server.data)


def _own(server: ServerLayout, path: Path) -> None:
    user, group = _id(server, "passwd", USER), _id(server, "group", USER)
    if user is None or group is None:
        raise ReleaseError(f"there is no user {USER}")
    os.chown(path, user, group)


def _owned(server: ServerLayout, path: Path, mode: int | None = None) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == _id(server, "passwd", USER) and mode in (None, stat.S_IMODE(found.st_mode))


def _write_settings(plan: Plan) -> None:
    server = plan.server
    source = plan.env_file or server.release(plan.release).example
    text = source.read_text(encoding="utf-8")
    files.make_folder(server.settings.parent)
    files.replace(server.settings, (text if plan.env_file else for_server(text)).encode(), mode=0o600)


def for_server(example: str) -> str:
    """The example of the settings, as a server wants them."""
    lines = []
    for line in example.splitlines():
        name, equals, _ = line.partition("=")
        lines.append(f"{name}={_SERVER[name]}" if equals and name in _SERVER else line)
    return "\n".join(lines) + "\n"


def _readable(server: ServerLayout) -> bool:
    try:
        found = server.settings.stat()
    except OSError:
        return False
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, _id(server, "group", READERS), 0o640)


def _restrict(server: ServerLayout) -> None:
    group = _id(server, "group", READERS)
    if group is None:
        raise ReleaseError(f"there is no group {READERS}")
    os.chown(server.settings, 0, group)
    server.settings.chmod(0o640)


def _link(server: ServerLayout) -> None:
    files.make_folder(server.command.parent)
    files.switch_link(server.command, _LINK)


def _disable(server: ServerLayout, host: Host) -> None:
    there = [unit for unit, link in etc.wants(server).items() if link.is_symlink()]
    host.must("systemctl", "--quiet", "disable", *there)


def _remove(placed: Sequence[Path]) -> None:
    for path in placed:
        path.unlink(missing_ok=True)


def _stop(host: Host) -> None:
    # Their units are gone, and with them what keeps a person from stopping the socket.
    host.must("systemctl", "daemon-reload")
    host.must("systemctl", "stop", SOCKET, DAEMON, "azaiontrain.slice")
    host.run("systemctl", "reset-failed", SOCKET, DAEMON)


def _runs(host: Host, unit: str) -> bool:
    return host.shown("ActiveState", unit=unit).get("ActiveState") in {"active", "activating", "deactivating"}


def _system(plan: Plan, program: str, *arguments: str) -> None:
    plan.host.must(program, *_root(plan), *arguments)


def _root(plan: Plan) -> Sequence[str]:
    return (f"--root={plan.server.root}",) if plan.image else ()


def _id(server: ServerLayout, table: str, name: str) -> int | None:
    """The number of a user or a group of this root's."""
    if server.root == Path("/"):
        try:
            return pwd.getpwnam(name).pw_uid if table == "passwd" else grp.getgrnam(name).gr_gid
        except KeyError:
            return None
    try:
        lines = (server.root / "etc" / table).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split(":")[2]) for line in lines if line.startswith(f"{name}:")), None)


def _inside(server: ServerLayout, path: Path) -> Path:
    return Path("/", path.relative_to(server.root))


def making_of(shelf: Shelf, path: Path, environment: Environment, say: Callable[[str], None]) -> Callable[[], None]:
    """Makes a release of a checkout when it is called."""

    def make() -> None:
        making.make(shelf, path, environment, say)

    return make
