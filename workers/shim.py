"""The parent of exactly one attempt: ``python -I -S shim.py [--detach] FOLDER``.

With ``-`` as the folder it waits for a line on standard input that names it, and leaves if none comes: so a launcher
can have one that is warm already.

It outlives the daemon, so that the daemon may be killed, restarted or upgraded without touching the run, and it records
how the run ended. Standard library only, no package of ours, no asyncio, no ctypes: it must start in milliseconds, stay
small, and go on when the release it came from has been replaced.

What it promises:

- **A folder serves one start, ever.** It takes ``lock`` without waiting; having it, it leaves at once if
  ``state.json``, ``exit.json`` or ``request.json`` is there.
- ``state.json`` is durable before the child may exec: the child waits at a gate, and a gate that closes without its
  byte (the shim died) means that it must not.
- The child inherits the lock: a dead shim does not mean a free attempt.
- SIGTERM asks it to stop the run: it is passed on to the leader of the job alone (to the group it would kill DataLoader
  workers, and the epoch with them). ``request.json`` says whether there is a limit to the patience.
- The limits of ``spec.json`` hold before the child may exec, and ``state.json`` says how each is enforced: by the
  control group that it names, by the unit of systemd that the shim runs in, or else by what a process without
  privileges can do (niceness, a set of processors, and a look at the memory once a second).
- ``exit.json`` is its last act, in space that was set aside before the start, so that a full disk cannot lose it.

Exit codes: 0 the run has ended and is recorded; 73 there was nothing to start here; anything else, with a line in
``log``: it could not start, and no child was let through the gate.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
NOTHING_TO_START = 73
#: How long a cancelled run may take to end before its whole group is killed, unless the request says otherwise.
GRACE_S = 30.0
#: How often the memory of a run is looked at that has a limit and no control group.
LOOK_S = 1.0
#: So many looks in a row must find it above: a child that has just been forked is counted twice for a moment.
LOOKS = 2
#: Set aside for exit.json; what is written is about a tenth of it.
RESERVED_BYTES = 4096

LOCK, SPEC, REQUEST, STATE, EXIT, LOG = "lock", "spec.json", "request.json", "state.json", "exit.json", "log"
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

_failpoints = os.environ.get("AZAION_FAILPOINTS", "")


def failpoint(name: str) -> None:
    """What ``azaion.failpoints`` does, for a program that imports nothing: ``name=1:kill`` and ``name=1:stop``."""
    if f"{name}=1:" in _failpoints:
        os.kill(os.getpid(), signal.SIGSTOP if f"{name}=1:stop" in _failpoints else signal.SIGKILL)


def start_time(pid: int) -> int:
    """When a process began, in ticks since boot (field 22 of /proc/PID/stat): with the PID it names it for good."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        return int(stream.read().rpartition(")")[2].split()[19])


def boot_id() -> str:
    """This boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def oom_kills(group: str | None) -> int:
    """How many processes of a control group (or of our own) the kernel has killed for memory; 0 where it is silent."""
    try:
        if group is not None:
            with open(f"{group}/memory.events", encoding="ascii") as stream:
                return sum(int(row.split()[1]) for row in stream if row.startswith("oom_kill "))
        with open("/proc/self/cgroup", encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if not controllers:
                source = f"/sys/fs/cgroup{path}/memory.events"
            elif "memory" in controllers.split(","):
                source = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
            else:
                continue
            if os.path.exists(source):
                with open(source, encoding="ascii") as stream:
                    return sum(int(row.split()[1]) for row in stream if row.startswith("oom_kill "))
    except (OSError, ValueError, IndexError):
        pass
    return 0


def carries(pid: str, mark: bytes) -> bool:
    """Whether a process has this in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return mark in b"\0" + stream.read()
    except OSError:
        return False


