"""What a run keeps to continue from: its start, its checkpoints, and the best model so far.

    checkpoints/start           model and processor as the training began
    checkpoints/step-00000500   weights, optimiser and random states as safetensors, progress and settings as JSON
    checkpoints/best-00000400   the best model by validation, as `save_pretrained` writes it, with its processor

Each is written whole or not at all, with the hashes of its files, by which a damaged one is recognised. Nothing is pickled.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import state_dict as sharded
from tqdm.auto import tqdm

from ..errors import UserError
from .output_folder import damage, free_name, new_folder, on_main_process, remove, replace, seal, written
from .progress import Progress


# Whole tensors, of data-parallel and sharded models alike: to save them, on the CPU of the main process; to load them,
# everywhere. A parameter that has had no gradient yet has no state in the optimiser.
_TO_SAVE = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
_ALL_TO_LOAD = sharded.StateDictOptions(full_state_dict=True)
_TO_LOAD = sharded.StateDictOptions(full_state_dict=True, strict=False)
_SMALL_FILES = 200_000  # bytes of a checkpoint beside its tensors


def folder_of(output: Path, kind: str, step: int | None = None) -> Path:
    """checkpoints/start, checkpoints/step-… or checkpoints/best-…"""
    return output / "checkpoints" / (kind if step is None else f"{kind}-{step:08d}")


def save_checkpoint(
    output: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
    accelerator: Accelerator,
    keep: int,
) -> None:
    """Writes a checkpoint and removes all but the newest `keep`; all processes call it.

    A write that fails, on a full disk for example, is reported and leaves the older checkpoints alone; training continues.
    """
    if progress.saved_step == progress.step:
        return
    before, progress.saved_step = progress.saved_step, progress.step
    weights = sharded.get_model_state_dict(model, options=_TO_SAVE)
    moments = _moments(sharded.get_optimizer_state_dict(model, optimizer, options=_TO_SAVE))
    needed = _SMALL_FILES + sum(tensor.nbytes for state in (weights, moments) for tensor in state.values())
    place = folder_of(output, "step", progress.step)
    new = place.with_name("step.new")
    problems: list[str] = []

    def attempt(action: Callable[[], None]) -> None:
        if not problems:
            try:
                with written(place, needed):
                    action()
            except UserError as error:
                problems.append(str(error))

    def write() -> None:
        if accelerator.is_main_process:
            save_file(weights, new / "model.safetensors")
            save_file(moments, new / "optimizer.safetensors")
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            state = {"progress": progress.state(), "settings": settings, "scaler": scaler}
            (new / "state.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
        save_file(_random_states(accelerator), new / f"random-{accelerator.process_index}.safetensors")

    def put() -> None:
        seal(new)
        replace(new, place)
        _prune(output, progress, keep)

    if accelerator.is_main_process:
        attempt(lambda: _begin(new))
    accelerator.wait_for_everyone()
    attempt(write)
    problems = gather_object(problems)
    if accelerator.is_main_process:
        attempt(put)
        if problems:
            remove(new)
            tqdm.write(f"step {progress.step}: no checkpoint, the older ones stay: {problems[0]}")
    if gather_object(problems):  # all processes try again, or none
        progress.saved_step = before


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> None:
    """Weights, optimiser and random states as they were; all processes call it, after `last_checkpoint` has looked."""
    # The settings of the optimiser stay those of today; what it has gathered comes back.
    state = sharded.get_optimizer_state_dict(model, optimizer, options=_TO_LOAD)
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        parameter, _, name = key.rpartition(".")
        moments.setdefault(parameter, {})[name] = tensor
    whole: dict[str, Any] = {**state, "state": moments}
    sharded.set_optimizer_state_dict(model, optimizer, whole, options=_TO_LOAD)
    sharded.set_model_state_dict(model, load_file(folder / "model.safetensors"), options=_ALL_TO_LOAD)
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(read_state(folder)["scaler"] or {})
    file = folder / f"random-{accelerator.process_index}.safetensors"
    if file.exists():  # else there are more processes than before, and this one keeps its own
        states = load_file(file)
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"])


def read_state(folder: Path) -> dict[str, Any]:
    """Progress and settings of a checkpoint."""
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint of a run, whose best model and start are whole, too; damaged ones are named.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    found = checkpoints(output)
    for folder in reversed(found):
        problem = _damage(output, folder)
        if problem is None:
            return folder
        print(f"The checkpoint {folder} is damaged: {problem}.")
    if found:
        raise UserError(f"No checkpoint in {output / 'checkpoints'} is whole: start anew, without --resume.")
    return None


def _damage(output: Path, folder: Path) -> str | None:
    problem = damage(folder)
    if problem is not None:
        return problem
    state = read_state(folder)
    if not state.keys() >= {"progress", "settings", "scaler"} or not Progress.knows(state["progress"]):
        return "another version of this package wrote its state.json"
    start = folder_of(output, "start")
    for part in (start, *_best_of(output, state["progress"])):
        if (text := damage(part)) is not None:
            return f"{part}: {text}"
    return _foreign_tensor(folder, start)


def _foreign_tensor(folder: Path, start: Path) -> str | None:
    """Which tensor of a checkpoint does not belong to the network that a run began with: it was copied from another run."""
    weights, own = (_shapes(part / "model.safetensors") for part in (folder, start))
    for name, shape in weights.items():
        if own and own.get(name) != shape:
            return f"its weights are those of another network: {name} has shape {tuple(shape)}"
    for name in _shapes(folder / "optimizer.safetensors"):
        if name.rpartition(".")[0] not in weights:
            return f"its optimiser is that of another network: {name}"
    return None


def _shapes(file: Path) -> dict[str, list[int]]:
    """Of all tensors; none where a large model stands in several files."""
    if not file.exists():
        return {}
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (it is no dict)


def forget_later(output: Path, checkpoint: Path) -> None:
    """Removes the checkpoints after the one that a run continues from: they are damaged, and would be kept as the newest."""
    for folder in checkpoints(output):
        if folder.name > checkpoint.name:
            remove(folder)


def checkpoints(output: Path) -> list[Path]:
    """From old to new."""
    return sorted(path for path in (output / "checkpoints").glob("step-*") if path.name[5:].isdecimal() and path.is_dir())


def save_best(
    output: Path, model: Any, processor: Any, weights: dict[str, torch.Tensor], step: int, accelerator: Accelerator
) -> bool:
    """Keeps the best model so far; gives whether it could be written. All processes call it."""

    def write() -> None:
        needed = _SMALL_FILES + sum(tensor.nbytes for tensor in weights.values())
        with new_folder(folder_of(output, "best", step), needed) as new:
            model.save_pretrained(new, state_dict=weights)
            processor.save_pretrained(new)  # so that another run can begin with it

    try:
        on_main_process(accelerator, write)
    except UserError as error:
        if accelerator.is_main_process:
            tqdm.write(f"step {step}: the best model before this one stays: {error}")
        return False
    return True


def set_aside(output: Path) -> Path | None:
    """Moves the checkpoints of an earlier run out of the way of a new one; gives their new place."""
    place = output / "checkpoints"
    if not any(place.glob("step-*")) and not any(place.glob("best-*")):
        return None
    return place.rename(free_name(place))


def _begin(new: Path) -> None:
    remove(new)
    new.mkdir(parents=True)


def _prune(output: Path, progress: Progress, keep: int) -> None:
    """Removes older checkpoints, and best models that no checkpoint names."""
    *older, _ = checkpoints(output)
    kept = older[len(older) + 1 - keep :] if keep > 1 else []
    for folder in older:
        if folder not in kept:
            remove(folder)
    named = _best_of(output, progress.state())
    for folder in kept:
        with suppress(OSError, ValueError, KeyError):  # of a damaged one
            named += _best_of(output, read_state(folder)["progress"])
    for folder in (output / "checkpoints").glob("best-*"):
        if folder.name[5:].isdecimal() and folder not in named:
            remove(folder)


def _best_of(output: Path, progress: dict[str, Any]) -> list[Path]:
    return [] if progress["best_step"] is None else [folder_of(output, "best", progress["best_step"])]


def _moments(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state of an optimiser as flat tensors, parameter.name; none where another process has it."""
    return {
        f"{parameter}.{name}": tensor for parameter, own in state.get("state", {}).items() for name, tensor in own.items()
    }


def _random_states(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """torch's, for dropout; all else that is random draws from generators of its own."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if accelerator.device.type == "cuda" else {})
