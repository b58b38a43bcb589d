"""Whatever stands in ``.env``, ``azaion.yaml`` or a rendered ``config.yaml``: it is taken as what it says, or refused.

AZAION_FUZZ says how many are tried (a fortieth of it), AZAION_SEED replays a run.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from azaion import config, declarations
from azaion.config import VARIABLES, ConfigError
from azaion.environment import read_env_file
from tests.installations import Installation
from tests.tallies import tally

CASES: Final = max(1, int(os.environ.get("AZAION_FUZZ", "20000")) // 40)
#: One reading, however hostile; a file is refused from its size on.
SECONDS: Final = 5.0
REPOSITORY: Final = Path(__file__).parents[2]

GOOD: Final[dict[str, str]] = {
    "AZAION_ROOT_DIR": "/azaion",
    "AZAION_DATA_DIR": "data",
    "AZAION_DATA_SEED_DIR": "data-seed",
    "AZAION_DATA_DELETED_DIR": "data_deleted",
    "AZAION_STATE_DIR": "/var/lib/azaion",
    "AZAION_SOURCE": "spool",
    "AZAION_PUBLISH_TARGET": "none",
    "TRAINING_MODEL": "yolo26m.pt",
    "TRAINING_EPOCHS": "120",
    "TRAINING_BATCH_SIZE": "11",
    "TRAINING_IMGSZ": "1280",
    "TRAINING_SAVE_PERIOD": "1",
    "TRAINING_WORKERS": "24",
    "EXPORT_ONNX_IMGSZ": "1280",
}
DECLARED: Final[dict[str, Any]] = {
    "services": {
        "web": {
            "argv": ["/bin/sleep", "1"],
            "cwd": "/",
            "env": {"A": "b", "KEY": {"variable": "WEB_KEY"}},
            "after": ["db"],
            "grace_s": 5,
            "ready": {"http": "http://127.0.0.1:80/x", "timeout_s": 3},
            "holds_gpu": True,
        },
        "db": {"argv": ["/bin/sleep", "2"], "ready": {"tcp": 8080}},
    },
    "health": {"checks": {"disk": {"interval_s": 10, "warning": 80, "critical": 90}, "clock": {"enabled": False}}},
    "alerts": {
        "channels": {"ops": {"url": {"variable": "OPS_URL"}, "levels": ["critical"], "kinds": ["disk"]}},
        "remind_critical_s": 600,
    },
    "gate": {"metric": "map50", "margin": 0.01, "minimum_images": 20, "automatic": True},
    "retrain": {"annotations": 500, "cron": "0 2 * * 0", "priority": -10, "epochs": 12, "overrides": {"lr0": 0.005}},
}
TEXTS: Final = (
    *(
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "9" * 5000,
        "true",
        "null",
        "\u0000",
        "\u2028",
        "x" * 100_000,
        "../..",
        "/",
        "~",
        "$HOME",
    ),
    *(
        "${A}",
        "$(id)",
        "`id`",
        '"',
        "'",
        "\\",
        "a\nb",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "#",
    ),
    *(
        "%s",
        "{}",
        "https://a:b@c",
        "\u0663",
        "* * * * *",
        "99 99 99 99 99",
        "0 0 31 2 *",
        "-" * 300,
        "http://[::1",
        "http://x:99999",
    ),
)
VALUES: Final[tuple[Any, ...]] = (
    *TEXTS,
    *(
        None,
        True,
        -1,
        0,
        1 << 64,
        10**4000,
        1.5,
        float("nan"),
        float("inf"),
        [],
        {},
        [[]],
        {"a": {"b": []}},
        ["a"] * 3000,
    ),
    *({0: 2, None: 3, True: 4}, {"x" * 5000: 1}, b"\xff\x00", "2026-13-45"),
)
#: What a parser does not come back from, or only after long.
BOMBS: Final = (
    b"[" * 100_000,
    b"{" * 100_000,
    b"a: " * 50_000,
    b"- " * 100_000,
    b"? " * 50_000,
    b"&a [*a, *a]",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 120)),
    b"!!python/object/apply:os.system ['touch /tmp/never']",
    b"a: !!binary " + b"A" * 100_000,
    b"a: " + b"9" * 200_000,
    b"a: 0x" + b"f" * 200_000,
    b"a: 1" + b":59" * 50_000,
    b"<<: {<<: {<<: {}}}\n" * 1000,
    b"%YAML 9.9\n---\na: b",
    b"--- a\n" * 10_000,
    b"\xff\xfe" + "a: b".encode("utf-16-le"),
    b'a: "' + b"\\x41" * 50_000,
    b"2001-01-01: 1\n0001-01-01T00:00:00+99:99: 2",
    b"a: 2001-99-99",
    b"\x00" * 70_000,
    b"#" * 200_000,
    b"a" * 60_000 + b"=" + b"b" * 1000,
    b"'" + b"\\'" * 30_000,
    b"\n" * 60_000 + b"A=1",
    b" " * 60_000 + b"=",
    b"export " * 9000,
)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut, doubled or put in."""
    made = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = rng.randbytes(1)
            case 1:
                del made[at : at + rng.randrange(20)]
            case 2:
                made[at:at] = made[at : at + rng.randrange(40)]
            case 3:
                made[at:at] = rng.choice(
                    (
                        b"\x00",
                        b"\xff",
                        b"\n",
                        b"\r",
                        b"\t",
                        b": ",
                        b"- ",
                        b"&a ",
                        b"*a",
                        b"!!x ",
                        b"'",
                        b'"',
                        b"{",
                        b"[",
                    )
                )
            case _:
                del made[at:]
    return bytes(made)


