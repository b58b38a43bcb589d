import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from azaion import config, files
from azaion.config import VARIABLES, Config, ConfigError, PublishTarget, SecretReference, Source
from azaion.settings import RabbitMQ

REPOSITORY = Path(__file__).parents[2]

SECRET = "hunter2-is-my-password"  # noqa: S105 a planted one, to be looked for in messages

GOOD = {
    "AZAION_ROOT_DIR": "/azaion",
    "AZAION_DATA_DIR": "data",
    "AZAION_DATA_SEED_DIR": "data-seed",
    "AZAION_DATA_DELETED_DIR": "data_deleted",
    "AZAION_STATE_DIR": "/var/lib/azaion",
    "AZAION_API_URL": "https://api.example.com",
    "AZAION_API_EMAIL": "a@example.com",
    "AZAION_API_PASSWORD": SECRET,
    "RABBITMQ_HOST": "127.0.0.1",
    "RABBITMQ_PORT": "5552",
    "RABBITMQ_USER": "azaion_receiver",
    "RABBITMQ_PASSWORD": SECRET,
    "RABBITMQ_QUEUE_NAME": "azaion-annotations",
    "TRAINING_MODEL": "yolo26m.pt",
    "TRAINING_EPOCHS": "120",
    "TRAINING_BATCH_SIZE": "11",
    "TRAINING_IMGSZ": "1280",
    "TRAINING_SAVE_PERIOD": "1",
    "TRAINING_WORKERS": "24",
    "EXPORT_ONNX_IMGSZ": "1280",
}


def env_file(folder: Path, text: str, mode: int = 0o640) -> Path:
    path = folder / ".env"
    path.write_text(text)
    path.chmod(mode)
    return path


def problems(environ: dict[str, str], path: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        config.settings(environ, path)
    assert SECRET not in str(raised.value)
    return raised.value.problems


def test_good_settings_are_typed() -> None:
    found = config.settings(GOOD, None)
    assert found.training.epochs == 120
    assert found.rabbitmq == RabbitMQ(
        host="127.0.0.1",
        port=5552,
        user="azaion_receiver",
        password=SecretReference("RABBITMQ_PASSWORD"),
        queue_name="azaion-annotations",
        vhost="/",
        tls=False,
        tls_ca=None,
        load_balancer=False,
        heartbeat=20,
    )
    assert found.daemon.source is Source.RABBITMQ
    assert found.daemon.publish_target is PublishTarget.AZAION
    assert found.directories.spool == Path("/var/lib/azaion/spool")
    assert found.daemon.gpu_ids is None
    assert found.layout.data.images == Path("/azaion/data/images")


def test_the_example_is_good_and_covers_exactly_the_declared_variables(tmp_path: Path) -> None:
    text = (REPOSITORY / ".env.example").read_text()
    names = re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)
    assert sorted(names) == sorted(variable.name for variable in VARIABLES)
    path = env_file(tmp_path, text)
    found = config.settings({}, path)
    assert found.daemon.source is Source.SPOOL
    assert found.directories.state == tmp_path / "var"
    config.settings({"AZAION_SOURCE": "rabbitmq", "AZAION_PUBLISH_TARGET": "azaion"}, path)


def test_every_variable_of_the_example_has_a_comment() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    for above, line in pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert above.startswith("# "), line


def test_one_error_names_every_problem(tmp_path: Path) -> None:
    path = env_file(
        tmp_path,
        f"""# a comment
AZAION_ROOT_DIR=/azaion
RABITMQ_HOST=broker
RABBITMQ_PORT=99999
RABBITMQ_PORT=5552
TRAINING_IMGSZ=1000
TRAINING_EPOCHS=many
AZAION_LAUNCHER=docker
{SECRET}
AZAION_API_PASSWORD="{SECRET}
""",
    )
    text = "\n".join(problems({}, path))
    assert "RABITMQ_HOST: unknown (line 3); did you mean RABBITMQ_HOST?" in text
    assert "RABBITMQ_PORT: stands twice, in lines 4 and 5" in text
    assert "RABBITMQ_PORT: expected a port, 1 to 65535, got '99999'" in text
    assert "TRAINING_IMGSZ: expected a multiple of 32" in text
    assert "TRAINING_EPOCHS: expected a whole number from 1, got 'many'" in text
    assert "AZAION_LAUNCHER: expected one of fork, systemd, slurm" in text
    assert "line 9 is not NAME=value" in text
    assert "line 10 is not NAME=value" in text
    for name in ("RABBITMQ_HOST", "RABBITMQ_PASSWORD", "TRAINING_MODEL", "AZAION_API_URL", "AZAION_DATA_DIR"):
        assert f"{name}: missing" in text


