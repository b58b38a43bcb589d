"""The client of the Azaion API against a process of its own that is as strict as the platform."""

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azaion.publishing.access import CdnAccess, Patience
from azaion.publishing.api import AzaionApi
from azaion.publishing.errors import DamagedError, MissingError, PublishingError, RefusedError, UnreachableError
from tests.azaion_api import FOLDER, Platform
from tests.proxies import Proxy

QUICK = Patience(connect_s=1.0, silence_s=0.5, grace_s=2.0, attempts=3, pause_s=0.01)

CDN = b"""\
host: cdn.azaion.test
downloader_access_key: READER
downloader_access_secret: reads
uploader_access_key: 4711
uploader_access_secret: writes
"""


@pytest.fixture(autouse=True)
def discreet(azaion: Platform, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that any test here makes it log shows a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    for secret in (azaion.access.password, azaion.access.hardware, azaion.access.salt, "eyJ"):
        assert secret not in caplog.text


@pytest.fixture(autouse=True)
async def parted() -> AsyncIterator[None]:
    """TLS takes a moment to say goodbye to a server that was given up; a loop that ends before leaves a warning."""
    yield
    loop: Any = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        # What the loop wakes itself with is always there.
        while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.01)


def client(azaion: Platform, patience: Patience = QUICK, **other: Any) -> AzaionApi:
    return AzaionApi(replace(azaion.access, **other), patience)


async def failing(api: AzaionApi, kind: type[PublishingError], name: str = "small") -> str:
    """What a fetch that must fail says; it holds no secret, and neither does what stands behind it."""
    with pytest.raises(kind) as caught:
        async with api:
            await api.fetch(FOLDER, name)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    access = api._access
    for secret in (access.password, access.hardware, access.salt, "eyJ"):
        assert not secret or secret not in repr(caught.value)
        assert not secret or secret not in repr(access)
    return str(caught.value)


async def test_what_is_uploaded_comes_back_as_it_was(azaion: Platform, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "model").write_bytes(data)
    async with client(azaion) as api:
        for _ in range(2):
            await api.upload(FOLDER, "a model.part", tmp_path / "model")
        assert azaion.path("a model.part").read_bytes() == data
        assert await api.fetch(FOLDER, "a model.part") == data
    assert azaion.seen == {"login": 1, f"resources/{FOLDER}": 2, f"resources/get/{FOLDER}": 1}


async def test_where_the_cdn_is_stays_in_memory(azaion: Platform) -> None:
    azaion.keep("cdn.yaml", CDN)
    async with client(azaion) as api:
        found = await api.cdn(FOLDER)
    assert isinstance(found, CdnAccess)
    assert (found.host, found.reader.key, found.writer.key) == ("https://cdn.azaion.test", "READER", "4711")
    assert found.writer.secret == "writes"  # noqa: S105 - the test's own
    assert "writes" not in repr(found)
    assert "4711" not in repr(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"- a list", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (CDN.replace(b"reads", b""), "no usable downloader_access_secret"),
        (CDN.replace(b"cdn.azaion.test", b"http://cdn.azaion.test"), "no https:// address"),
        (CDN.replace(b"cdn.azaion.test", b"user@cdn.azaion.test"), "no https:// address"),
    ],
)
def test_a_bad_cdn_yaml_is_refused_and_not_shown(text: bytes, why: str) -> None:
    with pytest.raises(DamagedError, match=why) as caught:
        CdnAccess.parse(text)
    assert "writes" not in str(caught.value)


async def test_many_calls_share_the_renewal_of_their_token(azaion: Platform) -> None:
    azaion.keep("small", b"content")
    async with client(azaion) as api:
        await api.login()
        # The platform has restarted: every token is worth nothing.
        azaion.forget()
        found = await asyncio.gather(*(api.fetch(FOLDER, "small") for _ in range(8)))
    assert found == [b"content"] * 8
    assert azaion.seen == {"login": 1, f"resources/get/{FOLDER}": 16}


async def test_a_token_that_is_past_its_time_is_renewed(azaion: Platform) -> None:
    azaion.keep("small", b"content")
    azaion.tokens_last(-1.0)
    async with client(azaion) as api:
        await api.login()
        azaion.tokens_last(3600.0)
        assert await api.fetch(FOLDER, "small") == b"content"
    assert azaion.seen == {"login": 2, f"resources/get/{FOLDER}": 2}


async def test_it_logs_in_again_once_in_a_call(azaion: Platform) -> None:
    azaion.trouble("resources", status=401, times=100)
    assert "refuses it right after a login (401" in await failing(client(azaion), RefusedError)
    assert azaion.seen["login"] == 2
    assert azaion.seen[f"resources/get/{FOLDER}"] == 2


