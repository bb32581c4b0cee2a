"""Sends losses, error rates and settings to Accelerate's trackers; a tracker that fails never stops the training."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_trackio_available, is_wandb_available
from tqdm.auto import tqdm

from ..errors import UserError


PROJECT = "run_ctc"
_AVAILABLE = {"tensorboard": is_tensorboard_available, "trackio": is_trackio_available, "wandb": is_wandb_available}


def check_tracker(name: str) -> None:
    """
    Raises:
        UserError: the tracker is not installed.
    """
    if name in _AVAILABLE and not _AVAILABLE[name]():
        raise UserError(f"report_to: {name} is not installed: pip install {name}, or use --report_to=none.")


def start_tracking(accelerator: Accelerator, settings: dict[str, Any]) -> None:
    """Opens the tracker and gives it the settings of the run."""
    flat = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in settings.items()}
    _guarded(accelerator, lambda: accelerator.init_trackers(PROJECT, config=flat))


def track(accelerator: Accelerator, values: dict[str, float | None], step: int) -> None:
    known = {name: value for name, value in values.items() if value is not None}
    _guarded(accelerator, lambda: accelerator.log(known, step=step))


def stop_tracking(accelerator: Accelerator) -> None:
    _guarded(accelerator, accelerator.end_training)


def _guarded(accelerator: Accelerator, action: Any) -> None:
    try:
        action()
    except OSError as error:  # a full disk, or no network
        accelerator.trackers = []
        tqdm.write(f"The tracker is left out from here on: {error}")
