"""Checks the JSON files beside the weights before they are read: a damaged one is named in one sentence."""

import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError


def check_settings_files(name: str | os.PathLike | None, names: tuple[str, ...], **settings: Any) -> None:
    """Checks those of the files that a folder has; what comes from the Hub was checked on its way.

    Args:
        name: a folder, or a repository of the Hub.
        names: of the files.
        settings: those of `from_pretrained`.

    Raises:
        UserError: a file is cut short, or no JSON object.
    """
    for file in [] if name is None else [Path(name, settings.get("subfolder") or "", one) for one in names]:
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            problem = "" if isinstance(content, dict) else f"found {str(content)[:40]!r}, expected a JSON object"
        except (OSError, ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise UserError(f"{file} is damaged ({problem}): copy it again.")
