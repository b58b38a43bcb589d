"""Which target the settings name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from azaion import layout
from azaion.environment import find, resolve
from azaion.publishing.errors import PublishingError
from azaion.publishing.target import Target
from azaion.settings import Api, Config, PublishTarget

if TYPE_CHECKING:
    from azaion.publishing.access import ApiAccess
    from azaion.publishing.platform import Platform


@contextmanager
def opened(
    settings: Config, environ: Mapping[str, str], env_file: Path | None, name: PublishTarget | None = None
) -> Iterator[Target]:
    """The target of the settings, or the one called ``name``, for as long as it is needed.

    Only here are the secrets looked up, so that only the process that publishes has them.

    Args:
        settings: the configuration.
        environ: the environment of the process.
        env_file: its ``.env``, if there is one.
        name: instead of AZAION_PUBLISH_TARGET.

    Raises:
        ConfigError: a secret is missing.
        PublishingError: there is no such target, or it cannot be used.
    """
    wanted = settings.daemon.publish_target if name is None else name
    match wanted:
        case PublishTarget.NONE:
            raise PublishingError(
                "AZAION_PUBLISH_TARGET is none: set it to directory or azaion, or name one with --target"
            )
        case PublishTarget.DIRECTORY:
            from azaion.publishing.directory import Directory  # noqa: PLC0415 - one of two is needed

            folder = settings.publishing.directory
            yield Directory(folder, make=folder == layout.default_published(settings.directories.state))
        case PublishTarget.AZAION:
            if settings.api is None:
                raise PublishingError("the target azaion needs AZAION_API_URL, AZAION_API_EMAIL, AZAION_API_PASSWORD")
            with _platform(settings.api, environ, env_file) as target:
                yield target
        case _:
            assert_never(wanted)


def access_of(api: Api, environ: Mapping[str, str], env_file: Path | None) -> "ApiAccess":
    """What the API is spoken to with.

    Raises:
        ConfigError: a secret is missing.
    """
    from azaion.publishing.access import ApiAccess  # noqa: PLC0415 - its libraries cost most of a second
    from azaion.publishing.hardware import fingerprint  # noqa: PLC0415 - the same

    known = find(api.hardware, environ, env_file) if api.hardware is not None else None
    salt = find(api.salt, environ, env_file) if api.salt is not None else None
    return ApiAccess(
        url=api.url,
        email=api.email,
        password=resolve(api.password, environ, env_file),
        hardware=known or fingerprint(),
        salt=salt or "",
        authority=api.ca,
    )


def _platform(api: Api, environ: Mapping[str, str], env_file: Path | None) -> "Platform":
    from azaion.publishing.platform import Platform  # noqa: PLC0415 - the same

    return Platform(
        access_of(api, environ, env_file),
        folder=api.folder,
        bucket=api.cdn_bucket or api.folder,
        region=api.cdn_region,
        authority=api.cdn_ca,
    )
