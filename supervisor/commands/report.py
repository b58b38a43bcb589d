"""``azaionctl report``: all that is known of a training, on one page."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, ClientError, find_socket

_SAMPLES: Final = 12
_MOST_SAMPLES: Final = 24
#: What the worker may see of our environment. No secret is among it.
_ENVIRONMENT: Final = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
#: The GPUs and most of the processors are the trainings'.
_MODEST: Final = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``report``."""
    parser = commands.add_parser(
        "report",
        help="one HTML page of all that is known of a training",
        description="Curves, scores, sample predictions, the dataset, arguments, attempts and interruptions, in one "
        "file that loads nothing from anywhere. Of a training that still runs it is a report so far.",
    )
    parser.add_argument("id", type=int, metavar="ID")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write (default: report-ID.html)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument(
        "--samples",
        type=_samples,
        default=_SAMPLES,
        metavar="N",
        help=f"so many images with what the model finds in them, 0 to {_MOST_SAMPLES} (default: {_SAMPLES})",
    )
    parser.set_defaults(run=_run)


def _samples(given: str) -> int:
    if not given.isdecimal() or int(given) > _MOST_SAMPLES:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number from 0 to {_MOST_SAMPLES}")
    return int(given)


def _run(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    job = client.get(f"/v1/jobs/{arguments.id}")
    _check(job, client)
    output = (arguments.output or Path(f"report-{arguments.id}.html")).absolute()
    if not output.parent.is_dir() or output.is_dir():
        raise ClientError(f"{output} cannot be written: name a file in a folder that exists, with -o FILE")
    _make(job, output, arguments.samples)
    written = output.stat().st_size
    if arguments.json:
        text.put_json({"job": job["id"], "path": str(output), "bytes": written})
    else:
        print(f"{output}  ({size(written)})")
    if arguments.open:
        import webbrowser  # noqa: PLC0415 - only for someone who looks

        if not webbrowser.open(output.as_uri()):
            raise ClientError(f"there is no browser here: copy {output} to where one is")
    return 0


def _check(job: dict[str, Any], client: Client) -> None:
    if job["kind"] != "train":
        of = [number for number in job["chain"] if client.get(f"/v1/jobs/{number}")["kind"] == "train"]
        whose = f"; it belongs to training {of[0]}: azaionctl report {of[0]}" if of else ""
        raise ClientError(f"job {job['id']} is no training but {job['kind']}, which has no report{whose}")
    if not job["attempts"]:
        raise ClientError(f"job {job['id']} has not begun ({job['state']}), so there is nothing to report yet")


def _make(job: dict[str, Any], output: Path, samples: int) -> None:
    """Let the worker make it: what it needs to look at images is too heavy for us."""
    folder = Path(job["folder"])
    if not os.access(folder.parent, os.R_OK | os.X_OK):
        raise ClientError(f"you may not read {folder.parent}: run this as the user of the daemon, or as root")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers.report", str(output), job["config"], str(samples)],
        input=json.dumps(job),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _MODEST,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise ClientError(
            f"the report could not be made: signal {-done.returncode} has ended its worker, as it does where memory is "
            f"short. Try again later, or with --samples 0, which needs little"
        )
    if done.returncode > 0:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"it ended with {done.returncode}"
        raise ClientError(f"the report could not be made: {why}")
