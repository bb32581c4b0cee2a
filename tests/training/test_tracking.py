"""Losses and settings reach the trackers of Accelerate's list; those that are not installed are refused or skipped."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training import tracking


SETTINGS = {"learning_rate": 1e-3, "conv_channels": [4, 4], "model": None, "sorta_grad": True}


def run(name: str, folder: Path) -> None:
    accelerator = Accelerator(cpu=True, log_with=name, project_dir=str(folder))
    tracking.check_tracker(name)
    tracking.start_tracking(accelerator, SETTINGS)
    for step in (1, 2):
        tracking.track(accelerator, {"loss": 3.0 / step, "wer": None}, step)
    assert accelerator.trackers  # none was left out because it failed
    tracking.stop_tracking(accelerator)


def test_tensorboard(tmp_path):
    run("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {file.parent for file in tmp_path.rglob("events.out.tfevents.*") if file.parent.name == tracking.PROJECT}
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("loss")] == [3.0, 1.5]


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    run("trackio", tmp_path)
    assert any(file.name.startswith(tracking.PROJECT) for file in tmp_path.iterdir())


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run("wandb", tmp_path)
    assert list(tmp_path.rglob("*.wandb"))


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(tracking._AVAILABLE, "wandb", lambda: False)
    with pytest.raises(UserError, match="report_to: wandb is not installed: pip install wandb"):
        tracking.check_tracker("wandb")