def resident(pid: str) -> int:
    """Bytes of memory of a process, what it shares with others included; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0


def proportional(pid: str) -> int:
    """Bytes of memory of a process, of what it shares only its part."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
            return sum(int(row.split()[1]) * 1024 for row in stream if row.startswith("Pss:"))
    except (OSError, ValueError, IndexError):
        return resident(pid)


def memory(nonce: str, limit: int) -> int:
    """Bytes of memory of all processes that carry the nonce; where it is not above ``limit``, it may be too much."""
    mark = f"\0AZAION_NONCE={nonce}\0".encode()
    pids = [pid for pid in os.listdir("/proc") if pid.isdecimal() and carries(pid, mark)]
    most = sum(resident(pid) for pid in pids)
    # What is shared (DataLoader workers share nearly all) is in it many times. The exact sum costs far more time.
    return most if most <= limit else sum(proportional(pid) for pid in pids)


def confine(pid: int, limits: dict[str, Any]) -> dict[str, str]:
    """Put limits on the child, which still waits at the gate. Returns how each is enforced."""
    enforced: dict[str, str] = {}
    if (group := limits.get("cgroup")) is not None:
        try:
            with open(f"{group}/cgroup.procs", "w", encoding="ascii") as stream:
                stream.write(str(pid))
            enforced = {name: "cgroup" for name in ("memory", "cpus") if name in limits}
        except OSError as error:
            os.write(2, f"azaion-shim: {group} cannot be used: {error}\n".encode())
    if "unit" in limits:
        # We are in it, and so is the child.
        enforced = {name: "systemd" for name in ("memory", "cpus") if name in limits}
    if "memory" in limits:
        enforced.setdefault("memory", "watched")
    try:
        if "cpus" in limits and "cpus" not in enforced:
            processors = sorted(os.sched_getaffinity(pid))
            count = min(len(processors), max(1, -int(-limits["cpus"] // 1)))
            # Another place to begin for each, so that two limited runs need not share.
            first = pid % len(processors)
            os.sched_setaffinity(pid, (processors + processors)[first : first + count])
            enforced["cpus"] = f"{count} of {len(processors)} processors"
        if "nice" in limits:
            os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + limits["nice"]))
            enforced["nice"] = "setpriority"
    except OSError as error:
        os.write(2, f"azaion-shim: not every limit can be set: {error}\n".encode())
    return enforced


def expendable(score: int) -> None:
    """Let the kernel choose us earlier, when memory is short; anybody may do that."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(score))
    except OSError:
        pass


def fsync_folder() -> None:
    """Make the names in the attempt's folder durable."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_durably(descriptor: int, temporary: str, name: str, value: dict[str, Any]) -> None:
    """Give ``name`` this content, whole or not at all."""
    data = json.dumps(value).encode() + b"\n"
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(temporary, name)
    fsync_folder()


def create(name: str) -> int:
    """Open a new file for writing, in place of whatever has this name."""
    if os.path.lexists(name):
        os.unlink(name)
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)


def read_json(name: str) -> dict[str, Any]:
    """Read one of the daemon's files; {} if it is absent or unreadable."""
    try:
        with open(name, "rb") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def told_folder() -> str:
    """The folder that standard input names."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, RESERVED_BYTES)
        if not data:
            # Whoever kept us warm is gone.
            sys.exit(NOTHING_TO_START)
        line += data
    return os.fsdecode(line[:-1])


def take_lock() -> int:
    """Become the one shim of this folder; its descriptor is inherited by all that we start."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(NOTHING_TO_START)
    os.set_inheritable(descriptor, True)
    return descriptor


