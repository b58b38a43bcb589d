"""The scripts behind `make deploy`, `make deploy-mail` and `make release-notes`."""

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / "etc" / "ci"
#: Stands for ssh: the server is this machine, and its shell gets the words as ssh hands them over.
SSH = '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift 2; done\nshift\nexec sh -c "$*"\n'
#: Stands for sudo: tells what it is to do, and what it finds there.
SUDO = r"""#!/bin/bash
printf "%s\n" "$*"
shift 3
ls -a "$1" 2>/dev/null
grep ^_COMMIT "$1/azaion/__init__.py" 2>/dev/null
exit ${DEPLOYED:-0}
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, text in (("ssh", SSH), ("sudo", SUDO)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def script(name: str, *arguments: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run(
        ["/bin/bash", str(CI / name), *arguments],
        env={"PATH": search, "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commit() -> str:
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_a_deploy_takes_the_source_along(programs: Path) -> None:
    done = script("deploy.sh", path=programs, DEPLOY_HOST="deploy@server", RELEASE="HEAD")
    assert done.returncode == 0, done.stderr
    first, *found = done.stdout.splitlines()
    folder = Path(first.removeprefix("-n azaionctl deploy "))
    assert folder.name == commit()
    assert {"azaion", "supervisor", "workers", "etc", "requirements", ".env.example", "pyproject.toml"} <= set(found)
    assert ".git" not in found
    assert f'_COMMIT: Final = "{commit()}"' in found
    assert not folder.parent.exists()


def test_a_deploy_that_fails_there_fails_here(programs: Path) -> None:
    done = script("deploy.sh", path=programs, DEPLOY_HOST="deploy@server", RELEASE="HEAD", DEPLOYED="1")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("variables", "called"),
    [
        ({"ROLLBACK": "1", "RELEASE": "HEAD"}, "-n azaionctl deploy --rollback"),
        ({"WAY": "containers", "ROLLBACK": "1"}, "-n azaionctl deploy --containers --rollback"),
        ({"WAY": "containers", "RELEASE": "HEAD"}, "-n azaionctl deploy --containers {commit}"),
    ],
)
def test_the_server_gets_the_command_of_a_person(programs: Path, variables: dict[str, str], called: str) -> None:
    done = script("deploy.sh", path=programs, DEPLOY_HOST="deploy@server", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == called.format(commit=commit())


@pytest.mark.parametrize(
    "variables", [{"RELEASE": "HEAD; reboot"}, {"RELEASE": "HEAD", "WAY": "boats"}, {"RELEASE": "--all"}]
)
def test_what_is_no_commit_or_no_way_reaches_no_server(programs: Path, variables: dict[str, str]) -> None:
    done = script("deploy.sh", path=programs, DEPLOY_HOST="deploy@server", **variables)
    assert done.returncode != 0
    assert done.stdout == ""


def mail_server(listening: socket.socket, received: list[str]) -> None:
    """Take one mail."""
    connection, _ = listening.accept()
    with connection, connection.makefile("rw", encoding="utf-8", newline="\r\n") as talk:
        talk.write("220 ready\n")
        talk.flush()
        for line in talk:
            received.append(line.rstrip())
            answer = "354 go on" if line.startswith("DATA") else "221 bye" if line.startswith("QUIT") else "250 ok"
            talk.write(answer + "\n")
            talk.flush()
            if line.startswith("DATA"):
                while (text := talk.readline().rstrip()) != ".":
                    received.append(text)
                talk.write("250 ok\n")
                talk.flush()


def test_a_failed_deploy_is_told_by_mail() -> None:
    received: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=mail_server, args=(listening, received))
        server.start()
        done = script(
            "mail.sh",
            SMTP_URL=f"smtp://127.0.0.1:{listening.getsockname()[1]}",
            MAIL_FROM="ci@example.com",
            MAIL_TO="one@example.com,two@example.com",
            SUBJECT="Deploy failed\nBcc: all@example.com",
            TEXT="See there.",
        )
        server.join(timeout=30)
    assert done.returncode == 0, done.stderr
    assert [line for line in received if line.startswith("RCPT")] == [
        "RCPT TO:<one@example.com>",
        "RCPT TO:<two@example.com>",
    ]
    assert "Subject: Deploy failed Bcc: all@example.com" in received
    assert "See there." in received


def test_release_notes_are_a_section_of_the_changelog() -> None:
    done = script("release_notes.sh")
    assert done.returncode == 0
    assert done.stdout.startswith("### Added")
    missing = script("release_notes.sh", "v99.0.0")
    assert (missing.returncode, "no section [99.0.0]" in missing.stderr) == (1, True)
