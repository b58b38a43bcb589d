"""Puts other images to use, and the old ones again if the new do not prove themselves. No run is ended by it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from azaion import files
from azaion.layout import ContainersFolder
from supervisor.containers.compose import REASON, Compose
from supervisor.containers.images import ContainerError, Images
from supervisor.releases.verification import LIMIT_S, STEADY_S, Baseline, baseline, watch

QUEUE: Final = "annotation-queue"
TRAINING: Final = "training"


@dataclass(frozen=True, kw_only=True)
class Deployer:
    """Whoever deploys.

    Attributes:
        folder: where the compose file lies.
        say: takes what is told meanwhile, a line each.
        limit_s: how long an image may take to prove itself.
        steady_s: for how long all must be well together.
    """

    folder: ContainersFolder
    say: Callable[[str], None]
    limit_s: float = LIMIT_S
    steady_s: float = STEADY_S

    def check(self, tag: str | None) -> None:
        """Go through the checklist for a tag, or for what is in use; nothing is changed.

        Raises:
            ContainerError: something is not well.
        """
        text = self._text()
        now = Images.of(text)
        with files.locked(self.folder.lock):
            self._checklist(text, now if tag is None else now.tagged(tag))

    def deploy(self, tag: str) -> bool:
        """Put the images of a tag to use; whether they have proven themselves.

        Raises:
            ContainerError: nothing was changed, and why; or it cannot be gone back.
        """
        text = self._text()
        with files.locked(self.folder.lock):
            return self._switch(text, Images.of(text).tagged(tag))

    def rollback(self) -> bool:
        """Put those to use that were in use before; whether they have proven themselves.

        Raises:
            ContainerError: nothing was changed, and why; or it cannot be gone back.
        """
        text = self._text()
        if not self.folder.previous.exists():
            raise ContainerError("nothing was deployed here before: name a commit")
        with files.locked(self.folder.lock):
            return self._switch(text, Images.of(self.folder.previous.read_text(encoding="utf-8")))

    # Its steps.

    def _checklist(self, text: str, wanted: Images) -> None:
        """See all that can be seen before anything is changed."""
        files.replace(self.folder.candidate, wanted.within(text).encode())
        candidate = Compose(self.folder, self.folder.candidate)
        candidate.check()
        self.say("ok       the compose file and containers.env fit")
        candidate.pull()
        self.say(f"ok       the images are here: {wanted.annotation_queue}, {wanted.training}")
        candidate.try_settings(QUEUE)
        self.say("ok       the settings are good for them")

    def _switch(self, text: str, wanted: Images) -> bool:
        self._checklist(text, wanted)
        compose = Compose(self.folder, self.folder.images)
        before = {service: baseline(compose.status(service)) for service in (QUEUE, TRAINING)}
        back, earlier = self._way_back(text, wanted)
        drained, wanted = self._drained(compose, wanted)
        try:
            # In this order: whoever is cut off must find the way back.
            files.replace(self.folder.previous, back.encode())
            files.replace(self.folder.images, wanted.within(text).encode())
            if not (reason := self._prove(compose, wanted, before)):
                self.say("in use")
                return True
            self.say(f"it does not prove itself: {reason}")
            files.replace(self.folder.images, back.encode())
            files.replace(self.folder.previous, earlier.encode())
            origin = Images.of(back)
            if reason := self._prove(compose, origin, dict.fromkeys(before, Baseline())):
                raise ContainerError(f"the images from before do not come up either: {reason}")
            self.say(f"taken back: {origin.annotation_queue}, {origin.training}")
            return False
        finally:
            if drained:
                compose.maintenance(TRAINING, "off")

    def _way_back(self, text: str, wanted: Images) -> tuple[str, str]:
        """What to go back to, and what a later rollback goes back to then."""
        previous = self.folder.previous.read_text(encoding="utf-8") if self.folder.previous.exists() else text
        # A deploy of the same that was cut off, or did its work, has written down the way back already.
        return (previous, previous) if Images.of(text) == wanted else (text, previous)

    def _prove(self, compose: Compose, wanted: Images, before: dict[str, Baseline]) -> str:
        """Make the containers anew whose images are others, and see whether all is well; why not, or nothing."""
        services = [(QUEUE, wanted.annotation_queue)]
        if compose.seen(TRAINING).release != wanted.training:
            services.append((TRAINING, wanted.training))
        for service, image in services:
            began = time.monotonic()
            try:
                compose.up(service)
            except ContainerError as error:
                return f"{service}: {error}"
            found = watch(
                partial(compose.seen, service),
                before[service],
                image,
                began=began,
                limit_s=self.limit_s,
                steady_s=self.steady_s,
            )
            if found.reason:
                return f"{service}: {found.reason}"
            away = "" if found.consuming_after_s is None else f", annotations after {found.consuming_after_s:.1f} s"
            self.say(f"ok       {service}: {image}{away if service == QUEUE else ''}")
        return ""

    def _drained(self, compose: Compose, wanted: Images) -> tuple[bool, Images]:
        """Have nothing start in the container of the trainings, if it is to be replaced: a run would end with it.

        Returns whether that must be taken back, and what can be put to use.
        """
        seen = compose.seen(TRAINING)
        if seen.active not in {"active", "activating"} or seen.release is None:
            return False, wanted
        kept = replace(wanted, training=seen.release)
        if seen.status is None:
            if wanted != kept:
                self.say(f"{TRAINING} does not answer, so that nobody knows what runs there: it stays as it is")
            return False, kept
        told = seen.status.get("maintenance")
        # Also what a deploy that was cut off has left.
        ours = told is not None and told["reason"] == REASON
        if wanted == kept:
            return ours, wanted
        if told is None:
            compose.maintenance(TRAINING, "on")
            ours = True
        # Asked again: a job may have started before.
        status = compose.status(TRAINING)
        if status is not None and not status["jobs"]["active"]:
            return ours, wanted
        names = (
            "it does not answer"
            if status is None
            else ", ".join(f"job {job['id']}" for job in status["jobs"]["active"])
        )
        self.say(f"{TRAINING} stays as it is, for its runs would end with it ({names}); deploy again after them")
        return ours, kept

    def _text(self) -> str:
        path: Path = self.folder.images
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            example = "copy etc/containers/containers.env.example there and fill it in"
            raise ContainerError(f"{path}: {error.strerror}; {example}") from None
