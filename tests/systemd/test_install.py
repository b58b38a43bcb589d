"""From nothing to a server that runs, again, and back: `azaionctl install` and `uninstall` in the booted systemd."""

import stat
from collections.abc import Iterator

import pytest

from tests.systemd.conftest import without_reason
from tests.systemd.machine import Machine, machine
from tests.systemd.releases import QUICKLY, checkout, commit, control, current, daemons_release, first, settings
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def fresh() -> Iterator[Machine]:
    """A server on which nothing is installed."""
    without_reason()
    with machine(bare=True) as made:
        yield made


def listed(server: Machine) -> str:
    """Every file where an install might put one."""
    return server.run("find", "/etc", "/opt/azaion", "/usr/local", "/var/lib/azaion", "/srv/disk", check=False).stdout


def owner(server: Machine, path: str) -> str:
    return server.run("stat", "-c", "%a %U:%G", path).stdout.strip()


def test_from_nothing_and_again_and_back(fresh: Machine) -> None:
    server = fresh
    folder, env_file = checkout(server, "first"), settings(server)
    before = listed(server)
    dry = first(server, folder, "--dry-run", *QUICKLY).stdout.splitlines()
    assert listed(server) == before
    assert len(dry) >= 8

    done = first(server, folder, "--env-file", env_file, *QUICKLY).stdout
    steps = [line.removeprefix("would do    ") for line in dry if line.startswith("would do")]
    assert steps
    # What the dry run has said is what is done, save where the settings come from.
    assert all(f"doing       {step}" in done for step in steps if "first look" not in step)
    name = current(server)
    assert daemons_release(server) == name
    units = ("azaion.service", "azaion.socket", "azaion-recover.service")
    assert server.systemctl("is-enabled", *units).split() == ["enabled"] * 3
    assert owner(server, "/etc/azaion/.env") == "640 root:deploy"
    assert owner(server, "/var/lib/azaion") == "750 azaion:azaion"
    assert owner(server, "/azaion/").endswith("azaion:azaion")
    assert owner(server, f"/opt/azaion/releases/{name}/bin/python").endswith("root:root")
    writable = server.run("find", "/opt/azaion", "-perm", "/022", "!", "-type", "l").stdout
    assert not writable

    # It was unpacked from an archive of a commit, and knows it.
    assert commit("first")[:12] in server.run("azaionctl", "--version").stdout
    assert commit("first")[:12] in server.run("azaionctl", "releases").stdout

    # A second time nothing is done, and nobody notices.
    daemon = server.show("MainPID")
    again = first(server, folder, *QUICKLY).stdout.splitlines()
    assert {line.split()[0] for line in again} == {"already"}
    assert server.show("MainPID") == daemon
    # What was damaged is mended, and nothing else is touched.
    server.path("/etc/azaion/.env").chmod(0o600)
    mended = first(server, folder, *QUICKLY).stdout.splitlines()
    assert [line for line in mended if not line.startswith("already")] == [
        "doing       let only root and the group deploy read it: 640 root:deploy"
    ]

    # Wherever one is, the settings are the server's.
    assert "root /azaion" in server.run("sh", "-c", "cd / && azaionctl config check").stdout
    assert "/etc/azaion/.env is good" in server.run("sh", "-c", "cd / && azaionctl doctor", check=False).stdout
    refused = server.run("azaionctl", "config", "check", user="nobody", check=False)
    assert "/etc/azaion/.env" in refused.stderr
    assert "deploy" in server.run("azaionctl", "deploy", "x", user="azaion", check=False).stderr

    # A run is not left without what it was started with.
    number = server.submit("until [ -e go ]; do sleep 0.05; done; exit 7")
    server.wait(number, "running")
    kept = control(server, "uninstall", "--yes", check=False)
    assert (kept.returncode, f"job {number}" in kept.stderr) == (1, True)
    assert current(server) == name
    (server.layout.state / "go").touch()
    server.wait(number)

    removed = control(server, "uninstall", "--yes").stdout
    for left in ("/azaion", "/var/lib/azaion", "/etc/azaion/.env"):
        assert left in removed
        assert server.path(f"{left}/" if left == "/azaion" else left).exists()
    assert not server.path("/opt/azaion").exists()
    assert "/azaion.service\n" not in listed(server)
    assert "azaion.service" not in server.systemctl("list-units", "--all", "--plain", "azaion*")
    assert stat.S_IMODE(server.path("/etc/azaion/.env").stat().st_mode) == 0o640

    # And once more, over what was left: the job is still known.
    first(server, folder, *QUICKLY)
    assert server.job(number)["cause"] == "exit:7"


def test_an_install_that_was_killed_is_begun_again(fresh: Machine) -> None:
    """At every step at which something is durable."""
    server = fresh
    folder, env_file = checkout(server, "killed"), settings(server)
    given = ("--env-file", env_file, *QUICKLY)
    for point in ("install.step=1", "install.step=3", "release.units=1", "release.switched=1"):
        killed = first(server, folder, *given, check=False, failpoints=f"{point}:kill")
        assert killed.returncode in {-9, 137}, (point, killed.stdout, killed.stderr)
    first(server, folder, *given)
    until(lambda: daemons_release(server) == current(server), "it serves")
