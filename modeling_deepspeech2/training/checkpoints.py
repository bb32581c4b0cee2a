"""Checkpoints of a run: written whole or not at all, the newest few kept.

A checkpoint is a folder `checkpoints/step-00000500` as `Accelerator.save_state` writes it. It is written under another name
beside the others and renamed when it is whole, so that a run killed at any moment leaves the last one as it was.
"""

import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from tqdm.auto import tqdm


def save_checkpoint(output: Path, accelerator: Accelerator, progress, keep: int) -> None:
    """Writes where the run stands, and removes all but the newest `keep` checkpoints.

    A write that fails, on a full disk say, is reported and leaves the older checkpoints alone; training goes on.
    """
    folder = output / "checkpoints" / f"step-{progress.step:08d}"
    new = folder.with_name("new")
    if folder.exists():
        return  # the end of an epoch, right after a regular checkpoint
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    problem = None
    try:
        accelerator.save_state(new)
        if accelerator.is_main_process:
            (new / "progress.json").write_text(json.dumps({"parts": progress.parts, "step": progress.step}))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own words for a full disk
        problem = error
    failures = accelerator.reduce(torch.tensor(int(problem is not None), device=accelerator.device))
    if accelerator.is_main_process:
        if failures:
            shutil.rmtree(new, ignore_errors=True)
            tqdm.write(f"step {progress.step}: no checkpoint could be written, the older ones stay: {problem}")
        else:
            new.rename(folder)
            for old in _checkpoints(output)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint of a run."""
    return next(reversed(_checkpoints(output)), None)


def _checkpoints(output: Path) -> list[Path]:
    return sorted((output / "checkpoints").glob("step-*"))
