"""A fake NVML: a shared object that the official binding loads, and whose answers a test sets as it likes."""

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("fake_nvml.c")


class FakeNvml:
    """The library in a folder of its own; whoever is to load it is started with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        library = folder / "libnvidia-ml.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)  # noqa: S607 - any cc

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self._folder)}

    def tell(self, **values: int) -> None:
        """What it tells from now on; ``free_mb_0=1`` is its key ``free_mb.0``."""
        lines = (f"{_key(name)} {value}\n" for name, value in values.items())
        temporary = self._folder / "state.new"
        temporary.write_text("".join(lines), encoding="ascii")
        temporary.rename(self._folder / "state")


def _key(name: str) -> str:
    """A key's words are joined by ``_``, and its numbers follow after dots."""
    words = name.split("_")
    letters = [word for word in words if not word.isdecimal()]
    return ".".join(["_".join(letters), *(word for word in words if word.isdecimal())])
