"""What the workflows name is there, and what they may do is little. GitHub's own schema is held by `make validate`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: What a job may be given beyond reading the repository, and for what.
ALLOWED = {"contents": {"read"}, "actions": {"read"}, "security-events": {"write"}}
RELEASES = {("release", "contents"): "write"}
#: Programs of the runner's own; everything else is a target that a person can call.
RUNNERS = ("sudo rm -rf ", "sudo apt-get install ", "install -m 700 -d ~/.ssh")
#: Of all workflows together: an action, its commit and the release that this is.
PINNED: dict[str, tuple[str, str]] = {}


def parsed(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    # YAML takes the key `on` for a truth.
    document: dict[str, Any] = yaml.safe_load(re.sub(r"(?m)^on:", '"on":', text))
    return document


def jobs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from parsed(path)["jobs"].items()


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for _, job in jobs(path):
        yield from job["steps"]


@pytest.fixture(scope="module")
def targets() -> set[str]:
    makefiles = (ROOT / "Makefile", ROOT / "etc" / "ci" / "ci.mk")
    return {target for path in makefiles for target in re.findall(r"(?m)^([a-z-]+):", path.read_text(encoding="utf-8"))}


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "deploy", "release"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_target_that_a_person_can_call(path: Path, targets: set[str]) -> None:
    for step in steps(path):
        if (command := step.get("run")) is None or command.startswith(RUNNERS):
            continue
        called = re.fullmatch(r"make ([a-z-]+)", command) or re.fullmatch(r"bash (\S+)", command)
        assert called is not None, command
        assert called[1] in targets or (ROOT / called[1]).is_file(), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_do_little_and_not_for_ever(path: Path) -> None:
    assert parsed(path)["permissions"] == {"contents": "read"}
    for name, job in jobs(path):
        assert 0 < job["timeout-minutes"] <= 120, name
        for scope, access in job.get("permissions", {}).items():
            assert access in ALLOWED.get(scope, set()) | {RELEASES.get((name, scope))}, f"{name}: {scope}: {access}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_one_release_of_each_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)@(\S+)(?: # (v\S+))?", text)
    assert used
    assert text.count("uses:") == len(used)
    for name, commit, release in used:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), name
        assert release, name
        repository = "/".join(name.split("/")[:2])
        assert PINNED.setdefault(repository, (commit, release)) == (commit, release), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_that_others_choose_is_a_piece_of_a_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_job_needs_is_there(path: Path) -> None:
    names = {name for name, _ in jobs(path)}
    for _, job in jobs(path):
        needs = job.get("needs", [])
        assert names.issuperset([needs] if isinstance(needs, str) else needs)


def test_images_are_built_only_of_what_was_tested() -> None:
    images = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["images"]
    assert set(images["needs"]) == {"test", "security"}
    commands = [step.get("run", "") for step in images["steps"]]
    assert commands.index("make images") < commands.index("make scan") < commands.index("make push")


def test_a_failed_deploy_is_told_by_mail() -> None:
    (job,) = parsed(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"].values()
    last = job["steps"][-1]
    assert (last["run"], last["if"]) == ("make deploy-mail", "failure()")
    assert set(parsed(ROOT / ".github" / "workflows" / "deploy.yml")["on"]) == {"workflow_dispatch"}
