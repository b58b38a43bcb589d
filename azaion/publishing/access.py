"""What the far ends must be told before they let us in, and how long we wait for them. No secret shows in a `repr`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from azaion.publishing.errors import DamagedError

#: An address; plain http only to this machine itself, as for the API.
_ADDRESS: Final = re.compile(r"(https://[^\s/@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?)/?")
_HOST: Final = re.compile(r"[^\s/@:]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class ApiAccess:
    """The Azaion API.

    Attributes:
        url: its base address.
        email: our login.
        password: its password.
        hardware: the fingerprint by which the API knows this machine.
        salt: what the platform mixes into the key of what it hands out; its operator tells it.
        authority: certificates (PEM) of the authority that signed the API's; None is the system's.
    """

    url: str
    email: str
    password: str = field(repr=False)
    hardware: str = field(repr=False)
    salt: str = field(default="", repr=False)
    authority: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A pair of keys of the CDN."""

    key: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class CdnAccess:
    """What ``cdn.yaml`` says.

    Attributes:
        host: the address of the CDN.
        reader: may read and list, and nothing else.
        writer: may write, and need not be able to read.
        bucket: where models lie, if it says so.
        region: the region that requests are signed for, if it says so.
    """

    host: str
    reader: Credentials
    writer: Credentials
    bucket: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, text: bytes) -> "CdnAccess":
        """Read ``cdn.yaml``; keys that are not known are passed over.

        Raises:
            DamagedError: it is not one. The message shows nothing of what stands in it.
        """
        try:
            found = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            found = None
        if not isinstance(found, Mapping):
            raise DamagedError(
                "cdn.yaml cannot be read: either AZAION_API_HARDWARE or AZAION_API_SALT is not what the API uses, "
                "or what it keeps is not that file"
            )
        host, *keys = (_given(found, name) for name in _NAMES)
        return cls(
            host=_address(host),
            reader=Credentials(key=keys[0], secret=keys[1]),
            writer=Credentials(key=keys[2], secret=keys[3]),
            bucket=_given(found, "bucket") if "bucket" in found else None,
            region=_given(found, "region") if "region" in found else None,
        )


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a far end is waited for.

    Attributes:
        connect_s: seconds until a connection stands.
        silence_s: seconds for which it may say nothing.
        grace_s: seconds that every request has, however small.
        slowest_bps: bytes a second; what goes more slowly in the long run is given up.
        attempts: how often a request is tried in all, where repeating it does no harm.
        pause_s: seconds before the second attempt; twice as many before each later one.
    """

    connect_s: float = 10.0
    silence_s: float = 60.0
    grace_s: float = 120.0
    slowest_bps: int = 16 << 10
    attempts: int = 5
    pause_s: float = 0.5

    def allowed_s(self, size: int) -> float:
        """Seconds that a transfer of so many bytes may take."""
        return self.grace_s + size / self.slowest_bps


PATIENCE: Final = Patience()

_NAMES: Final = (
    "host",
    "downloader_access_key",
    "downloader_access_secret",
    "uploader_access_key",
    "uploader_access_secret",
)


def _given(found: Mapping[Any, Any], name: str) -> str:
    value = found.get(name)
    # A key of digits alone is read as a number.
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text or text != text.strip() or not text.isprintable():
        raise DamagedError(f"cdn.yaml gives no usable {name}: ask the operator of the API to mend it")
    return text


def _address(host: str) -> str:
    address = host if "://" in host else f"https://{host}"
    if not _ADDRESS.fullmatch(address) or ("://" not in host and not _HOST.fullmatch(host)):
        raise DamagedError("the host in cdn.yaml is no https:// address: ask the operator of the API to mend it")
    return address.rstrip("/")
