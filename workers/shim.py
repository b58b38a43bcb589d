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


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory; 0 where it does not tell."""
    try:
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
        os.umask(int(spec.get("umask", 0o022)))
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], environment)  # noqa: S606 - becoming the job is the point
    except Exception as error:
        os.write(complaint, f"cannot run {spec.get('argv')} in {spec.get('cwd')}: {error}"[:1000].encode())
    finally:
        os._exit(127)


def spawn(spec: dict[str, Any]) -> tuple[int, int]:
    """Fork the child, record it durably, then let it through the gate. Returns its PID and where it complains."""
    gate, opener = os.pipe()
    complaints, complaint = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(spec, gate, opener, complaint)
    os.close(gate)
    os.close(complaint)
    try:
        state = {
            "protocol": PROTOCOL,
            "nonce": spec["nonce"],
            "boot_id": boot_id(),
            "shim": {"pid": os.getpid(), "start": start_time(os.getpid())},
            "child": {"pid": pid, "start": start_time(pid)},
            "started": time.time(),
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
    return pid, complaints


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


def wait(pid: int) -> tuple[str | None, bool]:
    """Wait for the leader to end, passing on what we are asked. Returns the intent passed on, and whether we killed."""
    passed_on: str | None = None
    deadline: float | None = None
    killed = False
    while not ended(pid):
        pause = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        arrived = signal.sigtimedwait(SIGNALS, pause)
        if arrived is not None and arrived.si_signo in {signal.SIGTERM, signal.SIGINT}:
            request = read_json(REQUEST)
            # Nobody of ours asked: the machine is going down.
            intent = str(request.get("intent", "shutdown"))
            if intent != passed_on:
                passed_on = intent
                ask(pid)
            if intent == "cancel":
                grace = request.get("grace_s", GRACE_S)
                limit = time.monotonic() + (float(grace) if isinstance(grace, int | float) else GRACE_S)
                deadline = limit if deadline is None else min(deadline, limit)
        if deadline is not None and time.monotonic() >= deadline:
            killed = True
            deadline = None
            kill_group(pid)
    if passed_on is None and signal.SIGTERM in signal.sigpending():
        # A machine that goes down asks everybody at once, and the leader has been quicker than we were.
        passed_on = str(read_json(REQUEST).get("intent", "shutdown"))
    return passed_on, killed


def run(spec: dict[str, Any], reserved: int) -> None:
    """Start the job, wait for its end, record it."""
    before = oom_kills()
    began = time.time()
    pid, complaints = spawn(spec)
    failpoint("shim.started")
    passed_on, killed = wait(pid)
    kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    failpoint("shim.reaped")
    killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    os.set_blocking(complaints, False)
    try:
        error = os.read(complaints, RESERVED_BYTES).decode(errors="replace")
    except BlockingIOError:
        error = ""
    write_durably(
        reserved,
        ".exit.json",
        EXIT,
        {
            "protocol": PROTOCOL,
            "nonce": spec["nonce"],
            "rc": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": killer,
            "oom": killer == signal.SIGKILL and not killed and oom_kills() > before,
            "killed": killed,
            "stop_requested": passed_on,
            "error": error,
            "started": began,
            "ended": time.time(),
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
