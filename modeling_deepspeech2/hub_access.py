"""Remembers how a model was downloaded, so that its decoder comes from the same commit, with the same token and cache."""

import os
from typing import Any

from transformers.utils import cached_file


ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


def take(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes the arguments of a download out of `settings`."""
    return {name: settings.pop(name) for name in ARGUMENTS if name in settings}


def find_file(name: str | os.PathLike, file: str, **arguments: Any) -> str | None:
    """The local path of a file of a folder or Hub repository; None where it has no such file.

    Raises:
        OSError: no connection and nothing in the cache, no such repository, or no permission.
    """
    return cached_file(str(name), file, _raise_exceptions_for_missing_entries=False, **arguments)


class HubAccess(dict):
    """The arguments of a download, kept beside the model; the token is neither shown nor pickled."""

    def __repr__(self) -> str:
        return f"HubAccess({self.without_token()})"

    def __reduce__(self) -> tuple:
        return HubAccess, (self.without_token(),)

    def without_token(self) -> dict[str, Any]:
        return {name: value for name, value in self.items() if name != "token"}
