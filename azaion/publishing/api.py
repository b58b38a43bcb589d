"""The Azaion REST API: small things are put there and fetched from there; it also says where the CDN is.

What is not known of the platform is assumed in one place each, and told in docs/publishing.md: the fields of the
requests in `AzaionApi.upload` and `AzaionApi.fetch`, the key of what it hands out in `resource_key`.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from azaion.backoff import delays
from azaion.publishing.access import PATIENCE, ApiAccess, CdnAccess, Patience
from azaion.publishing.errors import DamagedError, MissingError, RefusedError, UnreachableError
from azaion.publishing.legacy import decrypt_bytes
from azaion.redaction import Redaction

#: Under this name the API keeps, beside the models, where the CDN is and who may do what there.
CDN_FILE: Final = "cdn.yaml"

#: Nothing that is fetched from the API is larger: the large part of a model lies on the CDN.
MAX_BYTES: Final = 1 << 20

#: How much of an answer that is an error is read, and how much of it is shown.
_READ_BYTES: Final = 4096
_SHOWN_CHARACTERS: Final = 200
#: The API may ask for more patience than we have.
_LONGEST_PAUSE_S: Final = 60.0

_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_STRANGER: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
#: With these a login is refused; which of them is up to the platform.
_NO_LOGIN: Final = _STRANGER | {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}

_Body = Callable[[], AbstractContextManager[dict[str, Any]]]

logger = logging.getLogger(__name__)


def resource_key(access: ApiAccess) -> str:
    """The key string of what the API hands out to this login on this machine; a secret.

    The API makes the same one of the email and the password of the login, the fingerprint that came with the request,
    and a constant of the platform, AZAION_API_SALT.
    """
    return f"{access.email}-{access.password}-{access.hardware}-{access.salt}"


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the API has said; of an error only the beginning."""

    status: int
    data: bytes
    pause_s: float = 0.0

    @property
    def good(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def worth_repeating(self) -> bool:
        return self.status in _AGAIN or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class _Login(msgspec.Struct):
    """The answer to a login."""

    token: str


class AzaionApi:
    """A session with the API: ``async with AzaionApi(access) as api``.

    It logs in when it must, and again, once in a call, when the API does not take its token any more. What is worth
    repeating is repeated, so a caller need not. Several calls may run at a time; they share one login.

    Args:
        access: who we are, and where it is.
        patience: how long it is waited for.

    Every method raises:
        UnreachableError: it cannot be reached, is silent, breaks off or has trouble of its own, again and again.
        RefusedError: it does not take our credentials, our fingerprint or what we ask for; or its certificate cannot
            be trusted.
    """

    def __init__(self, access: ApiAccess, patience: Patience = PATIENCE) -> None:
        self._access = access
        self._patience = patience
        self._base = access.url.rstrip("/")
        self._where = URL(self._base).authority
        self._token: str | None = None
        self._door = asyncio.Lock()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(_trusting, self._access.authority))
        timeout, cookies = self._timeout(MAX_BYTES), aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=cookies)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._token = None
        await self._session.close()

    async def login(self) -> None:
        """See whether the API takes our login."""
        await self._pass(self._token)

    async def upload(self, folder: str, name: str, path: Path) -> None:
        """Put a file into a folder of the API, in place of what has the same name there. It is read as it is sent.

        Raises:
            OSError: it cannot be read.
        """

        @contextmanager
        def body() -> Any:
            # A form is used up by an attempt.
            with path.open("rb") as stream:
                # Else the name comes percent-encoded.
                form = aiohttp.FormData(quote_fields=False)
                form.add_field("data", stream, filename=name, content_type="application/octet-stream")
                yield {"data": form, "timeout": self._timeout(path.stat().st_size)}

        answer = await self._authorised(f"resources/{quote(folder, safe='')}", body)
        self._check(answer, f"{name} cannot be put into its folder {folder}")

    async def fetch(self, folder: str, name: str, *, limit: int = MAX_BYTES) -> bytes:
        """What a folder of the API holds under a name, decrypted, in memory alone.

        It is not authenticated: whether it is what somebody has put there is for a signature to say.

        Args:
            folder: the folder.
            name: the name in it.
            limit: a larger answer, in bytes, is not read to its end.

        Raises:
            MissingError: there is nothing of that name.
            DamagedError: it cannot be decrypted, or is too large.
        """
        asked = {"password": self._access.password, "hardware": self._access.hardware, "fileName": name}
        path = f"resources/get/{quote(folder, safe='')}"
        answer = await self._authorised(path, lambda: nullcontext({"json": asked}), limit)
        self._check(answer, f"{name} cannot be fetched from its folder {folder}")
        try:
            return decrypt_bytes(answer.data, resource_key(self._access))
        except ValueError:
            raise DamagedError(
                f"{name} of the API's folder {folder} cannot be decrypted: either AZAION_API_HARDWARE or "
                "AZAION_API_SALT is not what the API uses, or it was cut short"
            ) from None

    async def cdn(self, folder: str) -> CdnAccess:
        """Where the CDN is, and the keys to it, as the API's ``cdn.yaml`` says. They are kept nowhere.

        Raises:
            MissingError: the folder has no ``cdn.yaml``.
            DamagedError: it cannot be decrypted, or is not what it should be.
        """
        return CdnAccess.parse(await self.fetch(folder, CDN_FILE))

    def _timeout(self, size: int) -> aiohttp.ClientTimeout:
        patience = self._patience
        return aiohttp.ClientTimeout(
            total=patience.allowed_s(size), sock_connect=patience.connect_s, sock_read=patience.silence_s
        )

    async def _authorised(self, path: str, body: _Body, limit: int = MAX_BYTES) -> _Answer:
        token = await self._pass(None)
        answer = await self._repeated(path, body, limit, token)
        if answer.status in _STRANGER:
            token = await self._pass(token)
            answer = await self._repeated(path, body, limit, token)
        return answer

    async def _pass(self, worn: str | None) -> str:
        """A token other than the one that is worn out. Whoever comes while another logs in gets that one's token."""
        async with self._door:
            if self._token is None or self._token == worn:
                self._token = await self._log_in()
            return self._token

    async def _log_in(self) -> str:
        asked = {"email": self._access.email, "password": self._access.password}
        answer = await self._repeated("login", lambda: nullcontext({"json": asked}), MAX_BYTES, None)
        if answer.status in _NO_LOGIN:
            raise RefusedError(
                f"the API at {self._where} does not take the login {self._access.email} ({self._said(answer)}): "
                "check AZAION_API_EMAIL and AZAION_API_PASSWORD"
            )
        self._check(answer, "login")
        try:
            token = msgspec.json.decode(answer.data, type=_Login).token
        except (msgspec.DecodeError, UnicodeDecodeError):
            token = ""
        if not token or not token.isascii() or not token.isprintable():
            raise RefusedError(f"what answers at {self._where} gives no token: is AZAION_API_URL the API's address?")
        return token

    async def _repeated(self, path: str, body: _Body, limit: int, token: str | None) -> _Answer:
        """One request, tried again while that may help. All that we ask may be asked twice."""
        pauses = delays(self._patience.pause_s)
        for attempt in count(1):
            try:
                answer = await self._once(path, body, limit, token)
            except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
                raise RefusedError(
                    f"the certificate of the API at {self._where} cannot be trusted: {_untrusted(error)}; "
                    "have it renewed, or name its authority in AZAION_API_CA"
                ) from None
            except TimeoutError:
                trouble, asked_s = "it does not answer in time", 0.0
            except (aiohttp.ClientError, OSError) as error:
                trouble, asked_s = _trouble(error), 0.0
            else:
                if not answer.worth_repeating:
                    return answer
                trouble, asked_s = self._said(answer), answer.pause_s
            if attempt >= self._patience.attempts:
                raise UnreachableError(
                    f"the API at {self._where} cannot be used now: {trouble} ({attempt} attempts); "
                    "check AZAION_API_URL and the network, or try again later"
                )
            pause = max(next(pauses), min(asked_s, _LONGEST_PAUSE_S))
            logger.warning("the API at %s: %s; again in %.1f s", self._where, trouble, pause)
            await asyncio.sleep(pause)
        raise AssertionError

    async def _once(self, path: str, body: _Body, limit: int, token: str | None) -> _Answer:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        url = URL(f"{self._base}/{path}", encoded=True)
        with body() as content:
            # A redirection would take our password who knows where.
            sending = self._session.post(url, headers=headers, allow_redirects=False, **content)
            async with sending as response:
                good = response.status < HTTPStatus.MULTIPLE_CHOICES
                with _hanging_up(response):
                    data = await _read(response.content, limit if good else _READ_BYTES)
                if good and len(data) > limit:
                    raise DamagedError(f"the API at {self._where} answers with more than {limit} bytes")
                return _Answer(status=response.status, data=data, pause_s=_asked(response.headers.get("Retry-After")))

    def _check(self, answer: _Answer, what: str) -> None:
        if answer.good:
            return
        said = self._said(answer)
        if answer.status in _STRANGER:
            raise RefusedError(
                f"{what}: the API at {self._where} refuses it right after a login ({said}): {self._access.email} may "
                "not do that, or AZAION_API_HARDWARE is not by what it knows this machine"
            )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise MissingError(f"{what}: the API at {self._where} does not have it ({said})")
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            raise RefusedError(f"{what}: {self._where} leads elsewhere ({said}): is AZAION_API_URL the API's address?")
        raise RefusedError(f"{what}: the API at {self._where} refuses it ({said})")

    def _said(self, answer: _Answer) -> str:
        """The status, and in short, without our secrets, what came with it."""
        access = self._access
        known = Redaction(filter(None, (access.password, access.hardware, access.salt, self._token)))
        text = " ".join(known.text(answer.data.decode(errors="replace")).split())
        shown = "".join(filter(str.isprintable, text))[:_SHOWN_CHARACTERS]
        return f"{answer.status}: {shown}" if shown else str(answer.status)


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    """At most one byte more than the limit."""
    data = bytearray()
    async for piece in content.iter_chunked(_READ_BYTES):
        data += piece
        if len(data) > limit:
            break
    return bytes(data[: limit + 1])


@contextmanager
def _hanging_up(response: aiohttp.ClientResponse) -> Iterator[None]:
    """End the connection at once if not all of an answer was read: TLS would take in the rest first."""
    connection = response.connection
    try:
        yield
    finally:
        if not response.content.at_eof() and connection is not None and connection.transport is not None:
            connection.transport.abort()


def _trusting(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise RefusedError(f"AZAION_API_CA: {authority} cannot be used: {reason}") from None


def _untrusted(error: Exception) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    return cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else str(cause)


def _trouble(error: Exception) -> str:
    """Why it came to nothing, in words; never with a header or an address with a password."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS as it should"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or error.os_error}"
    return "it breaks off"


def _asked(retry_after: str | None) -> float:
    """For how many seconds the API asks us to wait; a date counts as nothing."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
