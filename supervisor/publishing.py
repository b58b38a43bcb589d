"""Whether models can be published, as far as the daemon can know: it never sees a password or a key."""

from azaion.config import Config, PublishTarget


def refusal(config: Config, target: PublishTarget | None = None) -> str:
    """Why nothing can be published now, and what to do; empty if it can.

    Args:
        config: the configuration.
        target: instead of AZAION_PUBLISH_TARGET.
    """
    wanted = config.daemon.publish_target if target is None else target
    if wanted is PublishTarget.NONE:
        return "AZAION_PUBLISH_TARGET is none: set it to directory or azaion and restart azaiond, or name a --target"
    if wanted is PublishTarget.AZAION and config.api is None:
        return "the target azaion needs AZAION_API_URL, AZAION_API_EMAIL and AZAION_API_PASSWORD; then restart azaiond"
    keys = config.publishing.keys
    try:
        empty = not any(keys.iterdir())
    except FileNotFoundError:
        empty = True
    except OSError:
        # They need not be ours to look at.
        empty = False
    return f"there are no keys in {keys} to encrypt and sign with: run `azaionctl keys generate`" if empty else ""
