"""A throwaway OpenStack Swift, which speaks S3 in its own way: parts in a bucket beside it, rights by lists."""

import getpass
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError
from urllib.parse import quote

import pytest

from tests.objects import BUCKET, ObjectStore
from tests.ports import HOST
from tests.waiting import until

_BIN = Path(sys.prefix) / "swift" / "bin"

_SERVER = """
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {folder}
devices = {folder}/disks
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
workers = 0
user = {user}
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

_PROXY = """
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {folder}
workers = 0
user = {user}
{tls}
[pipeline:main]
pipeline = {pipeline} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
{owner}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = {host}:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_admin = {admin} .admin
user_test_downloader = {reader}
user_test_uploader = {writer}
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

_KINDS = ("account", "container", "object")


class Swift(ObjectStore):
    """Swift with one disk. Who may only write may not even remove what he wrote: Swift would have to read it."""

    def __init__(self) -> None:
        if not (_BIN / "swift-proxy-server").exists():
            _missing("no OpenStack Swift: `make test` fetches it")
        super().__init__(5, prefix="test:")

    def _prepare(self) -> None:
        (self.folder / "disks" / "d1").mkdir(parents=True)
        _probe(self.folder / "disks" / "d1")
        hashes = "[swift-hash]\nswift_hash_path_suffix = tests\n"
        policy = "[storage-policy:0]\nname = one\ndefault = yes\n"
        (self.folder / "swift.conf").write_text(hashes + policy)
        known = {"host": HOST, "folder": self.folder, "user": getpass.getuser()}
        for kind, port in zip(_KINDS, self._ports, strict=False):
            (self.folder / f"{kind}.conf").write_text(_SERVER.format(**known, name=kind, port=port))
            self._ring(kind, port)
        secret = {"admin": self.admin.secret, "reader": self.reader.secret, "writer": self.writer.secret}
        tls = f"cert_file = {self.folder}/server.pem\nkey_file = {self.folder}/server.key"
        pipeline = "catch_errors cache s3api tempauth copy slo dlo"
        facing = _PROXY.format(**known, **secret, port=self._ports[4], tls=tls, pipeline=pipeline, owner="")
        (self.folder / "proxy.conf").write_text(facing)
        # One more without any rights, for a moment: who may do what is not for S3 to say here.
        owner = "swift_owner_headers = x-none"
        inside = _PROXY.format(
            **known, **secret, port=self._ports[3], tls="", pipeline="catch_errors cache", owner=owner
        )
        (self.folder / "inside.conf").write_text(inside)

    def _ring(self, kind: str, port: int) -> None:
        def builder(*arguments: str) -> None:
            command: list[str | Path] = [_BIN / "swift-ring-builder", f"{kind}.builder", *arguments]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

        builder("create", "2", "1", "0")
        disk = ("--region", "1", "--zone", "1", "--device", "d1", "--weight", "1")
        builder("add", *disk, "--ip", HOST, "--port", str(port))
        builder("rebalance")

    def _commands(self) -> list[list[str | Path]]:
        return [[_BIN / f"swift-{kind}-server", self.folder / f"{kind}.conf"] for kind in (*_KINDS, "proxy")]

    def start(self) -> None:
        """Start it; see `ObjectStore.start`."""
        super().start()
        command = [_BIN / "swift-proxy-server", self.folder / "inside.conf"]
        with (self.folder / "log").open("ab") as log:
            inside = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._guard.tell(*self._running, inside)
        try:
            reader, writer = self.reader.key, self.writer.key
            until(lambda: self._allow(BUCKET, f"{reader},.rlistings", writer), "Swift knows the rights")
            # What S3 calls the parts of an upload lies here; whoever reads the whole reads them.
            until(lambda: self._allow(f"{BUCKET}+segments", f"{reader},{writer}", writer), "Swift knows the rights")
        finally:
            self._guard.tell(*self._running)
            inside.kill()
            inside.wait()

    def _allow(self, container: str, read: str, write: str) -> bool:
        url = f"http://{HOST}:{self._ports[3]}/v1/AUTH_test/{quote(container, safe='')}"
        rights = {"X-Container-Read": read, "X-Container-Write": write}
        request = urllib.request.Request(url, method="PUT", headers=rights)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
                return bool(answer.status < 300)
        except URLError:
            return False


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") or os.environ.get("AZAION_REQUIRE_SWIFT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _probe(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.swift", b"yes")
    except OSError:
        _missing(f"the filesystem of {folder} keeps no extended attributes, which Swift needs")
