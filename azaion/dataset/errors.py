"""What can be wrong with a dataset, and with one annotation."""

from enum import StrEnum

from azaion.errors import AzaionError


class DatasetError(AzaionError):
    """A dataset cannot be formed, found or used."""


class Reason(StrEnum):
    """Why no dataset can take an annotation."""

    NAME = "the name is no plain text"
    NOT_A_FILE = "it is not a regular file"
    TWO_IMAGES = "two images have the same name"
    NO_IMAGE = "the label has no image"
    NO_LABEL = "the image has no label"
    IMAGE = "the image cannot be read"
    LABEL = "the label cannot be read"
    CLASS = "a class is not in classes.json"
    BOX = "a box is outside the image"
    RECORD = "the record cannot be read"


class CorruptedError(Exception):
    """No dataset can take an annotation; caught where the dataset is formed."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
