"""What an upload costs: ``python -m benchmarks.upload [--megabytes N] [--runs N] [--large-megabytes N]``.

To a SeaweedFS on this machine over HTTPS, by turns, each in a process of its own:

==============  ======================================================================================================
boto3           ``upload_file`` with its defaults: ten threads, parts of 8 MiB, no check beyond that of each part
ours            the client of the CDN: four at a time, noted so that a crash can be taken up, each part by its MD5
ours, verified  the same, then read back with the reader's keys and compared by SHA-256, as a publication is
==============  ======================================================================================================

The server shares the processors, so the ratio says more than the speed.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from azaion import files
from azaion.publishing.access import CdnAccess, Credentials
from azaion.publishing.cdn import Cdn
from benchmarks.encryption import fill, peak
from benchmarks.measure import machine
from supervisor.commands.text import table
from tests.objects import BUCKET, ObjectStore, SeaweedFS, running

WAYS: Final = ("boto3", "ours", "ours, verified")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file whose speed is measured")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large-megabytes", type=int, default=2000, help="size of the file whose memory is measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(once(**json.loads(arguments.child))))
        return
    print(machine())
    with tempfile.TemporaryDirectory(prefix="az-") as name, running(SeaweedFS()) as store:
        print(run(store, Path(name) / "plain", arguments.megabytes, arguments.runs))
        print()
        print(run(store, Path(name) / "plain", arguments.large_megabytes, 1))


def run(store: ObjectStore, path: Path, megabytes: int, runs: int) -> str:
    """The table for a file of that size, of which each run sends a new one."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way in WAYS:
            fill(path, megabytes)
            found[way].append(child(store, way, path))
            store.client().delete_object(Bucket=BUCKET, Key="benchmark")
    plain = statistics.median(each["seconds"] for each in found["boto3"])
    rows = [["WAY", "MB", "RUNS", "MB/S", "TO BOTO3", "MEMORY ADDED"]]
    for way, values in found.items():
        middle = statistics.median(each["seconds"] for each in values)
        added = max(each["peak"] - each["before"] for each in values)
        rows.append(
            [way, str(megabytes), str(runs), f"{megabytes / middle:.0f}", f"{plain / middle:.2f}", f"{added:.0f} MiB"]
        )
    return table(rows)


def child(store: ObjectStore, way: str, path: Path) -> dict[str, float]:
    access = store.access
    told = {
        "way": way,
        "path": str(path),
        "host": access.host,
        "authority": str(store.ca),
        "reader": asdict(access.reader),
        "writer": asdict(access.writer),
        "admin": asdict(store.admin),
    }
    argv = [sys.executable, "-m", "benchmarks.upload", "--child", json.dumps(told)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def once(*, way: str, path: str, host: str, authority: str, **keys: dict[str, Any]) -> dict[str, float]:
    """One upload; returns its seconds and its memory in MiB, before and at its peak."""
    reader, writer, admin = (Credentials(**keys[name]) for name in ("reader", "writer", "admin"))
    if way == "boto3":
        import boto3  # noqa: PLC0415 - what one way costs is not to be paid by another

        client = boto3.client(
            "s3",
            endpoint_url=host,
            verify=authority,
            region_name="us-east-1",
            aws_access_key_id=admin.key,
            aws_secret_access_key=admin.secret,
        )
        before, began = peak(), time.perf_counter()
        client.upload_file(path, BUCKET, "benchmark")
        return {"seconds": time.perf_counter() - began, "before": before, "peak": peak()}
    cdn = Cdn(CdnAccess(host=host, reader=reader, writer=writer), bucket=BUCKET, authority=Path(authority))
    file = Path(path)
    # A publication knows it from the encryption.
    digest = files.sha256(file)
    before, began = peak(), time.perf_counter()
    record = file.with_name(f"{secrets.token_hex(4)}.json")
    cdn.upload("benchmark", file, sha256=digest, record=record)
    if way == "ours, verified":
        cdn.verify("benchmark", size=os.path.getsize(path), sha256=digest)  # noqa: PTH202 - as short as it is
    return {"seconds": time.perf_counter() - began, "before": before, "peak": peak()}


if __name__ == "__main__":
    main()
