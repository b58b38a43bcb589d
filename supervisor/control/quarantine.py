"""What the control socket says of the messages in quarantine, and what can be done about them."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from azaion.annotations import amqp, message
from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import MAX_NAME_BYTES, Status
from azaion.annotations.quarantine import Quarantine, Quarantined, QuarantineError
from azaion.annotations.stream import Form
from azaion.layout import Layout
from supervisor.control import requests
from supervisor.jobs.store import Store

#: So much of a message is shown as it is.
_HEAD_BYTES: Final = 512
#: A larger message is not read in this process, which shares its memory with nothing so large.
_PREVIEW_BYTES: Final = 16 << 20
#: Larger lists of names or detections are not decoded here: they may take a hundred times the room.
_PREVIEW_FIELD_BYTES: Final = 128 << 10
#: So many names are shown, and so many bad ones.
_NAMES: Final = 20
#: In the record of an event.
_NOTED: Final = 20
#: So many of those that were dropped are remembered, for whoever waits for a retry of theirs.
_REMEMBERED: Final = 100_000

_Identifier = Annotated[str, msgspec.Meta(max_length=60)]
_Kind = TypeVar("_Kind")


class ChangeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which messages to try again, or to drop: these, or all that are there now."""

    ids: Annotated[list[_Identifier], msgspec.Meta(max_length=100_000)] = []
    all: bool = False


_requests: Final = msgspec.json.Decoder(ChangeRequest)


class _Fields(msgspec.Struct, array_like=True):
    """The fields of either kind of body, in the platform's order; nothing is made of them."""

    first: msgspec.Raw
    second: msgspec.Raw
    third: msgspec.Raw
    fourth: msgspec.Raw
    extension: msgspec.Raw = msgspec.Raw()
    detections: msgspec.Raw = msgspec.Raw()
    image: msgspec.Raw = msgspec.Raw()


_fields: Final = msgspec.msgpack.Decoder(_Fields)


class QuarantineRoutes:
    """The part of the control socket below ``/v1/quarantine``.

    Args:
        layout: where the messages lie.
        store: where it is recorded who has asked for what.
        who: the name of a request's caller.
        consumer: the state of the consumer's service.
    """

    def __init__(
        self, layout: Layout, store: Store, who: Callable[[web.Request], str], consumer: Callable[[], str]
    ) -> None:
        self._quarantine = Quarantine(layout.quarantine)
        self._store = store
        self._who = who
        self._consumer = consumer
        self._dropped: dict[str, None] = {}

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/v1/quarantine", self._list),
            web.get("/v1/quarantine/marked", self._marked),
            web.get("/v1/quarantine/{id}", self._show),
            web.post("/v1/quarantine/retry", self._retry),
            web.post("/v1/quarantine/drop", self._drop),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        limit = int(requests.number(request.query, "limit", -1))
        entries = await self._do(self._quarantine.entries)
        newest = entries if limit < 0 else entries[max(0, len(entries) - limit) :]
        return web.json_response(
            {
                "count": len(entries),
                "bytes": sum(entry.bytes for entry in entries),
                "messages": [_record(entry) for entry in newest],
            }
        )

    async def _marked(self, _request: web.Request) -> web.Response:
        """Whose retry has not ended yet, and who will never have one."""
        marked = await self._do(self._quarantine.marked)
        return web.json_response({"marked": marked, "dropped": list(self._dropped)})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(await self._do(lambda: _whole(self._quarantine, request.match_info["id"])))

    async def _retry(self, request: web.Request) -> web.Response:
        names = await self._names(request)
        marked = await self._do(lambda: self._quarantine.mark(names, self._who(request)))
        for name in marked:
            self._dropped.pop(name, None)
        self._note("quarantine-retry", marked, self._who(request))
        gone = set(names) - set(marked)
        return web.json_response(
            {
                "marked": marked,
                "problems": {name: str(QuarantineError(f"message {name} is not in quarantine")) for name in gone},
                "consumer": self._consumer(),
            }
        )

    async def _drop(self, request: web.Request) -> web.Response:
        names = await self._names(request)
        problems = await self._do(lambda: self._quarantine.drop(names))
        dropped = [name for name in names if name not in problems]
        self._dropped.update(dict.fromkeys(dropped))
        for name in list(self._dropped)[:-_REMEMBERED]:
            del self._dropped[name]
        self._note("quarantine-drop", dropped, self._who(request))
        return web.json_response({"dropped": dropped, "problems": problems})

    async def _names(self, request: web.Request) -> list[str]:
        try:
            asked = _requests.decode(await request.read())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise QuarantineError(f"the request cannot be read: {error}") from None
        if asked.all == bool(asked.ids):
            raise QuarantineError("name the messages in `ids`, or say `all`")
        if asked.all:
            return [entry.id for entry in await self._do(self._quarantine.entries)]
        return list(dict.fromkeys(asked.ids))

    async def _do(self, work: Callable[[], _Kind]) -> _Kind:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise QuarantineError(f"the quarantine cannot be used: {error}") from None

    def _note(self, kind: str, names: list[str], actor: str) -> None:
        if names:
            more = f" and {len(names) - _NOTED} more" if len(names) > _NOTED else ""
            self._store.note(kind, ", ".join(names[:_NOTED]) + more, actor=actor)