def child(spec: dict[str, Any], gate: int, closed: int, complaint: int) -> None:
    """The other side of the fork: wait at the gate, then become the job. Never returns."""
    try:
        os.setsid()
        os.close(closed)
        if os.read(gate, 1) != b"!":
            os._exit(NOTHING_TO_START)
        # Whoever started the daemon may have ignored any of them; an ignored SIGTERM could not be asked to stop.
        for number in (*SIGNALS, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        environment = {**spec["env"], "AZAION_NONCE": spec["nonce"]}
        if "CREDENTIALS_DIRECTORY" in os.environ:
            # Of the unit that we are alone in: what systemd gives to it is for the job.
            environment["CREDENTIALS_DIRECTORY"] = os.environ["CREDENTIALS_DIRECTORY"]
        os.umask(int(spec.get("umask", 0o022)))
        if "oom_score_adj" in spec:
            expendable(spec["oom_score_adj"])
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], environment)  # noqa: S606 - becoming the job is the point
    except Exception as error:
        os.write(complaint, f"cannot run {spec.get('argv')} in {spec.get('cwd')}: {error}"[:1000].encode())
    finally:
        os._exit(127)


def spawn(spec: dict[str, Any]) -> tuple[int, int, dict[str, str]]:
    """Fork the child, record it durably, then let it through the gate.

    Returns its PID, where it complains, and how its limits are enforced.
    """
    gate, opener = os.pipe()
    complaints, complaint = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(spec, gate, opener, complaint)
    os.close(gate)
    os.close(complaint)
    try:
        enforced = confine(pid, spec.get("limits", {}))
        state = {
            "protocol": PROTOCOL,
            "nonce": spec["nonce"],
            "boot_id": boot_id(),
            "shim": {"pid": os.getpid(), "start": start_time(os.getpid())},
            "child": {"pid": pid, "start": start_time(pid)},
            "started": time.time(),
            # Within this boot it tells how long the run has lasted, whatever the clock is set to, less any suspension.
            "monotonic": time.monotonic(),
            "enforced": enforced,
        }
        failpoint("shim.spawned")
        write_durably(create(".state.json"), ".state.json", STATE, state)
        failpoint("shim.recorded")
    except BaseException:
        # The gate closes without its byte, so the child leaves without having run.
        os.close(opener)
        os.waitpid(pid, 0)
        raise
    os.write(opener, b"!")
    os.close(opener)
    return pid, complaints, enforced


def ended(pid: int) -> bool:
    """Whether the leader has ended; it stays unreaped, which pins its PID and so its group's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(pid: int) -> None:
    """Kill what is left of the job's group; only while the leader is unreaped."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        # Nobody is left, or they have become another user's: how the leader ended must be recorded all the same.
        pass


def ask(pid: int) -> None:
    """Ask the leader to end; only while it is unreaped."""
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        pass


class Watch:
    """What happened to a run until its end.

    Attributes:
        passed_on: the intent that was passed on to the leader.
        killed: whether we killed the group at the end of the grace.
        used: bytes of memory that were more than the limit, for which we killed the group.
    """

    def __init__(self, nonce: str, limit: int | None) -> None:
        self.passed_on: str | None = None
        self.killed = False
        self.used: int | None = None
        self.nonce = nonce
        self.limit = limit
        self.above = 0
        self.deadline: float | None = None

    def wait(self, pid: int) -> None:
        """Wait for the leader to end, passing on what we are asked, and looking at its memory if that has a limit."""
        look = time.monotonic() + LOOK_S
        while not ended(pid):
            pause = 3600.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            if self.limit is not None:
                pause = min(pause, max(0.0, look - time.monotonic()))
            arrived = signal.sigtimedwait(SIGNALS, pause)
            if arrived is not None and arrived.si_signo in {signal.SIGTERM, signal.SIGINT}:
                self.pass_on(pid)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.killed = True
                self.deadline = None
                kill_group(pid)
            if self.limit is not None and time.monotonic() >= look:
                look = time.monotonic() + LOOK_S
                self.look(pid, self.limit)
        if self.passed_on is None and signal.SIGTERM in signal.sigpending():
            # A machine that goes down asks everybody at once, and the leader has been quicker than we were.
            self.passed_on = str(read_json(REQUEST).get("intent", "shutdown"))

    def pass_on(self, pid: int) -> None:
        """Ask the leader to end, and set a limit to the patience if there is one."""
        request = read_json(REQUEST)
        # Nobody of ours asked: the machine is going down.
        intent = str(request.get("intent", "shutdown"))
        if intent != self.passed_on:
            self.passed_on = intent
            ask(pid)
        grace = request.get("grace_s")
        if intent == "cancel" and not isinstance(grace, int | float):
            grace = GRACE_S
        if isinstance(grace, int | float):
            limit = time.monotonic() + grace
            self.deadline = limit if self.deadline is None else min(self.deadline, limit)

    def look(self, pid: int, limit: int) -> None:
        """Kill the group if its memory has been above the limit for several looks."""
        used = memory(self.nonce, limit)
        self.above = self.above + 1 if used > limit else 0
        if self.above >= LOOKS and self.used is None and not self.killed:
            self.used = used
            kill_group(pid)


