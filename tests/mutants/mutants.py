"""Builds of the product that break one promise each, on purpose, and the tests that must notice.

Each is a patch beside this file. Its text says what is wrong, which promise of docs/durability.md that breaks
(``Promise:``, a number), and names tests of which each must fail (``Caught-by:``). Whoever changes the code that a
patch is for makes the patch anew, as with `diff -u`.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent


class MutantError(Exception):
    """The code is not what the mutant was made for."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A broken build.

    Attributes:
        patch: the file that says so.
        promise: the one that it breaks, by its number.
        caught_by: tests of which each must fail.
    """

    patch: Path
    promise: int
    caught_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """What is wrong with it."""
        return self.patch.stem

    def apply(self, root: Path) -> None:
        """Break the copy of the code below ``root``.

        Raises:
            MutantError: what it changes does not stand there.
        """
        command = ["git", "apply", str(self.patch)]
        # In a repository around it git would take the copy for a part of that, and change nothing.
        environment = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(root.parent)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MutantError(f"{self.patch} does not fit the code any more; make it anew: {done.stderr}")

    def changed(self) -> list[str]:
        """The files that it changes."""
        lines = self.patch.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]


def _read(patch: Path) -> Mutant:
    words = [line.partition(": ") for line in patch.read_text(encoding="utf-8").splitlines()]
    (promise,) = (int(value) for name, _, value in words if name == "Promise")
    return Mutant(
        patch=patch, promise=promise, caught_by=tuple(value for name, _, value in words if name == "Caught-by")
    )


MUTANTS: Final = [_read(patch) for patch in sorted(_FOLDER.glob("*.patch"))]