def other(rng: random.Random, value: Any) -> Any:
    """The same with something else in one place."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {
                **value,
                rng.choice(("x", "", 1, None, "argv", "name", key * 2 if isinstance(key, str) else key)): value[key],
            }
        return {**value, key: other(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        return [other(rng, value[0]), *value[1:]]
    return rng.choice(VALUES)


def a_settings_file(rng: random.Random, path: Path) -> str:
    """``.env``, as the daemon and `config check` read it."""
    given = {
        **GOOD,
        **{variable.name: rng.choice(TEXTS) for variable in rng.sample(VARIABLES, rng.choice((0, 1, 1, 3)))},
    }
    quote = rng.choice(("{}", "{}", "'{}'", '"{}"'))
    lines = [f"{name}={quote.format(value) if rng.random() < 0.3 else value}" for name, value in given.items()]
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(rng, text) if rng.random() < 0.4 else text)
    path.chmod(0o640)
    found = config.settings({}, path)
    # What was taken is taken again when it has been written down for the children.
    rendered = path.with_name("rendered.yaml")
    config.write(found, rendered)
    assert config.load(rendered) == found
    return "taken"


def a_rendered_file(rng: random.Random, path: Path) -> str:
    """``config.yaml``, as children read it."""
    config.write(config.settings(GOOD, None), path)
    data = path.read_bytes()
    path.write_bytes(
        damaged(rng, data)
        if rng.random() < 0.5
        else yaml.safe_dump(other(rng, yaml.safe_load(data))).encode("utf-8", "surrogatepass")
    )
    config.load(path)
    return "taken"


def a_declaration(rng: random.Random, path: Path) -> str:
    """``azaion.yaml``."""
    text = yaml.safe_dump(other(rng, DECLARED) if rng.random() < 0.9 else DECLARED).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(rng, text) if rng.random() < 0.4 else text)
    declarations.read(path, required=True)
    return "taken"


def bomb(rng: random.Random, path: Path) -> str:
    """The same file read as each of the three."""
    path.write_bytes(damaged(rng, rng.choice(BOMBS)))
    path.chmod(0o640)
    for read in (read_env_file, config.load, lambda path: declarations.read(path, required=True)):
        try:
            read(path)
        except ConfigError as error:
            told = error
    raise told


def test_random_configurations_are_taken_or_refused(tmp_path: Path) -> None:
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed} AZAION_FUZZ={CASES * 40}")
    ends: Counter[str] = Counter()
    began = time.monotonic()
    path = tmp_path / "file"
    for number in range(seed, seed + CASES):
        rng = random.Random(number)
        cases = (a_settings_file, a_settings_file, a_rendered_file, a_declaration, a_declaration)
        # Reading what hurts costs a hundred times as much.
        case: Callable[[random.Random, Path], str] = bomb if rng.random() < 0.02 else rng.choice(cases)
        started = time.monotonic()
        try:
            end = case(rng, path)
        except ConfigError as error:
            end = "refused" if error.problems else "refused, and nobody knows why"
        except BaseException:
            print(f"AZAION_SEED={number} AZAION_FUZZ=40: {case.__name__} of {path.read_bytes()[:300]!r}")
            raise
        assert time.monotonic() - started < SECONDS, (case, number)
        ends[f"{case.__name__}: {end}"] += 1
    assert not [end for end in ends if "nobody" in end]
    assert {"a_declaration: taken", "a_settings_file: taken", "bomb: refused"} < set(ends) or CASES < 500, ends
    note = f"{time.monotonic() - began:.1f} s; {dict(sorted(ends.items()))}"
    tally("hostile configuration", CASES, "taken as what it says, or refused with the reason", note)


def test_the_command_and_the_daemon_say_so_in_words(server: Installation) -> None:
    """The same from outside: a line or some, and no traceback."""
    server.layout.state.mkdir()
    (server.layout.state / "azaion.yaml").write_bytes(BOMBS[0])
    checked = server.ctl("config", "check")
    assert (checked.returncode, "Traceback" in checked.stderr) == (1, False)
    assert "azaion.yaml cannot be used" in checked.stderr
    assert server.launch().wait(20) == 78
    assert "Traceback" not in (server.folder / "azaiond.log").read_text()
