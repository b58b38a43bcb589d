"""A test of the tests: each promise is broken on purpose, and they notice.

AZAION_MUTANTS=all tries every broken build (`make mutants`, some minutes); otherwise a few are tried.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

CODE: Final = Path(__file__).parents[2]
ALL: Final = os.environ.get("AZAION_MUTANTS") == "all"
#: Those that take a few seconds.
SAMPLE: Final = frozenset({"a-submit-is-acknowledged-before-it-is-committed", "the-offset-is-ahead-of-the-files"})
PROMISES: Final = range(1, 9)

pytestmark = pytest.mark.timeout(0 if ALL else 180)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code with its tests, to be broken."""
    root = tmp_path / "code"
    for name in ("azaion", "supervisor", "workers", "tests", "etc"):
        shutil.copytree(CODE / name, root / name, symlinks=True)
    shutil.copy(CODE / "pyproject.toml", root)
    return root


def run(root: Path, tests: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy, as a person would who has that copy and nothing set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZAION_", "PYTEST_", "COV_"))}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile",
            "any-example",
            *tests,
        ],
        cwd=root,
        env=clean | {"PYTHONPATH": str(root)} | more,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_mutant_can_be_made(copy: Path) -> None:
    """The code that each is made for is still there, and is still code when it is broken."""
    for mutant in MUTANTS:
        before = {copy / name: (copy / name).read_bytes() for name in mutant.changed()}
        mutant.apply(copy)
        for file, text in before.items():
            compile(file.read_bytes(), file, "exec")
            file.write_bytes(text)
    assert {mutant.promise for mutant in MUTANTS} == set(PROMISES)


@pytest.mark.parametrize("mutant", [each for each in MUTANTS if ALL or each.name in SAMPLE], ids=lambda each: each.name)
def test_it_is_caught(copy: Path, mutant: Mutant) -> None:
    mutant.apply(copy)
    assert mutant.caught_by
    for test in mutant.caught_by:
        # Where chance decides what is tried, more is.
        done = run(copy, [test], AZAION_POWER="10")
        assert done.returncode == pytest.ExitCode.TESTS_FAILED, f"{test} is content:\n{done.stdout}\n{done.stderr}"
        assert re.search(r"\b1 failed", done.stdout), f"{test} did not come as far as to fail:\n{done.stdout}"


@pytest.mark.skipif(not ALL, reason="the suite itself shows that: make mutants")
def test_who_catches_them_is_content_with_the_product(copy: Path) -> None:
    done = run(copy, sorted({test for mutant in MUTANTS for test in mutant.caught_by}))
    assert done.returncode == pytest.ExitCode.OK, done.stdout
