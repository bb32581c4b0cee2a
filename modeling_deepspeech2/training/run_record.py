"""The record of a run, `run.json`: settings, software, hardware, data and times."""

import getpass
import hashlib
import importlib.metadata
import json
import platform
import re
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import accelerate
import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..data.sources import SpeechData
from .arguments import Settings, command_line
from .hardware import describe
from .output_folder import write_text


RECORD = "run.json"
_REPOSITORY = Path(__file__).parents[2]
# Absolute, in a text, also as a URL of a file and from somebody's home on; those of other URLs stay.
_PATH = re.compile(
    r"(?<![\w./~-])(?<!\w:)(?:file:(?://[\w.-]*)?(?=/)|(?=~?/[^\s'\"]|~\w[\w.-]*/|[A-Za-z]:[\\/]))([^\s'\",\]\[]+)"
)
_HOME = re.compile(r"^(?:~\w[\w.-]*|(?:[A-Za-z]:)?/(?:home|Users)/[^/]+)(?=/)")
_KEPT_PARTS = 2  # of a path outside the working folder


def make_record(
    settings: Settings, network: DeepSpeech2Config, data: dict[str, SpeechData], accelerator: Accelerator
) -> dict[str, Any]:
    """
    Args:
        data: what a part is for -> its utterances.
    """
    recipe = settings.recipe
    return {
        "command": command_line(),
        "recipe": recipe and {"file": str(recipe), "text": recipe.read_text(encoding="utf-8-sig")},
        "settings": {name: getattr(network, name) for name in network.own_fields()} | settings.resolved(),
        "versions": versions(),
        "commit": commit(),
        "hardware": describe(accelerator),
        "data": {
            use: {
                "splits": part.splits,
                "utterances": len(part.index),
                "hours": round(part.index.hours, 4),
                "fingerprint": fingerprint(part),
            }
            for use, part in data.items()
        },
        "started": now(),
        "ended": None,
        "resumed": [],
    }


def write_record(record: dict[str, Any], output: Path) -> None:
    """Writes it, without the paths of this machine.

    Raises:
        UserError: it cannot be written.
    """
    write_text(output / RECORD, json.dumps(portable(record), indent=1, ensure_ascii=False) + "\n")


def read_record(output: Path) -> dict[str, Any]:
    """That of an earlier start, or {} where there is none that can be read."""
    try:
        found = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("resumed", []), list) else {}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("modeling-deepspeech2")
    except importlib.metadata.PackageNotFoundError:  # a clone that is not installed
        own = "not installed"
    packages = {package.__name__: package.__version__ for package in (torch, transformers, datasets, accelerate)}
    return {"python": platform.python_version(), **packages, "modeling_deepspeech2": own}


def commit() -> dict[str, str | bool] | None:
    """The commit of the clone that runs, and whether its files have been changed; None where there is no clone."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _REPOSITORY.resolve():
            return None  # installed somewhere below another project's clone
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def fingerprint(data: SpeechData) -> str:
    """Equal for the same utterances, wherever they lie: of their names, durations and weights."""
    digest = hashlib.sha256()
    for column in (data.index.draws, data.index.seconds, data.index.weights):
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()[:16]


def portable(value: Any) -> Any:
    """The same record without absolute paths, and without the names of the user and of this machine.

    A path below the working folder becomes relative, of any other the last parts stay.
    """
    if isinstance(value, dict):
        # The record's own fields stay, also where the user or the machine is called like one of them.
        return {name if name.isidentifier() else portable(name): portable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    return _without_places(value) if isinstance(value, str) else value


def _without_places(text: str) -> str:
    def shortened(match: re.Match) -> str:
        path = Path(match[1].replace("\\", "/"))
        path = path.expanduser() if path.parts[0] == "~" else path
        if path.is_relative_to(Path.cwd()):
            return str(path.relative_to(Path.cwd()))
        return "/".join(Path(_HOME.sub("", str(path))).parts[1:][-_KEPT_PARTS:])

    text = _PATH.sub(shortened, text)
    for name in {_user(), socket.gethostname()} - {"", "root"}:
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "…", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this number
        return ""
