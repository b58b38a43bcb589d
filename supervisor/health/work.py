"""What runs: trainings that stand still, services that have failed."""

from collections.abc import Mapping, Sequence

from supervisor.health import words
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict
from supervisor.jobs.stillness import Standstill
from supervisor.units.model import UnitState
from supervisor.units.unit import Unit


def judge_trainings(found: Mapping[int, Standstill], stopped: Mapping[int, int], levels: Levels) -> list[Seen]:
    """How each training gets on.

    Args:
        found: for how long each has been seen to stand still.
        stopped: of the runs that a signal has stopped, the PIDs.
        levels: of that time, in percent of what is allowed.
    """
    seen = []
    for job in sorted({*found, *stopped}):
        subject = f"job {job}"
        if (pid := stopped.get(job)) is not None:
            seen.append(
                Seen(
                    subject=subject,
                    verdict=Verdict.WARNING,
                    text=f"its process {pid} is stopped by a signal",
                    advice=f"let it go on: kill -CONT {pid}; or azaionctl cancel {job}",
                )
            )
            continue
        still = found[job]
        percent = 100 * still.still_s / still.limit_s if still.limit_s else 0.0
        verdict, eased = levels.judge(percent)
        moves = verdict is Verdict.OK
        text = "gets on" if moves else f"has not moved for {words.duration(still.still_s)} {still.where}"
        seen.append(
            Seen(
                subject=subject,
                verdict=verdict,
                eased=eased,
                text=text,
                advice=f"it is ended and resumed after {words.duration(still.limit_s)}; look: azaionctl logs -f {job}",
                value=still.still_s,
            )
        )
    return seen


def judge_services(units: Sequence[Unit]) -> list[Seen]:
    """Whether each service is as it should be."""
    return [judge_service(unit.name, unit.state, unit.why) for unit in units]


def judge_service(name: str, state: UnitState, why: str) -> Seen:
    """The same of one, by where it is and why."""
    advice = f"look: azaionctl service logs {name}; then: azaionctl service start {name}"
    if state is UnitState.FAILED:
        return Seen(subject=name, verdict=Verdict.CRITICAL, text=why or "has failed", advice=advice)
    if state is UnitState.NOT_READY:
        return Seen(subject=name, verdict=Verdict.WARNING, text=why or "is not ready any more", advice=advice)
    return Seen(subject=name, verdict=Verdict.OK, text=f"{state}{f': {why}' if why else ''}")
