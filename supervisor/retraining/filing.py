"""Filing a training as a client would."""

import json
from collections.abc import Callable
from typing import Any, Final

from azaion.config import Config
from supervisor.control import requests
from supervisor.jobs.model import Job
from supervisor.jobs.store import Store

#: Who files.
OWNER: Final = "azaiond"


def filer(config: Config, store: Store, filed: Callable[[], None]) -> Callable[[dict[str, Any]], Job]:
    """What files a training with some parameters and all that follows it; the configuration has the others.

    Args:
        config: the configuration.
        store: takes the jobs.
        filed: is called when there is something to start.
    """

    def file(parameters: dict[str, Any]) -> Job:
        body = {"kind": "train", "then": [str(kind) for kind in requests.STEPS], **parameters}
        first, *later = requests.submissions(json.dumps(body).encode(), config, OWNER)
        job = store.submit(first, *later)
        filed()
        return job

    return file
