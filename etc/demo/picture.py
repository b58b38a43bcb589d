"""``make picture``: draws what it reads as a terminal, for the README."""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100


def main() -> None:
    console = Console(record=True, width=COLUMNS, file=sys.stderr, force_terminal=True)
    for line in sys.stdin.read().splitlines():
        heading = re.match(r"\d\. ", line) is not None
        console.print(Text(line, style="bold" if heading else "green" if line.startswith("$ ") else ""))
    # Rich's own template fetches its font from the network; the reader's own will do.
    drawn = console.export_svg(title="make demo")
    Path(sys.argv[1]).write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
