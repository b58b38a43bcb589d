"""The target ``azaion``: small things to the Azaion API, large ones to the CDN."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from azaion.publishing.access import PATIENCE, ApiAccess, Patience
from azaion.publishing.api import AzaionApi
from azaion.publishing.cdn import Cdn, Stored
from azaion.publishing.streams import Progress
from azaion.publishing.target import MAX_SMALL_BYTES

_Value = TypeVar("_Value")


class Platform:
    """The platform as a target; see `azaion.publishing.target.Target`.

    Nothing is asked of either end before it is needed; the keys to the CDN are fetched then, and kept in memory alone.

    Args:
        access: the API.
        folder: of the API.
        bucket: of the CDN, where the API names none.
        region: of the CDN, where the API names none.
        authority: certificates of the authority that signed the CDN's.
        patience: how long the two are waited for.
    """

    name = "azaion"

    def __init__(
        self,
        access: ApiAccess,
        *,
        folder: str,
        bucket: str,
        region: str,
        authority: Path | None,
        patience: Patience = PATIENCE,
    ) -> None:
        self.place: Final = f"{access.url.rstrip('/')}, folder {folder}"
        self._folder = folder
        self._bucket = bucket
        self._region = region
        self._authority = authority
        self._patience = patience
        self._api = AzaionApi(access, patience)
        self._loop = asyncio.Runner()
        self._known: Cdn | None = None

    def __enter__(self) -> Self:
        self._do(self._api.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._known = None
        try:
            self._do(self._api.__aexit__(kind, error, trace))
        finally:
            self._loop.close()

    def send(self, key: str, path: Path, *, sha256: str, record: Path, on_progress: Progress) -> None:
        """To the CDN."""
        self._cdn().upload(key, path, sha256=sha256, record=record, on_progress=on_progress)

    def abandon(self, record: Path) -> None:
        """At the CDN."""
        if record.exists():
            self._cdn().abandon(record)

    def verify(self, key: str, *, size: int, sha256: str, on_progress: Progress) -> None:
        """With the keys of those who may only read."""
        self._cdn().verify(key, size=size, sha256=sha256, on_progress=on_progress)

    def holds(self, key: str, *, size: int, sha256: str) -> bool:
        """By what was told when it was sent."""
        return self._cdn().find(key) == Stored(size=size, sha256=sha256)

    def download(self, key: str, path: Path, *, size: int, sha256: str, on_progress: Progress) -> None:
        """From the CDN; goes on where an earlier call was broken off."""
        self._cdn().download(key, path, size=size, sha256=sha256, on_progress=on_progress)

    def remove(self, key: str) -> None:
        """From the CDN; of the API nothing can be removed."""
        self._cdn().delete(key)

    def put(self, name: str, path: Path) -> None:
        """To the API."""
        self._do(self._api.upload(self._folder, name, path))

    def get(self, name: str) -> bytes:
        """From the API."""
        return self._do(self._api.fetch(self._folder, name, limit=MAX_SMALL_BYTES))

    def _cdn(self) -> Cdn:
        if self._known is None:
            access = self._do(self._api.cdn(self._folder))
            self._known = Cdn(
                access,
                bucket=access.bucket or self._bucket,
                region=access.region or self._region,
                authority=self._authority,
                patience=self._patience,
            )
        return self._known

    def _do(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        return self._loop.run(work)
