"""A stand-in for ``docker``: as much of it as ``azaionctl deploy --containers`` asks for.

Started as ``docker`` from a folder of the tests' own; beside it ``engine.json``, the containers and what an image does.
Every call is appended to ``calls``. Standard library only, for it is started by the dozen.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STATE = HERE / "engine.json"


def status(image: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """What the azaiond of a container says."""
    consumer = {"service": "running", "state": "consuming", "offset": 5, "lag": 0, "restarts": 0, "quarantined": 0}
    return {
        "consumer": {**consumer, **image.get("consumer", {})},
        "health": {"findings": []},
        "jobs": {"active": [{"id": number} for number in container.get("jobs", [])]},
        "maintenance": container.get("maintenance"),
    }


def inspected(container: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``docker inspect`` tells of a container."""
    state = {"Status": container.get("status", "running"), "Pid": 7, "StartedAt": "now"}
    count = container.get("restarts", 0)
    return [{"State": state, "RestartCount": count, "Config": {"Image": container["image"]}}]


def up(state: dict[str, Any], service: str, image: str) -> None:
    """Make a container anew, if its image is another one; its runs are gone then."""
    old = state["containers"][service]
    if old["image"] != image:
        kept = {key: value for key, value in old.items() if key == "maintenance"}
        state["containers"][service] = {**kept, "image": image, **state["images"][image].get("container", {})}


def executed(state: dict[str, Any], service: str, words: list[str]) -> None:
    """Answer for ``azaionctl`` in a container."""
    container = state["containers"][service]
    if "status" in words:
        print(json.dumps(status(state["images"][container["image"]], container)))
    elif "maintenance" in words:
        container["maintenance"] = {"reason": words[-1]} if "on" in words else None


def compose(state: dict[str, Any], wanted: dict[str, str], command: str, words: list[str]) -> str:
    """Do a command; returns why that is not possible."""
    service = next((word for word in words if word in wanted), "")
    match command:
        case "pull":
            return next(
                (f"manifest for {each} not found" for each in wanted.values() if each not in state["images"]), ""
            )
        case "run":
            return str(state["images"][wanted[service]].get("refuses", ""))
        case "up":
            up(state, service, wanted[service])
        case "ps":
            print(service)
        case "logs":
            print(state["images"][state["containers"][service]["image"]].get("log", ""))
        case "exec":
            executed(state, service, words)
    return ""


def main(argv: list[str]) -> str | None:
    """Answer one call; returns why that is not possible."""
    with (HERE / "calls").open("a", encoding="utf-8") as calls:
        calls.write(" ".join(argv) + "\n")
    state: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
    if argv[0] == "inspect":
        print(json.dumps(inspected(state["containers"][argv[1]])))
        return None
    told = Path(argv[argv.index("--env-file") + 1]).read_text(encoding="utf-8")
    named = dict(re.findall(r"(?m)^(\w+)=(.*)$", told))
    wanted = {"annotation-queue": named["ANNOTATION_QUEUE_IMAGE"], "training": named["TRAINING_IMAGE"]}
    command, *words = argv[argv.index("--file") + 2 :]
    refused = compose(state, wanted, command, words)
    STATE.write_text(json.dumps(state), encoding="utf-8")
    return refused or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
