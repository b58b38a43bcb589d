"""What the documentation lists is what there is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from azaion.config import VARIABLES
from supervisor.ctl import MODULES, parser

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "TESTING.md", *sorted((ROOT / "docs").glob("*.md")))


def test_every_variable_stands_in_the_configuration_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for variable in VARIABLES:
        assert f"| `{variable.name}` | {variable.doc} |" in page, variable.name


def test_every_command_stands_in_the_commands_page() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for command in MODULES:
        assert f"`{command}" in page, command


def test_no_link_of_the_documentation_is_dead() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def _commands(page: Path) -> Iterator[str]:
    """What a page tells people to type: in a fence for the shell, and in backquotes where it is a whole command."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("  #")[0] for fence in fences for line in fence.splitlines()]
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    quoted = re.findall(r"`((?:sudo )?azaionctl [^`\n]*)`", plain)
    if page.name == "operations.md":
        # Where there is little room, without the program's name.
        short = "|".join(sorted(MODULES, key=len, reverse=True))
        quoted += [f"azaionctl {each}" for each in re.findall(rf"`((?:{short}) [^`\n]*)`", plain)]
    for line in lines + quoted:
        for part in re.split(r"&&|;|\|\|", line.replace(r"\|", "|")):
            # A manner of speaking, not a command.
            if not re.search(r"[|\[\]…<>]|\.\.\.", part) and (
                found := re.match(r"\s*(?:sudo )?(?:-u \w+ )?(azaionctl .*)", part)
            ):
                yield found[1]


#: What stands for a number where a number is asked for.
_NUMBERS = {"ID": "1", "N": "1", "JOB": "1", "A": "1", "B": "2"}


def test_every_command_in_the_documentation_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    whole = parser(MODULES.values())
    wrong, known = [], 0
    for page in PAGES:
        for command in _commands(page):
            words = [_NUMBERS.get(word, word) for word in shlex.split(command)[1:]]
            try:
                whole.parse_args(words)
            except SystemExit as end:
                complaint = capsys.readouterr().err
                # Where a command is only named, what it needs is left out.
                if end.code and not re.search("are required: |expected one argument|'COMMAND'", complaint):
                    wrong.append(f"{page.name}: {command}: {complaint.splitlines()[-1]}")
            known += 1
    assert not wrong, "\n".join(wrong)
    assert known > 100
