"""The errors of this room."""

from azaion.errors import AzaionError


class PublishingError(AzaionError):
    """Something about publishing that the user can mend."""


class UnreachableError(PublishingError):
    """A far end cannot be reached, or not now: another attempt may do better."""


class RefusedError(PublishingError):
    """A far end does not take our credentials or what we ask for: another attempt changes nothing."""


class MissingError(PublishingError):
    """There is nothing of that name at the far end."""


class DamagedError(PublishingError):
    """What has come is not what was sent."""


class KeysError(PublishingError):
    """A key is missing, cannot be used, or is not the one that is needed."""


class UntrustedError(PublishingError):
    """Nobody whom we trust has signed it."""
