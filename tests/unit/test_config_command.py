import argparse
import json
from pathlib import Path

import pytest

from azaion import config
from azaion.errors import AzaionError
from supervisor.commands import config as command

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good .env, in which the command runs without a variable of ours in the environment."""
    for variable in config.VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    (tmp_path / "root").mkdir()
    text = (REPOSITORY / ".env.example").read_text().replace("=/azaion", f"={tmp_path / 'root'}")
    (tmp_path / ".env").write_text(text)
    (tmp_path / ".env").chmod(0o640)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, as_json: bool = False) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["config", *words], argparse.Namespace(json=as_json, socket=None))
    code: int = arguments.run(arguments)
    return code


def test_check(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check") == 0
    assert "good" in capsys.readouterr().out
    assert run("check", as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "problems": [],
        "root": str(home / "root"),
        "state": str(home / "var"),
    }
    (home / "root").rmdir()
    with pytest.raises(AzaionError, match="absent"):
        run("check")
    assert run("check", as_json=True) == 1
    assert "AZAION_ROOT_DIR" in json.loads(capsys.readouterr().out)["problems"][0]


def test_check_without_any_file_names_what_is_missing(home: Path) -> None:
    (home / ".env").unlink()
    with pytest.raises(AzaionError, match="RABBITMQ_HOST: missing"):
        run("check")
    with pytest.raises(AzaionError, match="no such file"):
        run("check", "--env-file", "elsewhere")


def test_render_then_diff(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("diff") == 1
    assert run("render") == 0
    path = home / "var" / "config.yaml"
    assert config.load(path).training.epochs == 120
    capsys.readouterr()
    assert run("diff") == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("TRAINING_EPOCHS", "7")
    assert run("diff", as_json=True) == 1
    assert "+  epochs: 7" in json.loads(capsys.readouterr().out)["diff"]


def test_render_elsewhere(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "--output", "-") == 0
    text = capsys.readouterr().out
    assert run("render", "--output", "here.yaml", as_json=True) == 0
    assert (home / "here.yaml").read_text() == text
    assert json.loads(capsys.readouterr().out) == {"path": "here.yaml"}
    assert run("diff", "--output", "here.yaml") == 0


def test_a_bad_setting_leaves_the_file_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("render")
    before = (home / "var" / "config.yaml").read_bytes()
    monkeypatch.setenv("TRAINING_EPOCHS", "none")
    with pytest.raises(AzaionError, match="TRAINING_EPOCHS"):
        run("render")
    assert (home / "var" / "config.yaml").read_bytes() == before


def test_render_where_it_cannot_be_written(home: Path) -> None:
    (home / "folder.yaml").mkdir()
    with pytest.raises(AzaionError, match="cannot be written"):
        run("render", "--output", "folder.yaml")
    with pytest.raises(AzaionError):
        run("diff", "--output", "folder.yaml")
    (home / "file").write_text("")
    with pytest.raises(AzaionError, match="cannot be written"):
        run("render", "--output", "file/config.yaml")
    assert not [path for path in home.iterdir() if path.name.startswith(".tmp-")]
