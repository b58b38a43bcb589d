"""Of which images the containers are made: the file that says so, and another tag for them. Pure."""

import re
from dataclasses import dataclass
from typing import Final, Self

from supervisor.errors import SupervisorError

#: What a tag may be; https://github.com/distribution/reference.
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LINE: Final = "(?m)^{name}=(.*)$"
_QUEUE: Final = "ANNOTATION_QUEUE_IMAGE"
_TRAINING: Final = "TRAINING_IMAGE"


class ContainerError(SupervisorError):
    """A deploy of containers cannot be done."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The references of the images, as ``containers.env`` names them."""

    annotation_queue: str
    training: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Read them from the file's text.

        Raises:
            ContainerError: one is missing.
        """
        return cls(annotation_queue=_value(text, _QUEUE), training=_value(text, _TRAINING))

    def within(self, text: str) -> str:
        """The file's text with these in place of those that it names."""
        return _with(_with(text, _QUEUE, self.annotation_queue), _TRAINING, self.training)

    def tagged(self, tag: str) -> Self:
        """The same images under another tag, which is a commit's as a rule.

        Raises:
            ContainerError: that can be no tag.
        """
        if not _TAG.fullmatch(tag):
            raise ContainerError(f"{tag!r} is no tag of an image: name a commit")
        return type(self)(
            annotation_queue=f"{repository(self.annotation_queue)}:{tag}", training=f"{repository(self.training)}:{tag}"
        )


def repository(reference: str) -> str:
    """A reference without its tag and digest; a port before the first slash is no tag."""
    name = reference.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def _with(text: str, name: str, value: str) -> str:
    return re.sub(_LINE.format(name=name), lambda _: f"{name}={value}", text)


def _value(text: str, name: str) -> str:
    found: list[str] = re.findall(_LINE.format(name=name), text)
    if len(found) != 1 or not (value := found[0].strip().strip("\"'")):
        raise ContainerError(
            f"containers.env must say once {name}=IMAGE:TAG; see etc/containers/containers.env.example"
        )
    return value
