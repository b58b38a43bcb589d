"""Whether the API that models are published to can be reached, and until when certificates are good."""

import asyncio
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from azaion.settings import RabbitMQ
from supervisor.health import words
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict

CONNECT_S: Final = 8.0
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Something to connect to."""

    host: str
    port: int
    tls: bool = True
    authority: str | None = None

    @classmethod
    def of_url(cls, url: str, authority: Path | None = None) -> "Place":
        """Where an address leads."""
        parts = urlsplit(url)
        return cls(
            host=parts.hostname or "",
            port=parts.port or _PORTS[parts.scheme],
            tls=parts.scheme == "https",
            authority=str(authority) if authority is not None else None,
        )

    @classmethod
    def of_broker(cls, broker: RabbitMQ) -> "Place":
        """Where the broker is."""
        authority = str(broker.tls_ca) if broker.tls_ca else None
        return cls(host=broker.host, port=broker.port, tls=broker.tls, authority=authority)


@dataclass(frozen=True, kw_only=True)
class Contact:
    """What came of a connection.

    Attributes:
        problem: why there was none; empty if there was.
        untrusted: whether that is for its certificate.
        silent: whether it merely did not answer.
        expires: when its certificate ends, in seconds since 1970; None without TLS.
    """

    problem: str = ""
    untrusted: bool = False
    silent: bool = False
    expires: float | None = None


async def contact(place: Place) -> Contact:
    """Connect, shake hands, leave."""
    try:
        # A megabyte of authorities is read for it, and kept no longer than this.
        context = await asyncio.to_thread(ssl.create_default_context, cafile=place.authority) if place.tls else None
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
    except TimeoutError:
        return Contact(problem=f"it has not answered within {CONNECT_S:g} s", silent=True)
    except ssl.SSLCertVerificationError as error:
        return Contact(problem=f"its certificate cannot be trusted: {error.verify_message}", untrusted=True)
    except OSError as error:
        return Contact(problem=words.reason(error))
    try:
        certificate = writer.get_extra_info("peercert") or {}
        expires = certificate.get("notAfter")
        return Contact(expires=ssl.cert_time_to_seconds(expires) if expires else None)
    finally:
        with suppress(OSError):
            writer.transport.abort()


def judge_api(place: Place, found: Contact) -> Seen:
    """Whether models could be published."""
    where = f"{place.host}:{place.port}"
    if found.problem:
        return Seen(
            verdict=Verdict.CRITICAL,
            text=f"{where} cannot be reached: {found.problem}",
            advice="check AZAION_API_URL and the network; what is trained meanwhile waits to be published",
            sure=not found.silent,
        )
    return Seen(verdict=Verdict.OK, text=f"{where} answers")


def judge_certificate(place: Place, found: Contact, levels: Levels, now: float) -> Seen:
    """For how many days a certificate is still good."""
    subject = f"{place.host}:{place.port}"
    if found.untrusted:
        return Seen(subject=subject, verdict=Verdict.CRITICAL, text=found.problem, advice=_RENEW)
    if found.expires is None:
        return Seen(subject=subject, verdict=Verdict.UNKNOWN, text=found.problem or "it shows no certificate")
    days = (found.expires - now) / 86400
    verdict, eased = levels.judge(days)
    text = f"ends in {words.duration(found.expires - now)}"
    return Seen(subject=subject, verdict=verdict, eased=eased, text=text, advice=_RENEW, value=days)


_RENEW: Final = "have it renewed, and check this machine's clock"


async def look_at_api(place: Place) -> list[Seen]:
    """The look at the API."""
    return [judge_api(place, await contact(place))]


class CertificateLook:
    """The look at certificates. One that cannot be seen just now ends when it was to end before."""

    def __init__(self, places: Sequence[Place], levels: Levels) -> None:
        self._places = [place for place in places if place.tls]
        self._levels = levels
        self._known: dict[Place, Contact] = {}

    async def __call__(self) -> list[Seen]:
        """Look at each."""
        return [await self._look(place) for place in self._places]

    async def _look(self, place: Place) -> Seen:
        found = await contact(place)
        if found.problem and not found.untrusted:
            found = self._known.get(place, found)
        else:
            self._known[place] = found
        return judge_certificate(place, found, self._levels, time.time())
