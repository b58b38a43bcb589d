"""What NVML tells of the GPUs, asked in a child process with a time limit: on a dying GPU it hangs, or crashes.

``python -m supervisor.gpus`` is that child. Without an NVIDIA driver it says so, and nothing depends on it.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor import processes

#: How long the child may take.
LIMIT_S: Final = 5.0
#: How long a killed child may take to end. One that the driver holds does not, and is left behind.
_KILL_S: Final = 1.0
#: How old what people look at may be.
GLANCE_S: Final = 5.0
#: The same where there was no answer: whoever looks must not wait for another one each time.
_SILENCE_S: Final = 60.0
#: What the child needs of our environment to find itself and the library. No secret is among it.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_PROC: Final = Path("/proc")
_KERNEL_LOG: Final = Path("/dev/kmsg")
_RECORD_BYTES: Final = 8192
#: Priority, number, microseconds since boot; and what the driver says.
_XID: Final = re.compile(rb"^\d+,\d+,(\d+),[^;]*;NVRM: Xid \(PCI:([0-9a-fA-F:]+)\): (\d+), *([^\n]{0,80})")


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A process that has memory of a GPU.

    Attributes:
        name: what /proc calls it; empty if it is hidden from us.
        nonce: of the attempt that it belongs to; empty for a foreign one.
        used: bytes of the GPU's memory; None if the driver does not tell.
    """

    pid: int
    name: str = ""
    nonce: str = ""
    used: int | None = None


@dataclass(frozen=True, kw_only=True)
class Xid:
    """A fault that the driver has reported to the kernel's log.

    Attributes:
        age_s: how long ago, in seconds.
        text: the rest of the driver's line.
    """

    number: int
    age_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        number: as NVML counts, which is by PCI bus.
        total: bytes of its memory; None if it does not tell.
        free: bytes of it that nobody has.
        problem: why no run can use it; empty if one can.
        temperature: in degrees Celsius; None if it does not tell.
        busy_percent: of the last moments, in percent; None if it does not tell.
        slowed: why the hardware slows itself down, in words.
        ecc_errors: uncorrected ones since the driver was loaded; None if it counts none.
        remapping_pending: whether it needs a reset to take damaged memory out of use.
        remapping_failed: whether it has no memory left to replace what is damaged.
        xids: what the driver has reported since the machine started, if the kernel's log may be read.
    """

    number: int
    name: str = ""
    total: int | None = None
    free: int | None = None
    tenants: tuple[Tenant, ...] = ()
    problem: str = ""
    temperature: int | None = None
    busy_percent: int | None = None
    slowed: tuple[str, ...] = ()
    ecc_errors: int | None = None
    remapping_pending: bool = False
    remapping_failed: bool = False
    xids: tuple[Xid, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What NVML has told.

    Attributes:
        gpus: every GPU of the machine.
        absent: why there is nothing to ask; empty if there is.
        problem: why there was no answer; empty if there was.
    """

    gpus: tuple[Gpu, ...] = ()
    absent: str = ""
    problem: str = ""

    def gpu(self, number: int) -> Gpu | None:
        """The GPU with this number; None if NVML has not told of it."""
        return next((gpu for gpu in self.gpus if gpu.number == number), None)


