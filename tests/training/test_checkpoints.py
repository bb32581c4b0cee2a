"""A checkpoint is whole or not there; a disk that is full leaves the older ones as they were."""

import resource
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from modeling_deepspeech2.training.checkpoints import (
    folder_of,
    last_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from modeling_deepspeech2.training.output_folder import new_folder
from modeling_deepspeech2.training.progress import Progress


@pytest.fixture
def run(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    with new_folder(folder_of(tmp_path, "start"), 0):
        pass

    def save(step: int, keep: int = 2) -> None:
        torch.nn.init.constant_(model.weight, step)
        model.weight.grad = torch.full_like(model.weight, step)
        optimizer.step()
        progress = Progress(step=step, epoch_step=step, skipped={"a": "b"})
        save_checkpoint(tmp_path, model, optimizer, progress, {"seed": step}, accelerator, keep)

    def loaded() -> float:
        load_checkpoint(last_checkpoint(tmp_path), model, optimizer, accelerator)
        return round(model.weight.mean().item())

    yield SimpleNamespace(
        save=save, loaded=loaded, folder=tmp_path / "checkpoints", model=model, optimizer=optimizer, accelerator=accelerator
    )
    accelerator.free_memory()


def names(run) -> list[str]:
    return sorted(path.name for path in run.folder.iterdir() if path.name != "start")


def test_the_newest_few_are_kept(run):
    for step in (5, 10, 15):
        run.save(step)
    assert names(run) == ["step-00000010", "step-00000015"]
    assert run.loaded() == 15


def test_a_write_that_fails_leaves_the_older_checkpoint(run, capsys):
    """A real failure: the system refuses files beyond 100 kB."""
    run.save(5)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        run.save(10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "step 10: no checkpoint, the older ones stay" in "".join(capsys.readouterr())
    assert names(run) == ["step-00000005"]
    assert run.loaded() == 5
    run.save(15)
    assert names(run) == ["step-00000005", "step-00000015"]


def test_what_a_killed_write_left_is_no_checkpoint(run):
    run.save(5)
    (run.folder / "step.new").mkdir()
    (run.folder / "step.new" / "model.safetensors").write_bytes(b"half a file")
    assert run.loaded() == 5
    run.save(10)
    assert names(run) == ["step-00000005", "step-00000010"]


def test_all_that_training_gathers_comes_back_and_its_settings_are_new(run):
    """The moments bit for bit, the random numbers, the report; not the settings of the optimiser."""
    run.save(5)
    moments = {name: value.clone() for name, value in run.optimizer.state[run.model.weight].items()}
    random = torch.rand(3)
    other = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.5, weight_decay=0.25)
    load_checkpoint(run.folder / "step-00000005", other, optimizer, run.accelerator)
    assert torch.equal(other.weight, run.model.weight)
    assert all(torch.equal(optimizer.state[other.weight][name], value) for name, value in moments.items())
    assert torch.equal(torch.rand(3), random)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.25)
    state = read_state(run.folder / "step-00000005")
    assert Progress.from_state(state["progress"]).skipped == {"a": "b"} and state["settings"] == {"seed": 5}
