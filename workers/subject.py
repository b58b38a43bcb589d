"""The registered model that a job is about."""

from pathlib import Path

from azaion import config, models
from azaion.errors import AzaionError
from azaion.layout import Layout
from azaion.models import Model
from azaion.settings import Config
from workers.training.errors import BaseModelError, SpecError


def configuration(path: str) -> Config:
    """The configuration that the daemon has rendered.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return config.load(Path(path))
    except (AzaionError, OSError) as error:
        raise SpecError(f"the configuration {path} cannot be read: {error}") from error


def find(layout: Layout, *, of: str | None, name: str | None) -> Model:
    """The model that the training with the uid ``of`` has registered, or else the one called ``name``.

    Raises:
        BaseModelError: there is none, or its weights are not those that were registered.
        SpecError: neither is given.
    """
    if of is not None:
        found = models.find(layout, of)
        if found is None:
            raise BaseModelError("the training has registered no model, or it was removed since: train again")
    elif name is not None:
        try:
            found = models.load(layout, name)
        except models.ModelError as error:
            raise BaseModelError(str(error)) from error
    else:
        raise SpecError("the job names no model: file it again with one")
    if problem := models.damage(found):
        raise BaseModelError(f"{problem}: train again, or name another model")
    return found
