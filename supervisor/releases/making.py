"""Makes a release: an environment of its own with the product in it, in a folder that appears when it is whole."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

from azaion import failpoints, files
from azaion.layout import ReleaseFolder
from supervisor.releases.model import Release, ReleaseError, named
from supervisor.releases.shelf import STAGING, Shelf

PACKAGES: Final = ("azaion", "supervisor", "workers")
#: What a release is made of; nothing else of a checkout goes into one.
PARTS: Final = (*PACKAGES, "etc/systemd", "requirements", ".env.example", "pyproject.toml")
#: What it is started by.
COMMANDS: Final = {"azaiond": "supervisor.daemon", "azaionctl": "supervisor.ctl"}
#: Where the daemon's unit may not look.
_HIDDEN: Final = ("/home/", "/root/", "/run/user/", "/tmp/")  # noqa: S108 - nothing is written there
#: As git leaves it in an archive.
_COMMIT: Final = re.compile(r'^_COMMIT: Final = "([0-9a-f]{40,64})"$', re.MULTILINE)
_VERSION: Final = re.compile(r'^__version__ = "([0-9A-Za-z.+-]+)"$', re.MULTILINE)
_SHOWN: Final = 12
#: The daemon and the command line can be loaded, and what of the state they know.
_PROBE: Final = """
import supervisor.ctl, supervisor.daemon
from supervisor.jobs.schema import SCHEMA_VERSION
print(SCHEMA_VERSION)
"""


class Environment(Protocol):
    """Where a release has its libraries from."""

    @property
    def text(self) -> str:
        """That, in words."""
        ...

    def make(self, folder: Path, source: Path) -> None:
        """Make a virtual environment with all libraries at ``folder``, as the source asks for them.

        Raises:
            ReleaseError: it cannot be made.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Locked:
    """The libraries of the lock, each with its hash; torch as the index of this machine has it.

    Attributes:
        python: the interpreter.
    """

    python: Path

    @property
    def text(self) -> str:
        """As the record has it."""
        return "requirements/train.lock"

    def make(self, folder: Path, source: Path) -> None:
        """Install them; minutes, and up to 8 GB."""
        _seen(self.python)
        run([self.python, "-m", "venv", folder])
        pip: list[str | Path] = [
            folder / "bin/python",
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
        ]
        run([*pip, "--require-hashes", "--no-deps", "-r", source / "requirements/train.lock"])
        run([*pip, "-r", source / "requirements/torch.txt"])


