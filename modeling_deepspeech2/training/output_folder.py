"""The output folder of a run: its owner, its lock, and files that are written completely or not at all.

A run writes only into a folder that is new, empty or its own, holds a lock while it works, and removes only files of runs.
Every file is first written under another name and then renamed, so that a run killed at any instruction leaves either the
old file or the new one.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import UserError
from ..settings_files import replacing


Result = TypeVar("Result")
MARKER = ".run_ctc"  # an empty file that says: this folder is a run's
LOCK = ".run_ctc.lock"
HASHES = "sha256.json"
_FILES = "files.new"  # on their way into the output folder
_BLOCK = 2**20  # bytes


def claim(output: Path, resume: bool) -> FileLock:
    """Makes the folder this run's own and locks it until the process ends.

    Raises:
        UserError: the folder is no run's, holds no run to resume, cannot be written, or another run is writing to it.
    """
    here = Path.cwd().resolve()
    try:
        place = output.resolve()
    except (OSError, RuntimeError) as error:  # in Python 3.11 and 3.12 a RuntimeError
        raise UserError(f"output_dir: found {output}, which is no place of a folder ({error}).") from error
    if place in (here, *here.parents):
        raise UserError(
            f"output_dir: found {str(output)!r}, which contains the working folder; name a folder for this run alone."
        )
    if place.exists() and not place.is_dir():
        raise UserError(f"output_dir: found {output}, which is a file; expected a folder.")
    if resume and not (output / MARKER).exists():
        raise UserError(f"There is no checkpoint to resume from: {output} holds no run.")
    with written(output, 0):
        names = {path.name for path in output.iterdir()} - {LOCK} if output.exists() else set()
        if names and MARKER not in names:
            raise UserError(
                f"output_dir: {output} holds {sorted(names)[0]}, which no run wrote; name a folder that is new or empty."
            )
        output.mkdir(parents=True, exist_ok=True)
        (output / MARKER).touch()
        lock = FileLock(output / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"Another run is writing to {output}; name another output_dir, or wait for it to end."
            ) from error
    sweep(output / "checkpoints")
    shutil.rmtree(output / _FILES, ignore_errors=True)
    return lock


def sweep(folder: Path) -> None:
    """Removes what a killed run was writing or removing."""
    for left in (*folder.glob("*.new"), *folder.glob("old.*")):
        shutil.rmtree(left, ignore_errors=True)


def check_shared(output: Path, accelerator: Accelerator) -> None:
    """All processes must see one folder: each writes its part of the checkpoints into it.

    Raises:
        UserError: some process, on another machine, does not see what the first one writes.
    """
    token = [uuid.uuid4().hex]
    broadcast_object_list(token)
    file = output / f".{token[0]}"
    if accelerator.is_main_process:
        file.touch()
    accelerator.wait_for_everyone()
    blind = gather_object([] if file.exists() else [accelerator.process_index])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        file.unlink()
    if blind:
        raise UserError(f"The processes {blind} do not see {output}: all machines must share output_dir.")


@contextmanager
def written(place: Path, needed: int) -> Iterator[None]:
    """Around what writes about `needed` bytes to a place.

    Raises:
        UserError: the disk is full, or the place cannot be written; the message says how much room is missing.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own words for a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(f"{place} could not be written: {reason}{_missing(place, needed)}.") from error


def on_main_process(accelerator: Accelerator, function: Callable[[], Result]) -> Result | None:
    """Calls a function on the main process; a `UserError` there is raised on all, a result given there alone."""
    problem: list[str | None] = [None]
    result = None
    if accelerator.is_main_process:
        try:
            result = function()
        except UserError as error:
            problem = [str(error)]
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise UserError(problem[0])
    return result


def _missing(place: Path, needed: int) -> str:
    if not needed:
        return ""
    existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"; it takes {needed / 1e6:.1f} MB"
    return text + (f", and {(needed - free) / 1e6:.1f} MB are missing" if free < needed else "")


@contextmanager
def new_folder(place: Path, needed: int) -> Iterator[Path]:
    """A folder to fill, which is sealed and takes its place when it is whole.

    Raises:
        UserError: it cannot be written; what was in its place stays.
    """
    with _filled(place, needed) as new:
        yield new
        seal(new)
        replace(new, place)


@contextmanager
def new_files(folder: Path, needed: int) -> Iterator[Path]:
    """A folder to fill with files, which move into another one, over those of their names, when all are whole.

    Raises:
        UserError: they cannot be written; those of the folder stay.
    """
    with _filled(folder / _FILES, needed) as new:
        yield new
        for file in sorted(new.iterdir()):
            os.replace(file, folder / file.name)
        new.rmdir()


@contextmanager
def _filled(place: Path, needed: int) -> Iterator[Path]:
    new = place if place.name == _FILES else place.with_name(f"{place.name}.new")
    with written(place, needed):
        try:
            remove(new)
            new.mkdir(parents=True)
            yield new
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise


def write_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with written(file, len(text)), replacing(file) as new:
        new.write_text(text, encoding="utf-8")


def seal(folder: Path) -> None:
    """Adds the hashes of all files in a folder, by which `damage` knows whether it is whole."""
    hashes = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder: files that are missing or changed; None if it is whole."""
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        for name, expected in hashes.items():
            if file_hash(folder / name) != expected:
                return f"{name} has changed or was cut short"
    except (OSError, ValueError, AttributeError) as error:
        return f"{Path(getattr(error, 'filename', None) or HASHES).name} cannot be read"
    return None


def file_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def replace(new: Path, place: Path) -> None:
    """Renames a folder, over an older one if there is one."""
    remove(place)
    new.rename(place)


def remove(folder: Path) -> None:
    """Removes a folder, which is gone from its place at once: no kill leaves half of it there."""
    old = folder.with_name(f"old.{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
        shutil.rmtree(old)


def free_name(place: Path) -> Path:
    """The first of `place.before-1`, `place.before-2`, … that does not exist; a suffix stays the last part of the name."""
    number = 1
    while (free := place.with_name(f"{place.stem}.before-{number}{place.suffix}")).exists():
        number += 1
    return free
