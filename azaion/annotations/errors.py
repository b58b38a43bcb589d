"""The errors of this room."""

from azaion.errors import AzaionError


class AnnotationError(AzaionError):
    """Something about the annotations or their stream that the user can mend."""


class BadMessageError(AnnotationError):
    """A message that cannot be applied; its text is the reason that is kept in quarantine."""


class BlockedError(AnnotationError):
    """The stream and the stored offset do not belong together: going on would lose messages or repeat them.

    Args:
        text: what is wrong, with the numbers.
        anew: whether the stream is another one than the one that was read: its messages count as later ones.
    """

    def __init__(self, text: str, *, anew: bool = False) -> None:
        super().__init__(text)
        self.anew = anew


class LinkError(AnnotationError):
    """The connection to the broker cannot be made, or has ended; another attempt may do better."""
