"""What encryption costs: ``python -m benchmarks.encryption [--megabytes N] [--runs N] [--large-megabytes N]``.

Both formats, both ways, in a process of their own, as publishing uses them: measured (SHA-256 of what goes in and of
what comes out) and durable on disk. Beside them, in the same run and on the same file, the commands that do the same
without the hashes and without the fsync: ``openssl enc -aes-256-cbc``, and ``age`` where it is installed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from azaion.publishing import age, encryption
from azaion.publishing.age import Identities, Identity, Recipients
from azaion.publishing.encryption import Opening, Sealing
from azaion.publishing.legacy import LegacyKey
from azaion.publishing.streams import Measure
from benchmarks.measure import machine
from supervisor.commands.text import table

MEGABYTE: Final = 1_000_000
_KEY: Final = "00" * 32
#: So much is compared at a time.
_PIECE: Final = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file whose speed is measured")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large-megabytes", type=int, default=2000, help="size of the file whose memory is measured")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(once(*arguments.child)))
        return
    print(machine())
    with tempfile.TemporaryDirectory(prefix="az-", dir=os.environ.get("TMPDIR")) as name:
        print(run(Path(name), arguments.megabytes, arguments.runs))
        print()
        print(memory(Path(name), arguments.large_megabytes))


def run(folder: Path, megabytes: int, runs: int) -> str:
    """The speeds, as a table; the programs take turns, so that whatever slows the machine down slows all of them."""
    identity = age.generate()
    (folder / "identity").write_text(identity.text)
    plain = folder / "plain"
    fill(plain, megabytes)
    seconds: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, argv in commands(identity).items():
            began = time.perf_counter()
            subprocess.run(argv, check=True, cwd=folder)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
        for way in ("age", "legacy"):
            for what in ("encrypt", "decrypt"):
                told = child(way, what, str(folder), identity.text)
                seconds.setdefault(f"{what} {way}", []).append(told["seconds"])
            assert same(plain, folder / f"{way}.back")
    rows = [["WHAT", "RUNS", "MB/S", "TO OPENSSL"]]
    for name, found in sorted(seconds.items()):
        peer = statistics.median(seconds[f"openssl {'decrypt' if 'decrypt' in name else 'encrypt'}"])
        middle = statistics.median(found)
        rows.append([name, str(len(found)), f"{megabytes / middle:.0f}", f"{peer / middle:.2f}"])
    return table(rows)


def memory(folder: Path, megabytes: int) -> str:
    """The peak of memory with a large file, as a table."""
    identity = age.generate()
    for path in folder.iterdir():
        path.unlink()
    fill(folder / "plain", megabytes)
    rows = [["WHAT", "MB", "PEAK MEMORY", "BEFORE"]]
    for way in ("age", "legacy"):
        for what in ("encrypt", "decrypt"):
            told = child(way, what, str(folder), identity.text)
            rows.append([f"{what} {way}", str(megabytes), f"{told['peak']:.0f} MiB", f"{told['before']:.0f} MiB"])
        for path in (folder / f"{way}.whole", folder / f"{way}.back"):
            path.unlink()
    return table(rows)


def commands(identity: Identity) -> dict[str, list[str]]:
    cipher = ["-aes-256-cbc", "-K", _KEY, "-iv", "00" * 16]
    found = {
        "openssl encrypt": ["openssl", "enc", *cipher, "-in", "plain", "-out", "openssl.whole"],
        "openssl decrypt": ["openssl", "enc", "-d", *cipher, "-in", "openssl.whole", "-out", "openssl.back"],
    }
    here = Path(__file__).parents[1] / ".venv" / "age" / "bin"
    if program := shutil.which("age", path=f"{here}:{os.environ['PATH']}"):
        found["age command encrypt"] = [program, "-r", identity.recipient, "-o", "command.whole", "plain"]
        found["age command decrypt"] = [program, "-d", "-i", "identity", "-o", "command.back", "command.whole"]
    return found


def child(*arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.encryption", "--child", *arguments]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def once(way: str, what: str, place: str, text: str) -> dict[str, float]:
    """One way of one format; returns its seconds and its memory in MiB, before and at its peak."""
    folder, identity = Path(place), Identity(text=text)
    legacy = LegacyKey(text="a key string")
    sealing: Sealing = legacy if way == "legacy" else Recipients(ids=(identity.recipient,))
    opening: Opening = legacy if way == "legacy" else Identities(keys=(identity,))
    before, began = peak(), time.perf_counter()
    if what == "encrypt":
        made = encryption.encrypt(folder / "plain", folder / f"{way}.whole", sealing)
        seconds = time.perf_counter() - began
        (folder / f"{way}.json").write_text(json.dumps([made.plain.size, made.plain.sha256]))
    else:
        size, digest = json.loads((folder / f"{way}.json").read_text())
        with (folder / f"{way}.whole").open("rb") as stream:
            encryption.decrypt(stream, folder / f"{way}.back", opening, plain=Measure(size=size, sha256=digest))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "before": before, "peak": peak()}


def peak() -> float:
    # `ru_maxrss` would count what our parent had when it forked.
    with open("/proc/self/status", encoding="utf-8") as stream:  # noqa: PTH123 - as short as it is
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith("VmHWM"))


def fill(path: Path, megabytes: int) -> None:
    """Weights are as good as random."""
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(MEGABYTE))


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(_PIECE):
            if piece != second.read(_PIECE):
                return False
        return not second.read(1)


if __name__ == "__main__":
    main()
