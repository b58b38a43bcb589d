"""``azaiond``: wires the rooms together."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from azaion import BUILD, config, declarations, files
from azaion.config import Config, LauncherName
from azaion.declarations import Declarations
from azaion.environment import env_file, resolve
from azaion.errors import AzaionError
from azaion.logs import secrets
from azaion.redaction import Redaction
from supervisor import processes
from supervisor.alerts.room import AlertRoom
from supervisor.alerts.sender import Sender
from supervisor.consumer import ConsumerRoom
from supervisor.control.server import Server
from supervisor.errors import SupervisorError
from supervisor.gpus import Probe
from supervisor.health.machine import Loop
from supervisor.health.room import HealthRoom
from supervisor.health.table import Watched, checks
from supervisor.history import HistoryRoom
from supervisor.jobs.gate import Gate
from supervisor.jobs.launchers import ForkLauncher, Launcher, in_container, refuse_under_systemd
from supervisor.jobs.preflight import floors_of
from supervisor.jobs.runner import Runner, machine_of
from supervisor.jobs.scheduler import CPU
from supervisor.jobs.stillness import Patience
from supervisor.jobs.store import Store
from supervisor.jobs.systemd import SystemdLauncher
from supervisor.logs import configure
from supervisor.notify import Notifier, handed_over
from supervisor.retention import RetentionRoom
from supervisor.retraining.filing import filer
from supervisor.retraining.room import RetrainRoom
from supervisor.units.room import UnitRoom

#: sysexits.h: the configuration is wrong, so starting again cannot help. The unit's RestartPreventExitStatus.
EX_CONFIG: Final = 78

_log = structlog.get_logger("azaion.daemon")


def main() -> None:
    """Run the daemon in the foreground; see ``azaiond --help``."""
    parser = argparse.ArgumentParser(
        prog="azaiond",
        description="Runs the training server: takes annotations in, runs the queue of jobs, answers azaionctl.",
        epilog="SIGTERM stops the daemon and leaves the runs alone; the next start finds them again.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a rendered config.yaml (default: from .env)")
    parser.add_argument("--version", action="version", version=f"azaiond {BUILD}")
    arguments = parser.parse_args()
    _leave_no_memory()
    try:
        settings = configuration(arguments.config)
        declared = declarations.read(settings.daemon.declarations, required=settings.declarations_required)
        launcher = launcher_of(settings)
        notifier = Notifier(os.environ)
        listening = handed_over(os.environ, settings.daemon.socket)
        config.make_state_folder(settings.layout)
    except AzaionError as error:
        _give_up([error], EX_CONFIG)
    # What publishing logs in with is not ours to know: it is read by the process that publishes, and dies with it.
    ours = replace(settings, api=None)
    hidden = secrets(ours, declared, environment=os.environ, env_file=env_file(os.environ))
    configure(settings.daemon.log_format, Redaction(hidden))
    try:
        with files.locked(settings.layout.daemon_lock, wait=False):
            # Not before: who is refused leaves alone what the other one's children read.
            prepare(settings)
            asyncio.run(serve(settings, launcher, declared, notifier, listening))
    except BlockingIOError:
        _give_up([SupervisorError(f"another azaiond works with {settings.layout.state}; stop it first")])
    except OSError as error:
        if error.filename != str(settings.layout.daemon_lock):
            raise
        _give_up([SupervisorError(f"the lock of the state folder cannot be held: {error}; remove what is there")])
    except AzaionError as error:
        _give_up([error], EX_CONFIG if isinstance(error, config.ConfigError) else 1)
    except ExceptionGroup as group:
        known, unknown = group.split(AzaionError)
        if unknown is not None:
            raise
        _give_up(known.exceptions if known is not None else [])


def _leave_no_memory() -> None:
    """Have no core dump written of us and of what we start: it would bring secrets to the disk.

    A job that wants one may allow it again.
    """
    # Where systemd forbids to change limits, the unit has set this one.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _give_up(errors: Sequence[Exception], code: int = 1) -> NoReturn:
    for error in errors:
        print(f"azaiond: {error}", file=sys.stderr)  # noqa: T201 - the last word, for whoever started it
    sys.exit(code)


def configuration(path: Path | None) -> Config:
    """The configuration from a rendered file, or else from ``.env`` and the environment.

    Raises:
        AzaionError: it is wrong, or the root of the data is absent.
    """
    settings = config.settings(os.environ, env_file(os.environ)) if path is None else config.load(path)
    config.check_root(settings)
    return settings


def prepare(settings: Config) -> None:
    """Make the folders that are missing, and write the configuration down for the children.

    Raises:
        ConfigError: a folder cannot be made.
        SupervisorError: the disk refuses, which another start may mend.
    """
    config.make_folders(settings.layout)
    rendered = settings.layout.config
    try:
        # Where nothing has changed nothing is written: a full disk must not keep the daemon from starting.
        if not rendered.exists() or rendered.read_bytes() != config.render(settings).encode():
            config.write(settings, rendered)
    except OSError as error:
        raise SupervisorError(f"the state folder cannot be written: {error}; make room on its disk") from None


def launcher_of(settings: Config) -> Launcher:
    """The launcher that the configuration names; never another one.

    Raises:
        SupervisorError: it cannot be used here.
    """
    match settings.daemon.launcher:
        case LauncherName.FORK:
            refuse_under_systemd()
            return ForkLauncher()
        case LauncherName.SYSTEMD:
            return SystemdLauncher()
        case other:
            raise SupervisorError(f"AZAION_LAUNCHER={other}: this version has the launchers `fork` and `systemd`")


async def serve(
    settings: Config,
    launcher: Launcher,
    declared: Declarations,
    notifier: Notifier,
    listening: socket.socket | None,
) -> None:
    """Run every room until SIGTERM or SIGINT, then stop the consumer and leave the runs and the services alone.

    Args:
        settings: the configuration.
        launcher: how shims are started.
        declared: what the user has declared.
        notifier: tells systemd how we are.
        listening: the control socket, if systemd keeps it for us.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    store = Store(settings.layout.database)
    try:
        probe = Probe()
        machine, boot_id = machine_of(settings.daemon.gpu_ids), processes.boot_id()
        units = UnitRoom(
            declared.services,
            store=store,
            layout=settings.layout,
            launcher=launcher,
            boot_id=boot_id,
            gpus=[device.removeprefix("gpu") for device in machine.devices if device != CPU],
        )
        gate = Gate(layout=settings.layout, floors=floors_of(settings), probe=probe, note=store.note, way=units)
        runner = Runner(
            store=store,
            layout=settings.layout,
            launcher=launcher,
            machine=machine,
            boot_id=boot_id,
            patience=Patience(start_s=settings.daemon.hang_start_s, progress_s=settings.daemon.hang_s),
            gate=gate,
            way=units,
        )
        consumer = ConsumerRoom(settings, store.note)
        retention = RetentionRoom(settings, store)
        loop_lag = Loop()
        watched = Watched(
            settings=settings,
            store=store,
            runner=runner,
            consumer=consumer,
            units=units,
            probe=probe,
            loop=loop_lag,
        )
        health = HealthRoom(checks(watched, declared.health.checks), loop_lag, store.mutes)
        retraining = RetrainRoom(
            declared.retrain,
            store=store,
            layout=settings.layout,
            file=filer(settings, store, runner.poke),
        )
        history = HistoryRoom(store=store, consumer=consumer, probe=probe, devices=machine.devices)
        alerts = AlertRoom(
            declared.alerts,
            store,
            health.findings,
            runner.alerts,
            Sender(lambda secret: resolve(secret, os.environ, env_file(os.environ))),
        )
        health.listen(alerts.poke)
        server = Server(
            config=settings,
            store=store,
            runner=runner,
            consumer=consumer,
            retention=retention,
            probe=probe,
            units=units,
            health=health,
            history=history,
            alerts=alerts,
            retraining=retraining,
            loop=loop_lag,
            listening=listening,
            serving=notifier.ready,
        )
        store.note("daemon-started", f"azaion {BUILD}, pid {os.getpid()}")
        _log.info("started", version=BUILD, pid=os.getpid(), state=str(settings.layout.state))
        if in_container():
            _log.warning("in a container: runs survive this daemon, but not the end of the container")
        gc.freeze()
        rooms: list[Coroutine[Any, Any, None]] = [
            runner.run(),
            consumer.run(),
            units.run(),
            server.run(),
            retention.run(),
            health.run(),
            history.run(),
            alerts.run(),
            retraining.run(),
            notifier.run(),
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(room) for room in rooms]
            await stopping.wait()
            notifier.stopping()
            _log.info(
                "stopping; the runs and the services go on" + (" until the container ends" if in_container() else "")
            )
            for task in tasks:
                task.cancel()
        store.note("daemon-stopped", f"pid {os.getpid()}")
    finally:
        await launcher.close()
        store.close()


if __name__ == "__main__":
    main()
