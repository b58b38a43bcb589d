"""``azaionctl install`` and ``azaionctl uninstall``: from a checkout to a server that runs, and back."""

import argparse
import sys
from pathlib import Path

from azaion.layout import ServerLayout
from supervisor.commands import text
from supervisor.commands.deploy import add_environment, add_patience, deployer_of, environment_of, only_root, say
from supervisor.releases import install, making
from supervisor.releases.host import Host
from supervisor.releases.model import ReleaseError, Verdict
from supervisor.releases.shelf import Shelf


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``install`` and ``uninstall``."""
    parser = commands.add_parser(
        "install",
        help="make a server of this machine, or see that it is one",
        description="User, folders, settings, a release, units, start, verification: what is so already is left alone.",
    )
    parser.add_argument("source", nargs="?", type=Path, help="the checkout (default: the one of this command, if any)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="the settings, for the first time")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="of an image; nothing is started")
    add_environment(parser)
    add_patience(parser)
    parser.set_defaults(run=_install)
    removal = commands.add_parser(
        "uninstall",
        help="take units and releases off this machine; data, state and settings stay",
        description="Refuses while a run goes on. Says where the data are, and how to remove them too.",
    )
    removal.add_argument("--dry-run", action="store_true", help="only say what would be done")
    removal.add_argument("--yes", action="store_true", help="do not ask first")
    removal.set_defaults(run=_uninstall)


def _install(arguments: argparse.Namespace) -> int:
    if not arguments.dry_run:
        only_root("install")
    if arguments.env_file is not None and not arguments.env_file.is_file():
        raise ReleaseError(f"{arguments.env_file} is no file")
    shelf = Shelf(ServerLayout(root=arguments.root.absolute()))
    source = (arguments.source or _checkout()).absolute()
    environment = environment_of(arguments)
    deployer = deployer_of(shelf, arguments)

    def deploy() -> None:
        done = deployer.deploy(shelf.release(name))
        if done.verdict is not Verdict.KEPT:
            raise ReleaseError(
                f"{name} does not run as it should ({done.reason}); look: journalctl -u azaion -p warning"
            )

    name = making.name_of(source) if source.parent != shelf.server.releases else source.name
    plan = install.Plan(
        shelf=shelf,
        host=deployer.host,
        release=name,
        make=install.making_of(shelf, source, environment, say),
        env_file=arguments.env_file,
        deploy=deploy,
        serves=lambda: plan.shelf.current == name and deployer.serves(shelf.release(name)),
    )
    if arguments.dry_run:
        install.carry_out(install.steps(plan), say, dry=True)
        return 0
    first = not shelf.server.settings.exists() and arguments.env_file is None
    with shelf.held():
        if not plan.image:
            deployer.finish()
        install.carry_out(install.steps(plan), say, dry=False)
        deployer.prune()
    if first:
        say(
            f"\nThe settings are those of a first look: annotations from the embedded stream, nothing is published.\n"
            f"Fill in {shelf.server.settings}, then: azaionctl config check && sudo systemctl restart azaion"
        )
    return 0


def _checkout() -> Path:
    """The checkout that this command lies in, or else its release."""
    above = Path(__file__).resolve().parents[2]
    if (above / "pyproject.toml").exists():
        return above
    release = Path(sys.prefix).resolve()
    if (release / "release.json").exists():
        return release
    raise ReleaseError("name the checkout: azaionctl install PATH")


def _uninstall(arguments: argparse.Namespace) -> int:
    shelf, host = Shelf(ServerLayout()), Host()
    if arguments.dry_run:
        install.carry_out(install.removal(shelf, host), say, dry=True)
        return 0
    only_root("uninstall")
    server = shelf.server
    question = f"remove the daemon, its units and {len(shelf.releases())} releases? The data stay. [y/N] "
    if sys.stdin.isatty() and not arguments.yes and not text.confirmed(question):
        say("left alone")
        return 1
    with shelf.held():
        install.carry_out(install.removal(shelf, host), say, dry=False)
    say(
        f"\nLeft are the data ({server.data}, or what AZAION_ROOT_DIR says), the state ({server.state}), the settings\n"
        f"({server.settings}) and the user {install.USER}. To remove these too, for good:\n"
        f"  sudo rm -r {server.data} {server.state} {server.settings.parent}; sudo userdel {install.USER}"
    )
    return 0
