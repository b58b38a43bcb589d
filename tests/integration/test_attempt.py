"""How workers end, whatever they do."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.published_models import stands_still
from tests.waiting import until

WORKER = """
from workers.attempt import Account, conduct


class Work:
    nonce, resumption, scratch, account = "n", "", None, Account(message="all of it is done")

    def run(self):
        pass


conduct("work", lambda folder, stop: Work())
"""


def test_what_is_done_is_told_though_an_end_is_asked_for(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={"AZAION_FAILPOINTS": "result.begun=1:stop"},
    )
    until(lambda: stands_still(worker.pid), "its work is done, and not told yet")
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(timeout=30) == 0
    told = json.loads((tmp_path / "result.json").read_bytes())
    assert (told["exit_code"], told["message"]) == (0, "all of it is done")
