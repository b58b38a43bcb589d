"""``azaionctl keys`` as its user types it; no daemon runs."""

import json
import subprocess
import sys

from azaion.publishing import age, keyring
from tests.installations import Installation

STRANGER = age.generate().recipient
TEXT = "the platform's key string, ключ"


def typed(server: Installation, *arguments: str, told: str) -> subprocess.CompletedProcess[str]:
    """A command with something on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor.ctl", "keys", *arguments],
        cwd=server.folder,
        env=server.environment(PYTHONPATH=str(server.code)),
        input=told,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_keys_from_the_first_to_the_second(server: Installation) -> None:
    folder = server.layout.state / "keys"
    assert "`azaionctl keys generate`" in server.ctl("keys", "show").stdout

    said = server.ctl("keys", "generate").stdout
    assert f"made {folder / 'signing-1.pem'}" in said
    assert f"give {folder / 'signing-1.pub'} to those who use the models" in said
    again = server.ctl("keys", "generate")
    assert (again.returncode, "azaionctl keys rotate age" in again.stderr) == (1, True)

    done = typed(server, "generate", "--legacy", "-", told=f"{TEXT}\r\n")
    assert done.returncode == 0, done.stderr
    told = server.json("keys", "rotate", "age", "--recipient", STRANGER)
    assert told["made"] == [str(folder / "recipients-2.txt")]
    assert told["instead_of"] == [str(folder / "recipients-1.txt")]
    assert server.json("keys", "rotate", "signing")["instead_of"] == [str(folder / "signing-1.pem")]

    keys = server.json("keys", "show")["keys"]
    ring = keyring.load(folder)
    assert [(each["kind"], each["id"]) for each in keys] == [
        *(("signing", key.id) for key in ring.signers()),
        ("recipient", STRANGER),
        ("identity", ring.identities[0].key.keys[0].recipient),
        ("legacy", ring.legacy[0].key.id),
    ]
    assert ring.legacy[0].key.text == TEXT
    assert [each["use"] for each in keys[2:4]] == ["encrypts; its identity is elsewhere", "decrypts what is older"]

    shown = server.ctl("keys", "show").stdout
    assert all(each["id"] in shown for each in keys)
    assert keys[0]["public"] in shown
    everything = "".join([said, again.stderr, done.stdout, done.stderr, json.dumps(told), json.dumps(keys), shown])
    secrets = [TEXT, ring.identities[0].key.keys[0].text, ring.signers()[0].key.private_bytes_raw().hex(), "PRIVATE"]
    assert not [secret for secret in secrets if secret in everything]


def test_what_the_command_refuses(server: Installation) -> None:
    keys = str(server.folder / "elsewhere")
    wrong: list[tuple[str, ...]] = [
        ("generate", "--legacy", "-", "--recipient", STRANGER),
        ("rotate", "signing", "--recipient", STRANGER),
        ("rotate", "age", "--legacy", "-"),
        ("rotate", "everything"),
        ("generate", TEXT),
    ]
    for words in wrong:
        assert server.ctl("keys", *words, "--keys", keys).returncode == 2, words
    refused: list[tuple[tuple[str, ...], str]] = [
        (("generate", "--recipient", "age1abc"), "no recipient of age"),
        (("generate", "--legacy", "absent"), "absent"),
        (("generate", "--legacy", "-"), "no key string"),
        (("rotate", "signing"), "azaionctl keys generate"),
    ]
    for arguments, why in refused:
        done = server.ctl("keys", *arguments, "--keys", keys)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert server.ctl("keys", "generate", "--keys", keys).returncode == 0
    (server.folder / "elsewhere" / "age-1.txt").chmod(0o644)
    done = server.ctl("keys", "show", "--keys", keys)
    assert (done.returncode, "chmod 600" in done.stderr) == (1, True)