async def test_wrong_credentials_are_not_tried_twice(azaion: Platform) -> None:
    said = await failing(client(azaion, password=azaion.access.salt), RefusedError)
    assert "check AZAION_API_EMAIL and AZAION_API_PASSWORD" in said
    assert azaion.access.email in said
    assert azaion.seen == {"login": 1}


async def test_another_machine_is_refused(azaion: Platform) -> None:
    azaion.keep("small", b"content")
    said = await failing(client(azaion, hardware="another machine"), RefusedError)
    assert "403: this is not the machine" in said
    assert "AZAION_API_HARDWARE" in said


async def test_a_wrong_salt_decrypts_nothing(azaion: Platform) -> None:
    # One in 256 wrong keys leaves what looks like padding.
    azaion.keep("small", bytes(1600))
    said = await failing(client(azaion, salt="another constant"), DamagedError)
    assert "AZAION_API_SALT" in said


async def test_what_is_missing_is_told_apart(azaion: Platform) -> None:
    assert "does not have it (404: no such file)" in await failing(client(azaion), MissingError, "nothing")


@pytest.mark.parametrize(
    "how",
    [
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 500},
        {"cut": True},
        {"wait_s": 0.8},
    ],
)
@pytest.mark.parametrize("path", ["login", "resources/get", "resources/models"])
async def test_what_may_pass_is_tried_again(azaion: Platform, tmp_path: Path, path: str, how: dict[str, Any]) -> None:
    (tmp_path / "small").write_bytes(b"content")
    azaion.trouble(path, times=1 if "wait_s" in how else 2, **how)
    async with client(azaion) as api:
        await api.upload(FOLDER, "small", tmp_path / "small")
        assert await api.fetch(FOLDER, "small") == b"content"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"status": 503}, r"503: no luck; you sent .*\(3 attempts\)"),
        ({"cut": True}, "it breaks off"),
        ({"wait_s": 9}, "it does not answer in time"),
    ],
)
async def test_what_does_not_pass_is_given_up_in_time(azaion: Platform, how: dict[str, Any], why: str) -> None:
    azaion.trouble("resources", times=3, **how)
    async with asyncio.timeout(8):
        said = await failing(client(azaion), UnreachableError)
    assert re.search(why, said)
    assert azaion.seen[f"resources/get/{FOLDER}"] == 3


async def test_a_pause_that_the_api_asks_for_is_kept(azaion: Platform) -> None:
    azaion.keep("small", b"content")
    azaion.trouble("resources", status=429, headers={"Retry-After": "1"})
    before = asyncio.get_running_loop().time()
    async with client(azaion) as api:
        await api.fetch(FOLDER, "small")
    assert asyncio.get_running_loop().time() - before >= 1


@pytest.mark.parametrize("status", [400, 413, 302, 307])
async def test_a_refusal_is_not_repeated_and_a_redirection_not_followed(azaion: Platform, status: int) -> None:
    azaion.trouble("resources", status=status, headers={"Location": f"{azaion.access.url}/elsewhere"})
    assert str(status) in await failing(client(azaion), RefusedError)
    assert azaion.seen == {"login": 1, f"resources/get/{FOLDER}": 1}


async def test_an_endless_answer_is_not_read_to_its_end(azaion: Platform) -> None:
    azaion.trouble("resources", endless=True)
    assert "more than 1048576 bytes" in await failing(client(azaion), DamagedError)


@pytest.mark.parametrize("data", ["<html>", '{"token": ""}', '{"token": 7}', '{"token": "a\\nb"}'])
async def test_what_is_no_api_gives_no_token(azaion: Platform, data: str) -> None:
    azaion.trouble("login", data=data)
    assert "is AZAION_API_URL the API's address?" in await failing(client(azaion), RefusedError)


async def test_a_stranger_s_certificate_is_not_trusted(azaion: Platform) -> None:
    said = await failing(client(azaion, authority=None), RefusedError)
    assert "cannot be trusted" in said
    assert "AZAION_API_CA" in said
    assert not azaion.seen


@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_an_authority_that_is_none_is_named(azaion: Platform, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RefusedError, match=r"AZAION_API_CA: .*ca\.pem cannot be used"):
        async with client(azaion, authority=path):
            pass


async def test_nobody_there_is_said_so(azaion: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = await failing(client(azaion, url=f"https://localhost:{port}"), UnreachableError)
    assert f"localhost:{port} cannot be used now: no connection: " in gone
    unknown = await failing(client(azaion, url="https://nowhere.invalid"), UnreachableError)
    assert "its name cannot be resolved" in unknown


async def test_a_silent_server_is_given_up(azaion: Platform) -> None:
    with Proxy(azaion.address) as relay:
        relay.stall()
        async with asyncio.timeout(8):
            url = f"https://localhost:{relay.address[1]}"
            assert "does not answer in time" in await failing(client(azaion, url=url), UnreachableError)