def run(spec: dict[str, Any], reserved: int) -> None:
    """Start the job, wait for its end, record it."""
    limits = spec.get("limits", {})
    before = oom_kills(None)
    began, began_monotonic = time.time(), time.monotonic()
    pid, complaints, enforced = spawn(spec)
    failpoint("shim.started")
    group = limits.get("cgroup") if enforced.get("memory") == "cgroup" else None
    watch = Watch(spec["nonce"], limits["memory"] if enforced.get("memory") == "watched" else None)
    watch.wait(pid)
    kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    failpoint("shim.reaped")
    killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    os.set_blocking(complaints, False)
    try:
        error = os.read(complaints, RESERVED_BYTES).decode(errors="replace")
    except BlockingIOError:
        error = ""
    oom = killer == signal.SIGKILL and not watch.killed and oom_kills(group) > (0 if group else before)
    if "unit" in limits and status and not watch.killed and watch.passed_on is None:
        # The unit is the run's alone. Whoever of it was killed for memory, the leader has failed for that.
        oom = oom_kills(None) > before
    write_durably(
        reserved,
        ".exit.json",
        EXIT,
        {
            "protocol": PROTOCOL,
            "nonce": spec["nonce"],
            "rc": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": killer,
            "oom": oom or (killer == signal.SIGKILL and watch.used is not None),
            "memory": watch.used,
            "killed": watch.killed,
            "stop_requested": watch.passed_on,
            "error": error,
            "started": began,
            "ended": time.time(),
            "ran_s": time.monotonic() - began_monotonic,
            "rusage": {"utime_s": usage.ru_utime, "stime_s": usage.ru_stime, "maxrss_bytes": usage.ru_maxrss * 1024},
        },
    )


def main(arguments: list[str]) -> None:
    """See the module's text."""
    detach = "--detach" in arguments
    folders = [argument for argument in arguments if argument != "--detach"]
    if len(folders) != 1:
        sys.exit("usage: shim.py [--detach] FOLDER")
    folder = told_folder() if folders[0] == "-" else folders[0]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Ignored (it is inherited), it would neither wake us nor leave us an exit status to record.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if detach:
        if os.fork():
            os._exit(0)
        os.setsid()
    os.chdir(folder)
    failpoint("shim.begun")
    take_lock()
    failpoint("shim.locked")
    if any(os.path.lexists(name) for name in (STATE, EXIT, REQUEST)):
        sys.exit(NOTHING_TO_START)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    spec = read_json(SPEC)
    if spec.get("protocol") != PROTOCOL:
        sys.exit(f"azaion-shim: {folder}/{SPEC} is unreadable or not of protocol {PROTOCOL}; nothing was started")
    reserved = create(".exit.json")
    os.posix_fallocate(reserved, 0, RESERVED_BYTES)
    os.fsync(reserved)
    run(spec, reserved)


if __name__ == "__main__":
    main(sys.argv[1:])
