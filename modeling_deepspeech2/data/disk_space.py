"""Turns a full disk into one sentence that says how much room is missing."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError


# A full disk, a full quota, and a file that is larger than the system allows.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def room_for(place: Path, needed: Callable[[], float]) -> Iterator[None]:
    """Around what writes to a place and can be continued by the same call.

    Args:
        needed: gives about how many bytes are still to be written; called only when there is no room.

    Raises:
        DataError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        missing = needed() - shutil.disk_usage(next(one for one in (place, *place.absolute().parents) if one.exists())).free
        about = f" about {missing / 1e6:,.1f} MB are missing;" if missing > 0 else ""
        raise DataError(
            f"There is no space left for {place}:{about} free some and call the same again, which goes on where it stopped."
        ) from error


def size_of_files(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
