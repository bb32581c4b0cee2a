"""Checkpoints of a run: written whole or not at all, the newest few kept.

A checkpoint is a folder `checkpoints/step-00000500` as `Accelerator.save_state` writes it. It is written under another name
beside the others and renamed when it is whole, so that a run killed at any moment leaves the last one as it was.
"""

import json
import shutil
import uuid
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from tqdm.auto import tqdm

from ..errors import UserError


def save_checkpoint(output: Path, accelerator: Accelerator, progress, keep: int) -> None:
    """Writes where the run stands, and removes all but the newest `keep` checkpoints; all processes call it.

    A write that fails, on a full disk say, is reported and leaves the older checkpoints alone; training goes on.
    """
    if progress.saved_step == progress.step:
        return  # the end of an epoch, right after a regular checkpoint
    progress.saved_step = progress.step
    folder = output / "checkpoints" / f"step-{progress.step:08d}"
    new = folder.with_name("new")
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    problems = []
    try:
        accelerator.save_state(new)
        if accelerator.is_main_process:
            facts = {name: getattr(progress, name) for name in ("step", "epoch_step", "parts", "plan")}
            (new / "progress.json").write_text(json.dumps(facts))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own words for a full disk
        problems = [str(error)]
    problems = gather_object(problems)
    if accelerator.is_main_process:
        try:
            if not problems:
                new.rename(folder)
                for old in _checkpoints(output)[:-keep]:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            problems = [str(error)]
        if problems:
            shutil.rmtree(new, ignore_errors=True)
            tqdm.write(f"step {progress.step}: no checkpoint could be written, the older ones stay: {problems[0]}")
    accelerator.wait_for_everyone()


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint of a run."""
    return next(reversed(_checkpoints(output)), None)


def set_aside(output: Path) -> Path | None:
    """Moves the checkpoints of an earlier run out of the way of a new one; tells where they are now."""
    checkpoints, aside = output / "checkpoints", output / "checkpoints.before"
    if last_checkpoint(output) is None:
        return None
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.rename(aside)
    return aside


def check_shared(output: Path, accelerator: Accelerator) -> None:
    """All processes must see one folder: the checkpoints of each lie in it.

    Raises:
        UserError: some process, on another machine, does not see what the first one writes.
    """
    token = [uuid.uuid4().hex]
    broadcast_object_list(token)
    file = output / f".{token[0]}"
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        file.touch()
    accelerator.wait_for_everyone()
    blind = gather_object([] if file.exists() else [accelerator.process_index])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        file.unlink()
    if blind:
        raise UserError(f"The processes {blind} do not see {output}: all machines must share output_dir.")


def _checkpoints(output: Path) -> list[Path]:
    return sorted((output / "checkpoints").glob("step-*"))