@dataclass(frozen=True, kw_only=True)
class Given:
    """The libraries of an environment that is there already, as on a server that reaches no index.

    Attributes:
        python: the interpreter.
        folder: the environment. It must stay as it is for as long as any release has it.
    """

    python: Path
    folder: Path

    @property
    def text(self) -> str:
        """As the record has it."""
        return str(self.folder)

    def make(self, folder: Path, source: Path) -> None:
        """Lead to them."""
        del source
        here = f"lib/python{_minor(self.python)}/site-packages"
        if not (self.folder / here).is_dir():
            raise ReleaseError(
                f"{self.folder} is no environment for Python {_minor(self.python)}: it has no {here}; "
                f"name the interpreter that it was made with: --python"
            )
        _seen(self.python)
        _seen(self.folder)
        run([self.python, "-m", "venv", "--without-pip", folder])
        (folder / here / "environment.pth").write_text(f"{self.folder / here}\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What a release is made of, as it was when it was taken.

    Attributes:
        folder: a copy of it.
        version: of the product.
        mark: the commit, or the digest of all files.
        commit: which commit it says that it is.
    """

    folder: Path
    version: str
    mark: str
    commit: str | None

    @property
    def name(self) -> str:
        """What the release is called."""
        return named(f"{self.version}-{self.mark.removeprefix('sha256:')[:12]}")


def interpreter() -> Path:
    """The interpreter behind this process's environment."""
    return Path(os.path.realpath(sys.executable))


def _seen(path: Path) -> None:
    """Refuse what the daemon cannot see, since its unit hides people's folders."""
    if f"{(real := os.path.realpath(path))}/".startswith(_HIDDEN):
        raise ReleaseError(f"{path} lies out of the daemon's sight ({real}; ProtectHome=): use one in /usr or /opt")


def name_of(path: Path) -> str:
    """The name that a release made of this checkout or folder has.

    Raises:
        ReleaseError: none can be made of it.
    """
    with TemporaryDirectory(prefix="azaion-") as scratch:
        return _taken(path, Path(scratch)).name


def make(shelf: Shelf, path: Path, environment: Environment, say: Callable[[str], None]) -> Release:
    """Make a release of a git checkout (of its commit) or of an unpacked folder; returns it as it is if it is there.

    Args:
        shelf: where it goes.
        path: the checkout or the folder.
        environment: where its libraries come from.
        say: is told what is being done.

    Raises:
        ReleaseError: it cannot be made; nothing is left of it.
    """
    files.make_folder(shelf.server.releases)
    scratch = files.temporary_for(shelf.server.releases / "source")
    scratch.mkdir()
    try:
        source = _taken(path, scratch)
        folder = shelf.server.release(source.name)
        if folder.record.exists():
            say(f"release {source.name} is there already")
            return shelf.release(source.name)
        say(f"release {source.name}: making it of {path} ({environment.text})")
        staging = ReleaseFolder(path=folder.path.with_name(f"{STAGING}{source.name}"))
        try:
            environment.make(staging.path, source.folder)
            failpoints.hit("release.staged")
            final = Path("/", folder.path.relative_to(shelf.server.root))
            _fill(staging, source, final)
            release = Release(
                name=source.name,
                version=source.version,
                source=source.mark,
                made=time.time(),
                schema=_probed(staging),
                environment=environment.text,
                commit=source.commit,
            )
            files.write_json(staging.record, release.record())
            files.sync_filesystem(staging.path)
            failpoints.hit("release.built")
            files.rename(staging.path, folder.path)
            failpoints.hit("release.made")
        finally:
            files.remove_tree(staging.path)
    finally:
        files.remove_tree(scratch)
    return release


def _taken(path: Path, scratch: Path) -> _Source:
    """Copy what a release is made of, and find out what it is."""
    missing = [part for part in PARTS if not (path / part).exists()]
    if missing:
        raise ReleaseError(f"{path} is neither a release nor a checkout of the product: it has no {missing[0]}")
    if (path / ".git").exists():
        git: list[str | Path] = ["git", "-c", f"safe.directory={path.resolve()}", "-C", path]
        if changed := run([*git, "status", "--porcelain", "--untracked-files=no"]):
            files_ = ", ".join(line[3:] for line in changed.splitlines()[:3])
            raise ReleaseError(f"{path} has changes that are in no commit ({files_}); commit them: git commit -a")
        mark = run([*git, "rev-parse", "HEAD"]).strip()
        archive = scratch / "source.tar"
        run([*git, "archive", "-o", archive, mark, "--", *PARTS])
        run(["tar", "-C", scratch, "-xf", archive])
        archive.unlink()
    else:
        for part in PARTS:
            copy = scratch / part
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (path / part).is_dir():
                shutil.copytree(path / part, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy2(path / part, copy)
        mark = f"sha256:{_digest(scratch)}"
    text = (scratch / "azaion/__init__.py").read_text(encoding="utf-8")
    if (found := _VERSION.search(text)) is None:
        raise ReleaseError(f"{path}/azaion/__init__.py names no version")
    commit = _COMMIT.search(text)
    return _Source(folder=scratch, version=found[1], mark=mark, commit=commit[1] if commit else None)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{files.sha256(path)}\n".encode())
    return digest.hexdigest()


def _fill(staging: ReleaseFolder, source: _Source, final: Path) -> None:
    """Put the product into its environment, which is to lie at ``final``."""
    (packages,) = staging.libraries.glob("python3.*/site-packages")
    for package in PACKAGES:
        shutil.copytree(source.folder / package, packages / package)
    project = tomllib.loads((source.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    information = packages / f"azaion_training-{source.version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("\n".join(_metadata(project, source.version)) + "\n", encoding="utf-8")
    for command, module in COMMANDS.items():
        script = staging.commands / command
        # By its own folder and not by `current`: what is loaded late is of the same release.
        script.write_text(f"#!{final}/bin/python -P\nfrom {module} import main\n\nmain()\n", encoding="utf-8")
        script.chmod(0o755)
    shutil.copytree(source.folder / "etc/systemd", staging.units)
    shutil.copy2(source.folder / ".env.example", staging.example)
    _lead(staging, final)
    products = [packages / package for package in PACKAGES]
    run([staging.python, "-m", "compileall", "-q", "-j", "0", "-s", staging.path, "-p", final, *products])


def _metadata(project: dict[str, Any], version: str) -> Iterator[str]:
    """What `pip list` and the doctor want to know."""
    yield from ("Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {version}")
    yield f"Requires-Python: {project['requires-python']}"
    yield from (f"Requires-Dist: {each}" for each in project["dependencies"])
    for extra in ("publish", "train"):
        needed = project["optional-dependencies"][extra]
        yield from (f"Provides-Extra: {extra}", *(f"Requires-Dist: {each}; extra == '{extra}'" for each in needed))


def _lead(staging: ReleaseFolder, final: Path) -> None:
    """Have whatever names the folder that it was made in name the one that it will lie in."""
    old, new = os.fsencode(staging.path), os.fsencode(final)
    for path in (*staging.commands.iterdir(), staging.path / "pyvenv.cfg"):
        if path.is_file() and not path.is_symlink() and old in (data := path.read_bytes()):
            path.write_bytes(data.replace(old, new))


def _probed(staging: ReleaseFolder) -> int:
    """The schema of the state that it knows.

    Raises:
        ReleaseError: it cannot even be loaded.
    """
    return int(run([staging.python, "-P", "-c", _PROBE]))


def _minor(python: Path) -> str:
    return run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()


def run(command: Sequence[str | Path]) -> str:
    """Run a command to its end; returns what it has printed.

    Raises:
        ReleaseError: it failed, with its last words.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(each) for each in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            cwd="/",
            check=False,
        )
    except OSError as error:
        raise ReleaseError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_SHOWN:])
        raise ReleaseError(f"{' '.join(map(str, command[:6]))} ended with {done.returncode}:\n{said}")
    return done.stdout
