"""The GPUs: whether they are there, and whether they are well."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from azaion.words import size
from supervisor.gpus import Gpu, Probe, Reading
from supervisor.health import words
from supervisor.health.looks import Levels, Seen, UnreadableError, worst
from supervisor.health.model import Verdict

#: PCI's number for NVIDIA.
_NVIDIA: Final = "0x10de"
#: What a PCI device's class begins with that computes or displays.
_DISPLAY: Final = "0x03"

_DRIVER: Final = "check the driver: nvidia-smi, journalctl -k -g NVRM"
_REBOOT: Final = "reboot once no run needs the machine; if it comes back, have the card looked at"
#: What a program's own mistake causes; the job has failed of it, and the card is well.
#: https://docs.nvidia.com/deploy/xid-errors/
_OF_PROGRAMS: Final = frozenset({8, 13, 31, 43, 45, 68, 69})
#: What only a reset or another card mends.
_GRAVE_XIDS: Final = frozenset({48, 61, 62, 64, 74, 79, 92, 94, 95, 110, 119, 120, 136, 140, 143})
#: For so long an XID is told.
XID_S: Final = 6 * 3600.0


def judge(numbers: Sequence[int], reading: Reading, levels: Levels) -> list[Seen]:
    """How each GPU is that jobs may use.

    Args:
        numbers: of the GPUs.
        reading: what NVML has told.
        levels: of the temperature, in degrees Celsius.

    Raises:
        UnreadableError: NVML has not answered.
    """
    if reading.problem:
        raise UnreadableError(reading.problem)
    if reading.absent:
        return [_critical(f"gpu{number}", reading.absent, _DRIVER) for number in numbers]
    return [_judge(number, reading.gpu(number), levels) for number in numbers]


def _judge(number: int, gpu: Gpu | None, levels: Levels) -> Seen:
    subject = f"gpu{number}"
    if gpu is None:
        return _critical(subject, "the driver does not show it any more: it has fallen off the bus", _REBOOT)
    if gpu.problem:
        return _critical(subject, gpu.problem, _REBOOT)
    seen = [*_errors(gpu), *_heat(gpu, levels), *_foreign(gpu)]
    heat = f", {gpu.temperature} °C" if gpu.temperature is not None else ""
    free = f", {size(gpu.free)} of {size(gpu.total)} free" if gpu.total and gpu.free is not None else ""
    return worst(seen, subject, f"{gpu.name}{heat}{free}", gpu.temperature)


def _errors(gpu: Gpu) -> list[Seen]:
    found = []
    for xid in gpu.xids:
        if xid.number in _OF_PROGRAMS or xid.age_s > XID_S:
            continue
        grave = xid.number in _GRAVE_XIDS
        found.append(
            Seen(
                verdict=Verdict.CRITICAL if grave else Verdict.WARNING,
                text=f"XID {xid.number} {words.duration(xid.age_s)} ago ({xid.text})",
                advice=f"{_REBOOT}; docs.nvidia.com/deploy/xid-errors says what {xid.number} means",
            )
        )
    if gpu.ecc_errors:
        text = f"{gpu.ecc_errors} uncorrected ECC errors since the driver was loaded"
        found.append(_critical("", text, _REBOOT))
    if gpu.remapping_failed:
        found.append(_critical("", "its memory is damaged for good (row remapping has failed)", "replace the card"))
    elif gpu.remapping_pending:
        text = "it wants a reset to take damaged memory out of use"
        found.append(Seen(verdict=Verdict.WARNING, text=text, advice=_REBOOT))
    return found


def _heat(gpu: Gpu, levels: Levels) -> list[Seen]:
    found = []
    if gpu.temperature is not None:
        verdict, eased = levels.judge(gpu.temperature)
        text = f"{gpu.temperature} °C"
        found.append(Seen(verdict=verdict, eased=eased, text=text, advice="check fans, dust and the room's cooling"))
    if gpu.slowed:
        text = f"slowed down by the hardware: {', '.join(gpu.slowed)}"
        found.append(Seen(verdict=Verdict.WARNING, text=text, advice="check cooling and the power supply"))
    return found


def _foreign(gpu: Gpu) -> list[Seen]:
    foreign = [tenant for tenant in gpu.tenants if not tenant.nonce]
    if not foreign:
        return []
    used = sum(tenant.used or 0 for tenant in foreign)
    names = ", ".join(f"{tenant.name or 'process'} {tenant.pid}" for tenant in foreign[:3])
    amount = f"{size(used)} of its memory" if used else "memory"
    return [
        Seen(
            verdict=Verdict.WARNING,
            text=f"{amount} taken by what is no job: {names}",
            advice="end it, or run it as a job or a service with holds_gpu, so that jobs know of it",
        )
    ]


def _critical(subject: str, text: str, advice: str) -> Seen:
    return Seen(subject=subject, verdict=Verdict.CRITICAL, text=text, advice=advice)


def cards(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """How many NVIDIA cards the machine has, whether or not there is a driver for them."""
    found = 0
    for folder in bus.iterdir() if bus.is_dir() else ():
        try:
            vendor, kind = ((folder / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:
            continue
        found += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return found


class GpuLook:
    """The look at the GPUs.

    Args:
        numbers: those that jobs may use.
        automatic: whether that is all that the driver showed at the start.
        probe: asks NVML.
        levels: of the temperature.
        count: how many cards there are.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        *,
        automatic: bool,
        probe: Probe,
        levels: Levels,
        count: Callable[[], int] = cards,
    ) -> None:
        self._numbers = numbers
        self._automatic = automatic
        self._probe = probe
        self._levels = levels
        self._count = count

    @property
    def needed(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._numbers) or (self._automatic and self._count() > 0)

    async def __call__(self) -> list[Seen]:
        """One for each GPU."""
        if self._numbers:
            return judge(self._numbers, await self._probe.ask(max_age_s=1.0), self._levels)
        if self._automatic and (count := self._count()):
            return [
                _critical(
                    "",
                    f"the machine has {count} NVIDIA cards and no driver for them: jobs run on the CPU",
                    "install or load the driver (nvidia-smi), then restart azaiond; or say AZAION_GPUS=none",
                )
            ]
        return []
