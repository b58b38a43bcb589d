"""A bucket of an S3-compatible host, for one pair of keys; its errors in words."""

import os
import ssl
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError, SSLError
from botocore.exceptions import ReadTimeoutError as SilenceError
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.exceptions import ReadTimeoutError as BodySilenceError

from azaion.publishing.access import CdnAccess, Credentials, Patience
from azaion.publishing.errors import MissingError, PublishingError, RefusedError, UnreachableError
from azaion.redaction import Redaction

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_SHOWN_CHARACTERS: Final = 200

_STRANGER: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "InvalidToken"})
#: A request without a body, such as HEAD, is answered by a bare number.
_FORBIDDEN: Final = frozenset({"AccessDenied", "AllAccessDisabled", "401", "403"})
_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchUpload", "404"})
_ELSEWHERE: Final = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion", "301"})
_CHANGED: Final = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"})
_BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "ServiceUnavailable", "Throttling", "TooManyRequests", "429"})
_SERVER_ERROR: Final = 500

#: What the machine's own settings for AWS would have to say. This bucket is no business of theirs.
_NO_SETTINGS: Final = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
    "ignore_configured_endpoint_urls": (None, None, True, None),
}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who comes with which keys.

    Attributes:
        keys: the pair.
        name: what ``cdn.yaml`` calls them: ``downloader`` or ``uploader``.
    """

    keys: Credentials
    name: str


class Bucket:
    """The bucket as one holder of keys sees it.

    ``client`` is boto3's; whatever is called on it stands in ``with bucket.plainly(...)``, where all that may go
    wrong far away becomes a `PublishingError`. boto3 repeats by itself what may be repeated.

    Args:
        access: the CDN.
        holder: who comes.
        name: the bucket's.
        region: what requests are signed for.
        authority: certificates (PEM) of the authority that signed the CDN's; None is the system's.
        patience: how long it is waited for.

    Raises:
        RefusedError: the authority is no file of certificates.
    """

    def __init__(
        self, access: CdnAccess, holder: Holder, name: str, *, region: str, authority: Path | None, patience: Patience
    ) -> None:
        self.name: Final = name
        self.patience: Final = patience
        self.host: Final = access.host
        self._holder = holder
        pairs = (access.reader, access.writer)
        self._redaction = Redaction(text for pair in pairs for text in (pair.key, pair.secret))
        if authority is not None:
            _usable(authority)
        session = boto3.Session(
            aws_access_key_id=holder.keys.key,
            aws_secret_access_key=holder.keys.secret,
            region_name=region,
            botocore_session=botocore.session.Session(session_vars=_NO_SETTINGS),
        )
        self.client: Final[S3Client] = session.client(
            "s3",
            endpoint_url=access.host,
            verify=str(authority) if authority is not None else True,
            config=Config(
                connect_timeout=patience.connect_s,
                read_timeout=patience.silence_s,
                retries={"mode": "standard", "total_max_attempts": patience.attempts},
                s3={"addressing_style": "path"},
                # Some hosts mishandle the trailers that boto3 would send otherwise. We have checksums of our own.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @contextmanager
    def plainly(self, doing: str) -> Iterator[None]:
        """Says in words what goes wrong; ``doing`` is what cannot be done then: ``KEY cannot be sent``."""
        try:
            yield
        except ClientError as error:
            raise self._answered(error, doing) from None
        except SSLError as error:
            raise self._untrusted(error, doing) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise UnreachableError(
                f"{doing}: the CDN at {self.host} {self._trouble(error)}; check the network, or try again later"
            ) from None
        except CancelledError:
            raise UnreachableError(
                f"{doing}: the CDN at {self.host} goes on at less than {self.patience.slowest_bps} bytes a second; "
                "try again later"
            ) from None

    def _answered(self, error: ClientError, doing: str) -> PublishingError:
        code = error_code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        text = self._redaction.text(str(error.response.get("Error", {}).get("Message", "")))
        said = " ".join(f"{code} {text}".split())[:_SHOWN_CHARACTERS]
        name = self._holder.name
        if code == "NoSuchBucket":
            return RefusedError(f"{doing}: the CDN at {self.host} has no bucket {self.name}: check AZAION_CDN_BUCKET")
        if code in _ABSENT:
            return MissingError(f"{doing}: the CDN at {self.host} has no such object in its bucket {self.name}")
        if code in _STRANGER:
            return RefusedError(
                f"{doing}: the CDN at {self.host} does not take the {name}'s keys ({said}): "
                f"ask the operator of the API to mend {name}_access_key and {name}_access_secret in cdn.yaml"
            )
        if code in _FORBIDDEN:
            return RefusedError(
                f"{doing}: the CDN at {self.host} does not let the {name} do that in its bucket {self.name} ({said}): "
                "check AZAION_CDN_BUCKET, or ask the operator of the CDN for the right"
            )
        if code == "RequestTimeTooSkewed":
            return RefusedError(f"{doing}: this machine's clock differs from the CDN's: check it with timedatectl")
        if code in _ELSEWHERE:
            return RefusedError(f"{doing}: the CDN at {self.host} wants another region ({said}): set AZAION_CDN_REGION")
        if code in _CHANGED:
            return UnreachableError(f"{doing}: it was changed on its way to {self.host} ({said}); try again")
        if code in _BUSY or status >= _SERVER_ERROR:
            return UnreachableError(f"{doing}: the CDN at {self.host} has trouble of its own ({said}); try again later")
        return RefusedError(f"{doing}: the CDN at {self.host} refuses it ({said})")

    def _untrusted(self, error: SSLError, doing: str) -> PublishingError:
        # botocore keeps the reason only as text.
        reason = str(error.kwargs.get("error", ""))
        if "CERTIFICATE_VERIFY_FAILED" not in reason:
            return UnreachableError(f"{doing}: {self.host} does not speak TLS as it should; try again later")
        why = reason.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "certificate verify failed"
        return RefusedError(
            f"{doing}: the certificate of the CDN at {self.host} cannot be trusted: {why}; "
            "have it renewed, or name its authority in AZAION_CDN_CA"
        )

    def _trouble(self, error: Exception) -> str:
        if isinstance(error, EndpointConnectionError):
            unknown = isinstance(error.kwargs.get("error"), NameResolutionError)
            return "has a name that cannot be resolved" if unknown else "cannot be reached"
        if isinstance(error, ConnectTimeoutError):
            return f"has not answered within {self.patience.connect_s:g} s"
        if isinstance(error, SilenceError | BodySilenceError):
            return f"has been silent for {self.patience.silence_s:g} s"
        return "breaks off"


def error_code(error: ClientError) -> str:
    """What the host calls the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _usable(authority: Path) -> None:
    try:
        ssl.create_default_context(cafile=authority)
    except OSError as error:
        reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise RefusedError(f"AZAION_CDN_CA: {authority} cannot be used: {reason}") from None
