"""What the control socket tells of datasets: which there are, what is in them, which models were trained on them."""

import asyncio
from typing import Any

from aiohttp import web

from azaion import dataset, models
from azaion.dataset import DatasetError
from azaion.layout import Layout


class DatasetRoutes:
    """The part of the control socket below ``/v1/datasets``. It reads manifests, and none of the files they speak of.

    Args:
        layout: where the datasets lie.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [web.get("/v1/datasets", self._list), web.get("/v1/datasets/{name}", self._show)]

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(listing, self._layout))

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response(await asyncio.to_thread(whole, self._layout, name))


def listing(layout: Layout) -> dict[str, Any]:
    """Every dataset, the oldest first; of one that is damaged only why."""
    trained = _trained(layout)
    found: list[dict[str, Any]] = []
    for name in dataset.names(layout):
        try:
            found.append(_record(dataset.load(layout, name), trained.get(name, [])))
        except DatasetError as error:
            found.append({"name": name, "models": trained.get(name, []), "problem": str(error)})
    return {"config": str(layout.config), "datasets": found}


def whole(layout: Layout, name: str) -> dict[str, Any]:
    """Everything about one.

    Raises:
        DatasetError: there is none of this name, or it is damaged.
    """
    snapshot = dataset.load(layout, name)
    return {**snapshot.manifest, **_record(snapshot, _trained(layout).get(name, [])), "config": str(layout.config)}


def _record(snapshot: dataset.Snapshot, trained: list[str]) -> dict[str, Any]:
    manifest = snapshot.manifest
    totals = manifest.get("totals", {})
    return {
        "name": snapshot.name,
        "path": str(snapshot.path),
        "created": manifest.get("created"),
        "images": totals.get("images"),
        "boxes": totals.get("boxes"),
        "bytes": totals.get("bytes"),
        "sides": {side: facts.get("images") for side, facts in manifest["splits"].items()},
        "refused": manifest.get("corrupted", {}).get("count"),
        "models": trained,
    }


def _trained(layout: Layout) -> dict[str, list[str]]:
    """Which models were trained on which dataset."""
    found: dict[str, list[str]] = {}
    for model in models.load_all(layout):
        origin = model.card.get("dataset")
        if isinstance(origin, dict):
            found.setdefault(str(origin.get("name")), []).append(model.name)
    return found