def _record(entry: Quarantined) -> dict[str, Any]:
    return {
        "id": entry.id,
        "offset": entry.offset,
        "incarnation": entry.incarnation,
        "status": entry.status,
        "event": _event(entry.status),
        "form": entry.form,
        "count": entry.count,
        "bytes": entry.bytes,
        "reason": entry.reason,
        "time": _stamp(entry.time),
        "attempts": entry.attempts,
        "retried": _stamp(entry.retried),
        "marked": entry.marked,
        "damage": entry.damage,
    }


def _whole(quarantine: Quarantine, name: str) -> dict[str, Any]:
    entry = quarantine.get(name)
    asked = quarantine.asked(name)
    head, preview = b"", {}
    try:
        head = quarantine.head(name, _HEAD_BYTES)
        preview = _preview(quarantine, entry)
    except QuarantineError as error:
        preview = {"decoder": str(error)}
    return {
        **_record(entry),
        "asked_by": str(asked["by"]) if "by" in asked else None,
        "asked": _stamp(str(asked["time"])) if "time" in asked else None,
        "head": head.hex(),
        "preview": preview,
    }


def _preview(quarantine: Quarantine, entry: Quarantined) -> dict[str, Any]:
    """What can be said of a message without making much of it."""
    if entry.form is Form.FILE or entry.form is Form.BATCH:
        return {"decoder": "its bytes are no message by themselves; see the reason"}
    if entry.bytes > _PREVIEW_BYTES:
        return {"decoder": f"not asked: it has more than {_PREVIEW_BYTES} bytes"}
    whole = quarantine.read(entry)
    status, body = whole.status, memoryview(whole.body)
    if whole.form is Form.AMQP:
        try:
            status, body = amqp.read(body)
        except BadMessageError as error:
            return {"decoder": str(error)}
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError):
        # Why, the decoder says better.
        return {"decoder": _decoder(status, body)}
    first = memoryview(fields.first)
    small = max(len(first), len(memoryview(fields.detections))) <= _PREVIEW_FIELD_BYTES
    said = {"decoder": _decoder(status, body) if small else f"not asked: a field is larger than {_PREVIEW_FIELD_BYTES}"}
    if names := _read(fields.first, list[str], _PREVIEW_FIELD_BYTES):
        return said | {
            "names": names[:_NAMES],
            "names_count": len(names),
            "bad_names": list(_bad(names))[:_NAMES],
        }
    return said | {
        "name": _read(fields.second, str, 4 * MAX_NAME_BYTES),
        "media": _read(fields.third, str | None, 4 * message.MAX_TEXT),
        "extension": _read(fields.extension, str, MAX_NAME_BYTES),
        "sizes": {
            field: len(memoryview(raw))
            for field, raw in (("detections", fields.detections), ("image", fields.image))
            if memoryview(raw)
        },
    }


def _decoder(status: int | str | None, body: memoryview) -> str:
    try:
        message.decode(status, body)
    except BadMessageError as error:
        return str(error)
    return "nothing against it"


def _read(raw: msgspec.Raw, kind: type[_Kind] | Any, limit: int) -> _Kind | None:
    """A field, if it is small and what it should be."""
    if len(memoryview(raw)) <= limit:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            value: _Kind = msgspec.msgpack.decode(raw, type=kind)
            return value
    return None


def _bad(names: Iterable[str]) -> Iterable[dict[str, str]]:
    for name in names:
        try:
            message.check_name(name)
        except BadMessageError as error:
            yield {"name": name[:MAX_NAME_BYTES], "problem": str(error)[: 4 * MAX_NAME_BYTES]}


def _event(status: int | str | None) -> str | None:
    """What happened, in the word for it; None for a status that is none."""
    text = str(status).strip().lower()
    return next((known.name.lower() for known in Status if text in {str(known.value), known.name.lower()}), None)


def _stamp(time: str | None) -> str | None:
    """As the daemon's other times."""
    return None if time is None else time.replace("+00:00", "Z")