@pytest.mark.parametrize("variable", [v for v in VARIABLES if not v.optional and v.default is None])
@pytest.mark.parametrize("value", [None, ""])
def test_each_required_variable_is_required(variable: config.Variable, value: str | None) -> None:
    environ = {name: text for name, text in GOOD.items() if name != variable.name}
    if value is not None:
        environ[variable.name] = value
    assert problems(environ) == (f"{variable.name}: missing. {variable.doc}",)


def test_broker_and_api_are_needed_only_where_they_are_used() -> None:
    environ = {n: v for n, v in GOOD.items() if not n.startswith(("RABBITMQ_", "AZAION_API_"))}
    found = config.settings({**environ, "AZAION_SOURCE": "spool", "AZAION_PUBLISH_TARGET": "none"}, None)
    assert found.rabbitmq is None
    assert found.api is None
    assert len(problems({**environ, "AZAION_PUBLISH_TARGET": "none"})) == 5
    assert len(problems({**environ, "AZAION_SOURCE": "spool"})) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RABBITMQ_PORT", "0"),
        ("RABBITMQ_PORT", "65536"),
        ("RABBITMQ_PORT", "-1"),
        ("RABBITMQ_PORT", "5552.5"),
        ("RABBITMQ_PORT", "9" * 5000),
        ("TRAINING_EPOCHS", "0"),
        ("TRAINING_BATCH_SIZE", "true"),
        ("TRAINING_IMGSZ", "33"),
        ("TRAINING_WORKERS", "-1"),
        ("TRAINING_MODEL", "model.exe"),
        ("TRAINING_MODEL", "yolo26m.pt\n"),
        ("AZAION_DATA_DIR", ".."),
        ("AZAION_DATA_DIR", "."),
        ("AZAION_DATA_DIR", "a/b"),
        ("AZAION_DATA_DIR", "/data"),
        ("AZAION_DATA_DIR", "data-seed"),
        ("AZAION_DATA_DIR", "models"),
        ("AZAION_DATA_DIR", "records"),
        ("AZAION_ROOT_DIR", "azaion"),
        ("AZAION_ROOT_DIR", "~/azaion"),
        ("AZAION_STATE_DIR", "/" + "x" * 120),
        ("AZAION_SOCKET", "/" + "ü" * 60),
        ("AZAION_GPUS", "0,,1"),
        ("AZAION_GPUS", "all"),
        ("AZAION_SOURCE", "kafka"),
        ("AZAION_API_URL", "http://api.example.com"),
        ("AZAION_API_URL", f"https://user:{SECRET}@api.example.com"),
        ("AZAION_API_URL", "https://"),
        ("AZAION_API_EMAIL", "nobody"),
        ("AZAION_ADMIN_GROUP", "a b"),
        ("RABBITMQ_HOST", "amqp://broker"),
        ("RABBITMQ_USER", "\udcff"),
        ("RABBITMQ_QUEUE_NAME", "x" * 256),
    ],
)
def test_malformed_values(name: str, value: str) -> None:
    found = problems({**GOOD, name: value})
    assert found
    assert all(len(problem) < 500 for problem in found)
    expected = "AZAION_SOCKET" if name == "AZAION_STATE_DIR" else name
    assert any(problem.startswith(f"{expected}: ") for problem in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AZAION_API_URL", "http://localhost:8080/base"),
        ("AZAION_API_URL", "https://api.example.com:443/v1"),
        ("RABBITMQ_HOST", "::1"),
        ("TRAINING_MODEL", "/models/yolo26t.yaml"),
        ("AZAION_DATA_DIR", "validé data"),
        ("AZAION_GPUS", "1,0,1"),
        ("AZAION_GPUS", "none"),
        ("AZAION_ADMIN_GROUP", "deploy"),
    ],
)
def test_unusual_good_values_survive_the_file(tmp_path: Path, name: str, value: str) -> None:
    found = config.settings({**GOOD, name: value}, None)
    config.write(found, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == found


def test_gpu_ids() -> None:
    assert config.settings({**GOOD, "AZAION_GPUS": "1,0,1"}, None).daemon.gpu_ids == (1, 0)
    assert config.settings({**GOOD, "AZAION_GPUS": "none"}, None).daemon.gpu_ids == ()


def test_the_environment_beats_the_file_and_relative_paths_count_from_it(tmp_path: Path) -> None:
    path = env_file(tmp_path, "\n".join(f"{n}={v}" for n, v in GOOD.items() if n != "AZAION_STATE_DIR"))
    found = config.settings({"TRAINING_EPOCHS": "7", "AZAION_STATE_DIR": "./var", "UNRELATED": "x"}, path)
    assert found.training.epochs == 7
    assert found.training.batch_size == 11
    assert found.directories.state == tmp_path / "var"


def test_nothing_is_expanded_and_quotes_hold(tmp_path: Path) -> None:
    text = "\n".join(f"{n}={v}" for n, v in GOOD.items() if n not in ("RABBITMQ_PASSWORD", "RABBITMQ_USER"))
    path = env_file(tmp_path, text + "\nRABBITMQ_PASSWORD='pa$$ ${HOME} # word'\nexport RABBITMQ_USER=u # comment\n")
    found = config.settings({}, path)
    assert found.rabbitmq
    assert found.rabbitmq.user == "u"
    assert config.resolve(found.rabbitmq.password, {}, path) == "pa$$ ${HOME} # word"


def test_secrets_are_found_in_order(tmp_path: Path) -> None:
    reference = SecretReference("RABBITMQ_PASSWORD")
    path = env_file(tmp_path, "RABBITMQ_PASSWORD=file\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert config.resolve(reference, environ, path) == "file"
    environ["RABBITMQ_PASSWORD"] = "process"  # noqa: S105 a test
    assert config.resolve(reference, environ, path) == "process"
    (credentials / "RABBITMQ_PASSWORD").write_text("credential\n")
    assert config.resolve(reference, environ, path) == "credential"
    with pytest.raises(ConfigError, match="RABBITMQ_PASSWORD was not found"):
        config.resolve(reference, {}, tmp_path / "absent")
    (credentials / "RABBITMQ_PASSWORD").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.resolve(reference, environ, path)


def test_env_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.settings(GOOD, tmp_path / "absent")
    with pytest.raises(ConfigError, match="not a regular file"):
        config.settings(GOOD, tmp_path)
    path = env_file(tmp_path, f"AZAION_API_PASSWORD={SECRET}", mode=0o644)
    with pytest.raises(ConfigError, match="chmod 640") as raised:
        config.settings(GOOD, path)
    assert SECRET not in str(raised.value)
    path.chmod(0o640)
    for content, message in ((b"A\0B", "zero bytes"), (b"\xff\xfe\x80", "UTF-8"), (b"#" * 100_000, "larger")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            config.settings(GOOD, path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="not a regular file"):
        config.settings(GOOD, pipe)


def test_env_file_behind_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "secrets"
    elsewhere.mkdir()
    target = env_file(elsewhere, "TRAINING_EPOCHS=9\n")
    link = tmp_path / ".env"
    link.symlink_to(target)
    assert config.settings({n: v for n, v in GOOD.items() if n != "TRAINING_EPOCHS"}, link).training.epochs == 9


def test_the_rendered_file_holds_no_secret_and_has_a_comment_for_each_setting() -> None:
    text = config.render(config.settings(GOOD, None))
    assert SECRET not in text
    document = yaml.safe_load(text)
    assert document["rabbitmq"]["password"] == {"variable": "RABBITMQ_PASSWORD"}
    for variable in VARIABLES:
        assert f"# {variable.name}: {variable.doc}" in text


@given(
    user=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
    queue=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40),
)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_the_file(tmp_path: Path, user: str, queue: str) -> None:
    found = config.settings({**GOOD, "RABBITMQ_USER": user, "RABBITMQ_QUEUE_NAME": queue}, None)
    config.write(found, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == found


def rendered(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "config.yaml"
    config.write(config.settings(GOOD, None), path)
    return path, yaml.safe_load(path.read_text())


def load_problems(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    return str(raised.value)


def test_load_names_every_problem(tmp_path: Path) -> None:
    path, document = rendered(tmp_path)
    document["training"] |= {"epochs": "120", "imgsz": 33, "colour": "red"}
    del document["training"]["workers"]
    document["rabbitmq"]["password"] = SECRET
    document["api"]["password"] = {"variable": "AZAION_API_PASSWORD", "value": SECRET}
    document["daemon"]["gpus"] = [[1] * 10_000]
    document["directories"]["state"] = "var"
    document["extra"] = {}
    del document["export"]
    path.write_text(yaml.safe_dump(document))
    text = load_problems(path)
    assert SECRET not in text
    for line in (
        "training.epochs: expected a whole number from 1, got '120'",
        "training.imgsz: expected a multiple of 32",
        "training.colour: unknown key",
        "training.workers: missing",
        "rabbitmq.password: expected",
        "api.password: expected",
        "daemon.gpus: expected auto, none, or the numbers of GPUs separated by commas, got a list",
        "directories.state: var is not absolute",
        "extra: unknown section",
        "export.onnx_imgsz: missing",
    ):
        assert line in text
    assert "10 problems" in text


def test_load_wants_the_broker_where_it_is_the_source(tmp_path: Path) -> None:
    path, document = rendered(tmp_path)
    del document["rabbitmq"]
    path.write_text(yaml.safe_dump(document))
    assert "rabbitmq.host: missing" in load_problems(path)
    document["daemon"]["source"] = "spool"
    path.write_text(yaml.safe_dump(document))
    assert config.load(path).rabbitmq is None


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no keys and values"),
        (b"- 1\n", "no keys and values"),
        (b"\xff\xfe\x80", "UTF-8"),
        (b"a: [1, 2", "not YAML: line"),
        (BOMB.encode(), "alias"),
        (b"[" * 200_000, "nested deeper"),
        (b"a" * 300_000, "larger"),
        (b"a: !!python/object/apply:os.system [id]", "not YAML"),
        (b"a: 2026-13-45", "month"),
        (b"directories: 3\n1: 2\n", "expected keys with values"),
    ],
    ids=["empty", "list", "binary", "torn", "bomb", "deep", "huge", "code", "date", "odd keys"],
)
def test_load_refuses_what_is_not_ours(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    text = load_problems(path)
    assert message in text
    assert "azaionctl config render" in text


@pytest.mark.parametrize("size", range(0, 2400, 97))
def test_load_refuses_every_torn_file(tmp_path: Path, size: int) -> None:
    path, _ = rendered(tmp_path)
    whole = path.read_bytes()
    assert size < len(whole) - 30
    path.write_bytes(whole[:size])
    load_problems(path)


def test_load_refuses_links_folders_and_absence(tmp_path: Path) -> None:
    path, _ = rendered(tmp_path)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert "a link" in load_problems(link)
    assert "not a regular file" in load_problems(tmp_path)
    assert "no such file" in load_problems(tmp_path / "absent")


def test_diff() -> None:
    old = config.render(config.settings(GOOD, None))
    new = config.render(config.settings({**GOOD, "TRAINING_EPOCHS": "7"}, None))
    assert config.diff(old, old) == ""
    assert "-  epochs: 120\n" in config.diff(old, new)
    assert "+  epochs: 7\n" in config.diff(old, new)


def at(root: Path, state: Path) -> Config:
    return config.settings({**GOOD, "AZAION_ROOT_DIR": str(root), "AZAION_STATE_DIR": str(state)}, None)


def test_the_root_is_never_made(tmp_path: Path) -> None:
    found = at(tmp_path / "root", tmp_path / "state")
    with pytest.raises(ConfigError, match="mount"):
        config.check_root(found)
    with pytest.raises(ConfigError):
        config.make_folders(found.layout)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "root").write_text("")
    with pytest.raises(ConfigError, match="no folder"):
        config.check_root(found)


def test_folders_are_made_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    found = at(tmp_path / "root", tmp_path / "state")
    config.check_root(found)
    config.make_folders(found.layout)
    config.make_folders(found.layout)
    assert all(folder.is_dir() for folder in found.layout.folders())
    assert found.layout.state.is_dir()
    files.remove_tree(found.layout.models)
    found.layout.models.write_text("in the way")
    with pytest.raises(ConfigError, match="models"):
        config.make_folders(found.layout)
