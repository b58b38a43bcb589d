"""What the documentation lists is what there is."""

import re
from pathlib import Path

from azaion.config import VARIABLES
from supervisor.ctl import MODULES

ROOT = Path(__file__).parents[2]


def test_every_variable_stands_in_the_configuration_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for variable in VARIABLES:
        assert f"| `{variable.name}` | {variable.doc} |" in page, variable.name


def test_every_command_stands_in_the_commands_page() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for command in MODULES:
        assert f"`{command}" in page, command


def test_no_link_of_the_documentation_is_dead() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
