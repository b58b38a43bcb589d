"""Everything at once: what `make soak` does for an hour, for a minute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.__main__ import private

#: For how long things go wrong; `make soak` has more of it.
SECONDS = int(os.environ.get("AZAION_SOAK_S", "45"))
ROUNDS = int(os.environ.get("AZAION_SOAK_ROUNDS", "1"))


@pytest.mark.train
@pytest.mark.timeout(ROUNDS * (SECONDS + 400))
def test_random_faults_of_every_part() -> None:
    """AZAION_SEED replays the dice of a failure, AZAION_SOAK_S and AZAION_SOAK_ROUNDS set how much there is of it."""
    if subprocess.run([*private(), "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespace can be made here: run it as root")
    seed = ["--seed", os.environ["AZAION_SEED"]] if "AZAION_SEED" in os.environ else []
    argv = [sys.executable, "-m", "tests.soak", "--seconds", str(SECONDS), "--rounds", str(ROUNDS), *seed]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("0 violations\n")
