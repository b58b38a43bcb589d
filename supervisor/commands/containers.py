"""``azaionctl deploy --containers``: the same where azaiond runs in containers."""

import argparse
import signal

from azaion.layout import ContainersFolder
from supervisor.containers.deploy import Deployer


def deploy(arguments: argparse.Namespace) -> int:
    """Do what the options of ``deploy`` say; returns the exit code."""
    if not (arguments.folder.is_dir()):
        arguments.usage_error(
            f"{arguments.folder} is no folder: name the one of docker-compose.production.yml, --folder DIR"
        )
    # A lost session must not leave half a deploy.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    deployer = Deployer(
        folder=ContainersFolder(path=arguments.folder.absolute()),
        say=lambda line: print(line, flush=True),
        limit_s=arguments.within,
        steady_s=arguments.steady,
    )
    if arguments.check:
        deployer.check(arguments.release)
        return 0
    return 0 if (deployer.rollback() if arguments.rollback else deployer.deploy(arguments.release)) else 1
