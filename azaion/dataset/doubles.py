"""Images that are on more than one side: the same picture came in under the names of two media."""

from collections.abc import Callable, Iterable

from azaion.dataset.snapshot import Row
from azaion.dataset.split import Split


def doubles(images: Callable[[Split], Iterable[Row]]) -> list[Row]:
    """The images that must be left out so that none is on two sides.

    An image stays where it is learnt from, else where it chooses the best epoch: what is learnt from judges nothing.
    Twice on one side it stays twice.

    Args:
        images: the images of a side. Asked for twice, so that only the hashes of the smaller sides are kept.
    """
    stays: dict[bytes, Split] = {}
    for split in reversed(Split):
        for row in images(split):
            digest = bytes.fromhex(row.sha256)
            if split is not Split.TRAIN or digest in stays:
                stays[digest] = split
    smaller = [split for split in Split if split is not Split.TRAIN]
    return [row for split in smaller for row in images(split) if stays[bytes.fromhex(row.sha256)] is not split]
