"""What Prometheus is told. Names and labels are a promise: etc/prometheus and etc/grafana use them.

No label takes more values than the configuration has parts: no names of jobs, no users, no texts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor.figures import Facts, Running, ServiceFacts
from supervisor.gpus import Gpu
from supervisor.health.model import overall
from supervisor.jobs.tally import ended
from supervisor.units.model import UnitState

_Labels = TypeVar("_Labels", bound=tuple[str, ...])

#: Of the figures of a training those that everybody looks at; a worker may tell any others, too.
FIGURES: Final = ("mAP50", "mAP50-95", "precision", "recall")


def exposition(facts: Facts) -> bytes:
    """What is told, in Prometheus' text format, with the daemon's own memory, processor time and descriptors."""
    return generate_latest(_Collected([*families(facts), *ProcessCollector(registry=None).collect()]))


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def families(facts: Facts) -> Iterator[Metric]:
    """Every metric of ours."""
    yield _gauge("azaion_build_info", "The version that runs.", {(facts.version,): 1}, "version")
    yield from _queue(facts)
    yield from _trainings(facts.running)
    yield from _devices(facts)
    yield from _consumer(facts.consumer)
    yield _gauge(
        "azaion_disk_size_bytes", "Size of a disk in use.", {(each.path,): each.size for each in facts.spaces}, "disk"
    )
    yield _gauge(
        "azaion_disk_free_bytes",
        "What may still be written to a disk in use.",
        {(each.path,): each.free for each in facts.spaces},
        "disk",
    )
    yield from _services(facts.services)
    yield from _health(facts)
    yield _counter("azaion_events", "Events that have been recorded.", {(): facts.events})
    yield _gauge(
        "azaion_loop_late_seconds",
        "The longest that the daemon's event loop was late in the last minute.",
        {(): facts.loop_late_s},
    )


def _queue(facts: Facts) -> Iterator[Metric]:
    tally = facts.tally
    jobs = {(str(kind), str(state)): count for (kind, state), count in tally.jobs.items()}
    over = {(str(kind), str(state)): count for (kind, state), count in ended(tally.jobs).items()}
    yield _gauge("azaion_jobs", "Jobs, whenever they were filed.", jobs, "kind", "state")
    yield _counter("azaion_jobs_ended", "Jobs that have ended.", over, "kind", "state")
    failed = {(cause,): count for cause, count in tally.failed.items()}
    yield _counter("azaion_jobs_failed", "Jobs that have failed, by cause.", failed, "cause")
    attempts = {(cause,): count for cause, count in tally.attempts.items()}
    yield _counter("azaion_attempts_ended", "Attempts that have ended, by cause; none is success.", attempts, "cause")
    yield _gauge(
        "azaion_queue_waiting_seconds",
        "For how long the job has waited that has waited longest, of those that may start.",
        {(): tally.waiting_s},
    )
    yield _gauge("azaion_maintenance", "Whether nothing starts, as for maintenance.", {(): facts.maintenance})


def _trainings(running: Sequence[Running]) -> Iterator[Metric]:
    told = [each for each in running if each.progress]
    yield _gauge(
        "azaion_device_job_number",
        "The job that has a device.",
        {(each.device,): each.job for each in running},
        "device",
    )
    for name, text, key in (
        ("azaion_job_epoch", "The epoch that is under way, from 1.", "epoch"),
        ("azaion_job_epochs", "How many epochs there are to be.", "epochs"),
        ("azaion_job_eta_seconds", "In how many seconds the job will probably end.", "eta_s"),
    ):
        values = {(each.device, each.kind): _number(each.progress.get(key)) for each in told}
        yield _gauge(name, text, values, "device", "kind")
    done = {(each.device, each.kind): _done(each.progress) for each in told}
    yield _gauge("azaion_job_progress_ratio", "How much of the job is done.", done, "device", "kind")
    still = {(each.device, each.kind): each.still_s for each in running}
    yield _gauge(
        "azaion_job_standstill_seconds", "For how long the job has been seen to stand still.", still, "device", "kind"
    )
    figures = {
        (each.device, name): _number((each.progress.get("metrics") or {}).get(name))
        for each in told
        for name in FIGURES
    }
    yield _gauge("azaion_training_figure", "What the last validation found.", figures, "device", "figure")


def _devices(facts: Facts) -> Iterator[Metric]:
    leased = {(device,): job is not None for device, job in facts.leases.items()}
    yield _gauge("azaion_device_leased", "Whether a job has the device.", leased, "device")
    reading = facts.reading
    if reading is None:
        return
    numbers = [device.removeprefix("gpu") for device in facts.leases]
    gpus: dict[tuple[str, ...], Gpu | None] = {
        (f"gpu{number}",): reading.gpu(int(number)) for number in numbers if number.isdecimal()
    }
    well = {
        name: gpu is not None and not (gpu.problem or reading.problem or reading.absent) for name, gpu in gpus.items()
    }
    yield _gauge("azaion_gpu_up", "Whether the driver answers for the GPU, and it can be used.", well, "device")
    found = {name: gpu for name, gpu in gpus.items() if gpu is not None}
    for name, text, value in (
        ("azaion_gpu_memory_size_bytes", "Memory of the GPU.", lambda gpu: gpu.total),
        ("azaion_gpu_memory_free_bytes", "Memory of the GPU that nobody has.", lambda gpu: gpu.free),
        (
            "azaion_gpu_utilization_ratio",
            "For how much of the last moments the GPU was busy.",
            lambda gpu: None if gpu.busy_percent is None else gpu.busy_percent / 100,
        ),
        ("azaion_gpu_temperature_celsius", "Temperature of the GPU.", lambda gpu: gpu.temperature),
        ("azaion_gpu_slowed", "Whether the GPU slows itself down, for heat or power.", lambda gpu: bool(gpu.slowed)),
        ("azaion_gpu_xids", "Faults in the kernel's log since the machine started.", lambda gpu: len(gpu.xids)),
    ):
        yield _gauge(name, text, {key: value(gpu) for key, gpu in found.items()}, "device")
    errors = {name: gpu.ecc_errors for name, gpu in found.items()}
    yield _counter("azaion_gpu_ecc_errors", "Uncorrected memory errors since the driver was loaded.", errors, "device")


def _consumer(told: Mapping[str, Any]) -> Iterator[Metric]:
    if told.get("service") == "elsewhere":
        return  # what is known of it, it tells there
    running = told.get("service") == "running"
    yield _gauge("azaion_consumer_up", "Whether the annotation consumer's process runs.", {(): running})
    state = str(told.get("state", "starting")) if running else "down"
    yield _gauge("azaion_consumer_state", "What the consumer is doing.", {(state,): 1}, "state")
    if told.get("lag") == 0:
        told = {**told, "lag_s": 0.0}
    for name, text, key in (
        ("azaion_consumer_offset", "The next message of the stream to be read.", "offset"),
        ("azaion_consumer_lag_messages", "Messages in the stream that have not been read.", "lag"),
        ("azaion_consumer_lag_seconds", "How long the next message has been in the stream.", "lag_s"),
        ("azaion_consumer_messages_per_second", "Messages applied in the last minute, a second.", "rate"),
        ("azaion_quarantine_messages", "Messages that could not be applied and are kept.", "quarantined"),
    ):
        yield _gauge(name, text, {(): _number(told.get(key))})
    restarts = _number(told.get("restarts"))
    yield _counter("azaion_consumer_restarts", "How often this daemon has restarted the consumer.", {(): restarts})


def _services(services: Sequence[ServiceFacts]) -> Iterator[Metric]:
    states = {(each.name, str(state)): each.state is state for each in services for state in UnitState}
    yield _gauge("azaion_service_state", "Where a service is; 1 for one state of each.", states, "service", "state")
    restarts = {(each.name,): each.restarts for each in services}
    yield _counter("azaion_service_restarts", "How often a service was restarted unasked.", restarts, "service")


def _health(facts: Facts) -> Iterator[Metric]:
    meaning = "0 ok, 1 warning, 2 critical, 3 unknown."
    verdict = overall(facts.findings).code
    yield _gauge("azaion_health", f"The worst verdict that is not muted: {meaning}", {(): verdict})
    found = {(each.check, each.subject): each.verdict.code for each in facts.findings}
    yield _gauge("azaion_health_check", f"What a check has found: {meaning}", found, "check", "subject")
    muted = {(each.check, each.subject): each.mute is not None for each in facts.findings}
    yield _gauge("azaion_health_check_muted", "Whether a check is not to bother anybody.", muted, "check", "subject")
    yield _gauge("azaion_alerts", "What needs somebody now.", {(): facts.alerts})


def _gauge(name: str, text: str, values: Mapping[_Labels, float | None], *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[_Labels, float | None], *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[_Labels, float | None]) -> Metric:
    """What nobody knows is left out: no value is another one than 0."""
    for labels, value in values.items():
        if value is not None:
            family.add_metric(labels, float(value))
    return family


def _number(value: object) -> float | None:
    """A figure that a process of ours has told, if it is one."""
    return float(value) if isinstance(value, int | float) else None


def _done(progress: Mapping[str, Any]) -> float | None:
    epochs, batches = progress.get("epochs"), progress.get("batches")
    if not epochs:
        return None
    begun = max(0, progress["epoch"] - 1) + (progress["batch"] / batches if batches else 0.0)
    return min(1.0, float(begun / epochs))