class Probe:
    """Asks NVML, with one child at a time, and remembers the answer.

    Args:
        limit_s: how long the child may take.
        clock: the monotonic clock.
    """

    def __init__(self, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._one = asyncio.Lock()
        self._reading: Reading | None = None
        self._asked_at = 0.0
        self._answered_at = 0.0
        self._stuck: subprocess.Popen[bytes] | None = None

    def known(self, since: float, max_age_s: float) -> Reading | None:
        """The last answer, if it was asked for after ``since`` (monotonic) and is at most so old; else None."""
        fresh = self._asked_at >= since and self._clock() - self._answered_at <= max_age_s
        return self._reading if fresh else None

    async def glance(self) -> Reading:
        """An answer that may be a few seconds old, for people."""
        silent = self._reading is not None and bool(self._reading.problem)
        return await self.ask(max_age_s=_SILENCE_S if silent else GLANCE_S)

    async def ask(self, since: float = 0.0, max_age_s: float = 0.0) -> Reading:
        """An answer that was asked for after ``since`` and is at most so old; takes little more than the limit."""
        async with self._one:
            if (known := self.known(since, max_age_s)) is not None:
                return known
            asked_at = self._clock()
            reading = await self._answer()
            self._reading, self._asked_at, self._answered_at = reading, asked_at, self._clock()
            return reading

    async def _answer(self) -> Reading:
        if self._stuck is not None and self._stuck.poll() is None:
            return Reading(problem=f"the NVIDIA driver does not answer, and holds pid {self._stuck.pid} that has asked")
        try:
            with _child() as (process, answer):
                try:
                    async with asyncio.timeout(self._limit_s):
                        code = await processes.finished(process)
                except TimeoutError:
                    process.kill()
                    try:
                        async with asyncio.timeout(_KILL_S):
                            await processes.finished(process)
                    except TimeoutError:
                        self._stuck = process
                    return Reading(problem=f"the NVIDIA driver has not answered within {self._limit_s:g} s")
                return _read(answer, code)
        except OSError as error:
            return Reading(problem=f"the NVIDIA driver cannot be asked: {error}")


@contextlib.contextmanager
def _child() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The child, and the descriptor of the file in memory that its answer is in; it does not outlive the question."""
    answer = os.memfd_create("gpus", os.MFD_CLOEXEC)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.gpus"],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        try:
            yield process, answer
        finally:
            if process.poll() is None:
                process.kill()
    finally:
        os.close(answer)


def _read(answer: int, code: int) -> Reading:
    if code != 0:
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        return Reading(problem=f"asking the NVIDIA driver has ended {how}")
    # The library may have its own things to print; ours is the last line.
    text = os.pread(answer, os.fstat(answer).st_size, 0).rstrip().rpartition(b"\n")[2]
    try:
        return msgspec.json.decode(text, type=Reading)
    except msgspec.DecodeError as error:
        return Reading(problem=f"the NVIDIA driver's answer cannot be read: {error}")


# The child.


def _ask() -> Reading:
    import pynvml as nvml  # noqa: PLC0415 - only the child pays for it

    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded) as error:
        return Reading(absent=f"no NVIDIA driver ({error})")
    except nvml.NVMLError as error:
        return Reading(problem=f"the NVIDIA driver cannot be used: {error}")
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Reading(problem=f"the NVIDIA driver cannot be used: {error}")
    faults = xids()
    return Reading(gpus=tuple(_gpu(nvml, number, faults) for number in range(count)))


def _gpu(nvml: Any, number: int, faults: Mapping[str, Sequence[Xid]]) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        name = nvml.nvmlDeviceGetName(handle)
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError_NotSupported:
            # It shares the machine's memory.
            return replace(_condition(nvml, handle, faults), number=number, name=name)
        return replace(
            _condition(nvml, handle, faults),
            number=number,
            name=name,
            total=memory.total,
            free=memory.free,
            tenants=_tenants(nvml, handle),
        )
    except nvml.NVMLError as error:
        return Gpu(number=number, problem=str(error))


def _condition(nvml: Any, handle: Any, faults: Mapping[str, Sequence[Xid]]) -> Gpu:
    """How a GPU is. What it or its driver cannot tell is left out."""

    def told(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except nvml.NVMLError_GpuIsLost:
            raise
        except nvml.NVMLError:
            # Old drivers and small cards know little, and that keeps no job from running.
            return None

    uncorrected, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    reasons = told(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
    remapped = told(lambda: nvml.nvmlDeviceGetRemappedRows(handle)) or (0, 0, 0, 0)
    place = told(lambda: nvml.nvmlDeviceGetPciInfo(handle))
    return Gpu(
        number=0,
        temperature=told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        busy_percent=told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        slowed=tuple(
            word
            for word, mask in (
                ("heat", nvml.nvmlClocksEventReasonHwThermalSlowdown | nvml.nvmlClocksEventReasonSwThermalSlowdown),
                ("power brake", nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown),
            )
            if reasons & mask
        ),
        ecc_errors=told(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, uncorrected, volatile)),
        remapping_pending=bool(remapped[2]),
        remapping_failed=bool(remapped[3]),
        xids=tuple(faults.get(f"{place.domain:04x}:{place.bus:02x}:{place.device:02x}", ()) if place else ()),
    )


def xids(log: Path = _KERNEL_LOG) -> dict[str, list[Xid]]:
    """The faults in the kernel's log, by the GPU's place on the PCI bus; none where we may not read it."""
    found: dict[str, list[Xid]] = {}
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return found
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        # One record a read, until there is none (EAGAIN); EPIPE tells that the oldest were overwritten meanwhile.
        while True:
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BrokenPipeError:
                continue
            if not record:
                return found
            if (told := _XID.search(record)) is not None:
                fault = Xid(number=int(told[3]), age_s=now - int(told[1]) / 1e6, text=told[4].decode(errors="replace"))
                found.setdefault(told[2].decode().lower(), []).append(fault)
    except OSError:
        return found
    finally:
        os.close(descriptor)


def _tenants(nvml: Any, handle: Any) -> tuple[Tenant, ...]:
    found: dict[int, Tenant] = {}
    for kind in ("Compute", "Graphics"):
        for each in _processes(nvml, handle, kind):
            found[each.pid] = Tenant(
                pid=each.pid, name=_name(each.pid), nonce=_nonce(each.pid), used=each.usedGpuMemory
            )
    return tuple(sorted(found.values(), key=lambda tenant: -(tenant.used or 0)))


def _processes(nvml: Any, handle: Any, kind: str) -> list[Any]:
    # An older driver does not have the newest form, and the binding's own choice is then an error.
    for version in ("v3", "v2"):
        try:
            found: list[Any] = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}")(handle)
        except nvml.NVMLError_FunctionNotFound:
            continue
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
            break
        return found
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _nonce(pid: int) -> str:
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if entry.startswith(b"AZAION_NONCE="):
                return entry.partition(b"=")[2].decode(errors="replace")
    return ""


if __name__ == "__main__":
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_ask()) + b"\n")
