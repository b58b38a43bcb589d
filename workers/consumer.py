"""The annotation consumer: ``python -P -m workers.consumer --config FILE [--parent-pipe]``.

SIGTERM, and with ``--parent-pipe`` the end of standard input (its daemon has died), commit what is in hand and end it
with 0. Ends with 78 if the configuration asks for what it cannot do, with 71 if the root of the data is out of reach.
"""

import argparse
import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from azaion import config, logs
from azaion.annotations.consumer import Consumer
from azaion.annotations.sources import SpoolSource
from azaion.annotations.spool import Spool
from azaion.annotations.stream import Source
from azaion.config import Config, ConfigError
from azaion.config import Source as SourceName
from azaion.environment import env_file
from azaion.errors import AzaionError
from azaion.redaction import Redaction

EX_CONFIG: Final = 78
EX_OSERR: Final = 71

_log = structlog.get_logger("azaion.consumer")


def main() -> int:
    """Consume until asked to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.consumer", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the rendered config.yaml")
    parser.add_argument("--parent-pipe", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    renderer = structlog.processors.LogfmtRenderer()
    logs.configure(renderer, Redaction())
    try:
        settings = config.load(arguments.config)
        hidden = logs.secrets(settings, environment=os.environ, env_file=env_file(os.environ))
        logs.configure(renderer, Redaction(hidden))
        source = source_of(settings)
    except (AzaionError, OSError) as error:
        _log.error("cannot start", reason=str(error))
        return EX_CONFIG
    try:
        config.check_root(settings)
    except (AzaionError, OSError) as error:
        # A disk that is not mounted may come back.
        _log.error("cannot start", reason=str(error))
        return EX_OSERR
    asyncio.run(consume(settings, source, parent_pipe=arguments.parent_pipe))
    return 0


def source_of(settings: Config) -> Source:
    """The source that the configuration names.

    Raises:
        AzaionError: it cannot be used as it is configured.
    """
    if settings.daemon.source is SourceName.SPOOL:
        return SpoolSource(Spool(settings.layout.spool), str(settings.layout.spool))
    if settings.daemon.source is SourceName.NONE:
        raise ConfigError("the configuration cannot be used:", ["AZAION_SOURCE is none: another azaiond takes them in"])
    # Imported only where it is needed: it costs more than the rest of the start.
    from azaion.annotations import link  # noqa: PLC0415
    from azaion.annotations.rabbitmq import RabbitMQSource  # noqa: PLC0415

    broker = settings.rabbitmq
    if broker is None:
        raise ConfigError("the configuration cannot be used:", ["AZAION_SOURCE=rabbitmq needs RABBITMQ_*"])
    link.quiet()
    link.ssl_context(broker)
    secret = partial(config.resolve, broker.password, os.environ, env_file(os.environ))
    secret()
    return RabbitMQSource(broker, secret)


async def consume(settings: Config, source: Source, *, parent_pipe: bool) -> None:
    """Consume until SIGTERM or SIGINT, or until the parent is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent_pipe:
        loop.add_reader(sys.stdin.fileno(), _heed, stop)
    await Consumer(settings.layout, source, stop).run()


def _heed(stop: asyncio.Event) -> None:
    """Nobody writes into the pipe: it is readable when its other end has closed."""
    if not os.read(sys.stdin.fileno(), 1):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
