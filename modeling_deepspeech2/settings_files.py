"""The files beside the weights: a damaged one is named in one sentence, and each is written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place beside a file for what takes its place at the end; after an error, on a full disk for one, the file stays."""
    new = file.with_name(f"{file.name}.new")
    try:
        yield new
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
