"""Puts a release to use, sees whether it proves itself, and takes it back if it does not."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from azaion import failpoints
from supervisor.releases import checklist, etc, use, verification
from supervisor.releases.checklist import Outcome
from supervisor.releases.host import DAEMON, Host
from supervisor.releases.model import Deployment, Release, ReleaseError, Verdict, cut_off, removable, way_back
from supervisor.releases.shelf import Shelf
from supervisor.releases.verification import LIMIT_S, STEADY_S, Baseline, Result

#: One that was in use before proves itself sooner.
_BACK_STEADY_S: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class Deployer:
    """Whoever changes which release is in use.

    Attributes:
        shelf: the releases.
        host: the machine.
        by: for whom.
        say: is told what is being done, a line at a time.
        limit_s: how long a release may take to prove itself.
        steady_s: for how long all must be well together.
    """

    shelf: Shelf
    host: Host
    by: str
    say: Callable[[str], None]
    limit_s: float = LIMIT_S
    steady_s: float = STEADY_S

    def check(self, release: Release, *, one_way: bool = False) -> checklist.Ready:
        """Go through the checklist, and say what it has found."""
        ready = checklist.look(self.shelf, release, self.host, one_way=one_way)
        self.say("checks")
        for each in ready.checks:
            self.say(_line(each.outcome, each.name, each.text))
            if each.outcome is Outcome.FAILED or (each.outcome is Outcome.WARNING and each.cure):
                self.say(f"            -> {each.cure}")
        return ready

    def finish(self) -> None:
        """Take back a deploy that was cut off, so that nobody runs what was never proven; end a rollback that was.

        Raises:
            ReleaseError: that cannot be done.
        """
        last = cut_off(self.shelf.deployments())
        if last is None:
            return
        if last.rollback:
            # Who goes back has a reason.
            self.say(f"the way back to {last.target} was cut off; it is gone to its end")
            result, _ = self._try(last.target, Baseline())
            self._end(last, Verdict.FAILED if result.reason else Verdict.KEPT, result.reason)
            return
        self.say(f"the deploy of {last.target} was cut off; it is taken back")
        if last.origin is None:
            # An install is begun again, and there is nothing to go back to.
            self._end(last, Verdict.UNDONE, "it was cut off")
            return
        if self.shelf.current == last.target and not self._reversible(last):
            self._end(last, Verdict.FAILED, "it was cut off, and the state does not let it be taken back")
            return
        self._undo(last, "it was cut off")

    def recover(self) -> None:
        """At the boot, before the daemon starts: have it start from what has proven itself.

        Raises:
            ReleaseError: that cannot be done.
        """
        last = cut_off(self.shelf.deployments())
        # An install is begun again by whoever began it.
        if last is None or last.origin is None:
            return
        if not last.rollback and self.shelf.current == last.target and not self._reversible(last):
            self._end(last, Verdict.FAILED, "it was cut off, and the state does not let it be taken back")
            return
        goal = self.shelf.release(last.target if last.rollback else last.origin)
        self.say(f"the deploy of {last.target} was cut off: {goal.name} is to be started")
        self._switch(goal.name)
        self._end(last, Verdict.KEPT if last.rollback else Verdict.UNDONE, "the machine went down")

    def deploy(self, release: Release, *, one_way: bool = False, rollback: bool = False) -> Deployment:
        """Put a release to use; returns what came of it.

        Args:
            release: the one.
            one_way: there need be no way back from it.
            rollback: somebody goes back, so that nothing is taken back by itself.

        Raises:
            ReleaseError: the checklist speaks against it, and nothing was changed.
        """
        ready = self.check(release, one_way=one_way)
        if ready.failed:
            names = ", ".join(check.name for check in ready.failed)
            raise ReleaseError(f"{release.name} was not put to use: see {names} above. Nothing was changed.")
        before = verification.baseline(ready.before)
        deployment = Deployment(
            began=time.time(), origin=self.shelf.current, target=release.name, by=self.by, rollback=rollback
        )
        self.shelf.begin(deployment)
        try:
            failpoints.hit("release.begun")
            result, began = self._try(release.name, before)
        except KeyboardInterrupt:
            if deployment.origin is not None and not rollback:
                self._undo(deployment, "it was interrupted")
            raise
        except (OSError, ReleaseError) as error:
            # A full disk, a systemd that does not answer.
            result, began = Result(reason=str(error), proofs=(), consuming_after_s=None), time.monotonic()
        if not result.reason:
            return self._kept(deployment, result)
        self.say(f"{release.name} does not prove itself: {result.reason}")
        for line in self.host.last_words():
            self.say(f"    {line}")
        return self._failed(deployment, result, before, began)

    def serves(self, release: Release) -> bool:
        """Whether this release is in use already, and all that belongs to it."""
        server = self.shelf.server
        return (
            self.shelf.current == release.name
            and "the daemon" in use.uses(server.releases).get(release.name, ())
            and not etc.changes(server, server.release(release.name))
        )

    def previous(self) -> Release:
        """The release to go back to.

        Raises:
            ReleaseError: there is none, or it was removed.
        """
        current = self.shelf.current
        if (name := way_back(self.shelf.deployments(), current)) is None:
            raise ReleaseError(
                f"nobody knows what was in use before {current}; name a release: azaionctl deploy NAME "
                f"(those there are: azaionctl releases)"
            )
        return self.shelf.release(name)

    def prune(self) -> None:
        """Remove the releases that nobody needs."""
        shelf = self.shelf
        used = use.uses(shelf.server.releases)
        for name in removable(shelf.releases(), shelf.deployments(), current=shelf.current, used=used):
            shelf.remove(name)
            self.say(f"release {name} removed: {_KEPT}")

    # There and back.

    def _try(self, name: str, before: Baseline) -> tuple[Result, float]:
        """Switch, and see; returns what came of it, and when the daemon was restarted."""
        self.say("switch")
        self._switch(name)
        began = time.monotonic()
        trouble = self.host.restart()
        self.say(trouble or f"  azaiond restarted in {time.monotonic() - began:.1f} s")
        failpoints.hit("release.restarted")
        if trouble:
            return Result(reason=f"daemon: it does not start: {trouble}", proofs=(), consuming_after_s=None), began
        self.say(f"verification (all well for {self.steady_s:g} s, within {self.limit_s:g} s)")
        result = self._watch(name, before, began, self.steady_s)
        for proof in result.proofs:
            self.say(_line(proof.standing, proof.name, proof.text))
        failpoints.hit("release.verified")
        return result, began

    def _watch(self, name: str, before: Baseline, began: float, steady_s: float) -> Result:
        look = partial(verification.seen, self.host, self.shelf.server.releases)
        return verification.watch(look, before, name, began=began, limit_s=self.limit_s, steady_s=steady_s)

    def _switch(self, name: str) -> None:
        """Have the units and the link be those of a release; may be done again at any step."""
        coming = etc.changes(self.shelf.server, self.shelf.server.release(name))
        etc.apply(coming)
        etc.flush(self.shelf.server)
        failpoints.hit("release.units")
        if coming:
            self.say(f"  units: {etc.told(coming)}")
        # Also where nothing changed now: whoever was here before may have died before this.
        self.host.must("systemctl", "daemon-reload")
        if any(each.path == self.shelf.server.sysusers for each in coming):
            self.host.must("systemd-sysusers", "azaion.conf")
        if any(each.path == self.shelf.server.tmpfiles for each in coming):
            self.host.must("systemd-tmpfiles", "--create", "azaion.conf")
        self._enable()
        self.shelf.switch(name)
        failpoints.hit("release.switched")
        self.say(f"  {self.shelf.server.current} -> {name}")

    def _enable(self) -> None:
        """Have what this release brings started at every boot, where the rest of it is."""
        wants = etc.wants(self.shelf.server)
        for unit, link in wants.items():
            if link.is_symlink() and not (self.shelf.server.units / unit).exists():
                link.unlink()
        lacking = [unit for unit, link in wants.items() if not link.is_symlink()]
        there = [unit for unit in lacking if (self.shelf.server.units / unit).exists()]
        if there and wants[DAEMON].is_symlink():
            self.host.must("systemctl", "--quiet", "enable", *there)

    def _kept(self, deployment: Deployment, result: Result) -> Deployment:
        done = replace(deployment, consumer_away_s=result.consuming_after_s)
        done = self._end(done, Verdict.KEPT, "")
        failpoints.hit("release.kept")
        away = result.consuming_after_s
        self.say(
            f"{deployment.target} is in use"
            + (f", after {deployment.origin}" if deployment.origin else "")
            + (f"; no annotation was taken in for {away:.1f} s" if away is not None and deployment.origin else "")
        )
        for who, name in sorted(use.runs(use.uses(self.shelf.server.releases)).items()):
            if name != deployment.target:
                self.say(f"{who} goes on with {name}")
        return done

    def _failed(self, deployment: Deployment, result: Result, before: Baseline, began: float) -> Deployment:
        if deployment.rollback or deployment.origin is None or deployment.origin == deployment.target:
            return self._end(deployment, Verdict.FAILED, result.reason)
        if not self._reversible(deployment):
            reason = f"{result.reason} (the state does not let it be taken back)"
            return self._end(deployment, Verdict.FAILED, reason)
        return self._undo(deployment, result.reason, before, began)

    def _undo(
        self, deployment: Deployment, reason: str, before: Baseline | None = None, began: float | None = None
    ) -> Deployment:
        """Go back to where a deploy came from."""
        assert deployment.origin is not None  # noqa: S101 - the callers have looked
        self.say(f"going back to {deployment.origin}")
        self._switch(deployment.origin)
        began = time.monotonic() if began is None else began
        again = time.monotonic()
        self.host.restart()
        back = self._watch(deployment.origin, before or Baseline(), again, min(self.steady_s, _BACK_STEADY_S))
        if back.consuming_after_s is not None:
            deployment = replace(deployment, consumer_away_s=again - began + back.consuming_after_s)
        if back.reason:
            return self._end(deployment, Verdict.FAILED, f"{reason}; and {deployment.origin}: {back.reason}")
        # Without a look before the switch nothing was tried, only cut off.
        return self._end(deployment, Verdict.UNDONE if before is None else Verdict.ROLLED_BACK, reason)

    def _reversible(self, deployment: Deployment) -> bool:
        assert deployment.origin is not None  # noqa: S101 - the callers have looked
        return self.shelf.release(deployment.target).schema <= self.shelf.release(deployment.origin).schema

    def _end(self, deployment: Deployment, verdict: Verdict, reason: str) -> Deployment:
        done = replace(deployment, verdict=verdict, reason=reason, ended=time.time())
        self.shelf.end(done)
        if verdict is not Verdict.KEPT:
            self.say(f"{deployment.target}: {verdict}: {reason}")
        return done


_KEPT: Final = "nothing uses it, and newer ones are kept"


def _line(verdict: str, name: str, text: str) -> str:
    return f"  {verdict:<8}  {name:<10}  {text}"


def release_at(shelf: Shelf, given: str) -> Release | None:
    """The release that is meant by a name, or by the path of its folder; None if a checkout is meant."""
    path = Path(given)
    if "/" not in given and shelf.server.release(given).record.exists():
        return shelf.release(given)
    if path.resolve().parent == shelf.server.releases.resolve():
        return shelf.release(path.resolve().name)
    if not path.is_dir():
        raise ReleaseError(f"{given} is no release (azaionctl releases) and no folder")
    return None
