"""``make demo``: annotations in, a model out, and in the middle the daemon is killed with SIGKILL.

Everything is done with ``azaiond`` and ``azaionctl`` as a user would; what is typed is printed behind ``$``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import photographs

HERE = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FOLDER = HERE / "var" / "demo"
EPOCHS = 36
#: The daemon is killed when this many epochs are done.
KILL_AFTER = 8
LIMIT_S = 300.0


class DemoError(Exception):
    """The demo did not go as promised."""


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def ctl(*arguments: str, show: bool = True) -> str:
    """Run ``azaionctl`` and print what it says."""
    if show:
        print(f"$ azaionctl {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [BIN / "azaionctl", *arguments], cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=False, env=environment()
    )
    if done.returncode:
        raise DemoError(f"azaionctl {' '.join(arguments)} ended with {done.returncode}")
    if show:
        print(done.stdout, end="", flush=True)
    return done.stdout


def ask(*arguments: str) -> Any:
    return json.loads(ctl(*arguments, "--json", show=False))


def environment() -> dict[str, str]:
    """What is set outside must not reach the demo's own installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AZAION_", "TRAINING_"))}


def start() -> subprocess.Popen[bytes]:
    print("$ azaiond &", flush=True)
    with (FOLDER / "azaiond.log").open("ab") as log:
        daemon = subprocess.Popen([BIN / "azaiond"], cwd=FOLDER, stdout=log, stderr=log, env=environment())
    deadline = time.monotonic() + 20
    while (
        not (FOLDER / "var" / "control.sock").exists()
        or subprocess.run(
            [BIN / "azaionctl", "list"], cwd=FOLDER, capture_output=True, check=False, env=environment()
        ).returncode
    ):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"azaiond did not start; see {FOLDER / 'azaiond.log'}")
        time.sleep(0.1)
    return daemon


def prepare() -> None:
    """A fresh installation in var/demo."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    pictures = FOLDER / "photographs"
    pictures.mkdir(parents=True)
    root = FOLDER / "azaion"
    root.mkdir()
    classes = photographs.tree_crowns(pictures, HERE / ".cache" / "demo", HERE / "requirements" / "demo.lock")
    if classes is None:
        print("The package with the photographs cannot be had here, so the demo draws shapes instead.")
        classes = photographs.shapes(pictures)
    (root / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    settings = (HERE / ".env.example").read_text(encoding="utf-8")
    changes = {
        "AZAION_ROOT_DIR": str(root),
        "AZAION_GPUS": "none",
        "TRAINING_MODEL": "yolo26t.yaml",
        "TRAINING_EPOCHS": str(EPOCHS),
        "TRAINING_BATCH_SIZE": "4",
        "TRAINING_IMGSZ": str(photographs.TILE),
        "TRAINING_WORKERS": "1",
    }
    lines = []
    for line in settings.splitlines():
        name = line.partition("=")[0]
        lines.append(f"{name}={changes[name]}" if name in changes else line)
    file = FOLDER / ".env"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def until(condition: Any, what: str, limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise DemoError(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(0.25)
    return value


def epochs_done(number: int) -> int:
    job = ask("show", str(number))
    if job["state"] not in {"queued", "starting", "running"}:
        raise DemoError(f"job {number} is {job['state']}: {job['reason']}; see azaionctl logs {number}")
    return max(0, ((job["progress"] or {}).get("epoch") or 0) - 1)


def main() -> None:
    began = time.monotonic()
    prepare()
    pictures = len(list((FOLDER / "photographs").glob("*.jpg")))
    say(f"1. A server in {FOLDER.relative_to(HERE)}, with {pictures} annotated photographs to send to it")
    daemon = start()
    try:
        ctl("config", "check")
        ctl("annotations", "import", "photographs")
        until(lambda: ask("status")["consumer"].get("offset") == pictures, "the consumer takes the annotations")
        ctl("status")

        say(f"2. Train on them, {EPOCHS} epochs on the CPU")
        # nbs: ultralytics gathers gradients over 64 images before a step, which for so few would be a step an epoch.
        options = ["--set", "nbs=4", "--set", "optimizer=AdamW", "--set", "lr0=0.005", "--set", "warmup_epochs=1"]
        number = json.loads(ctl("submit-train", *options, "--json"))["id"]
        until(lambda: epochs_done(number) >= KILL_AFTER, "the first epochs")
        ctl("status")
        before = ask("show", str(number))["attempts"]

        say(f"3. Kill the daemon with SIGKILL, in the middle of the training (trainer: pid {before[-1]['pid']})")
        print(f"$ kill -KILL {daemon.pid}", flush=True)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        away = time.monotonic()
        os.kill(before[-1]["pid"], 0)
        print(f"azaiond is gone; the trainer, pid {before[-1]['pid']}, goes on")
        daemon = start()
        print(f"back after {time.monotonic() - away:.1f} s")
        after = ask("show", str(number))["attempts"]
        if [attempt["pid"] for attempt in after] != [attempt["pid"] for attempt in before]:
            raise DemoError(f"the trainer did not survive: {before} became {after}")
        ctl("status")

        say("4. Wait for its end")
        ctl("wait", str(number))
        ctl("show", str(number))

        say("5. What is there now")
        ctl("status")
        job = ask("show", str(number))
        attempt = job["attempts"][-1]
        print(
            f"\nOne trainer (pid {attempt['pid']}) ran through, exit status {attempt['exit_code']}, "
            f"though its daemon was killed.\n"
            f"model    {job['artifacts']['path']}\n"
            f"mAP50    {job['artifacts']['map50']:.3f} on photographs that it had not seen\n"
            f"time     {time.monotonic() - began:.0f} s in all"
        )
    finally:
        daemon.terminate()
        daemon.wait()


if __name__ == "__main__":
    try:
        main()
    except DemoError as error:
        sys.exit(f"demo: {error}")
