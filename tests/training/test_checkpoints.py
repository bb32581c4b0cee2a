"""A checkpoint is whole or not there; a disk that is full leaves the older ones as they were."""

import resource
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from modeling_deepspeech2.training.checkpoints import last_checkpoint, save_checkpoint


@pytest.fixture
def run(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(300, 300)
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))

    def save(step: int, keep: int = 2) -> None:
        torch.nn.init.constant_(model.weight, step)
        save_checkpoint(
            tmp_path, accelerator, SimpleNamespace(step=step, epoch_step=step, saved_step=-1, parts=1, plan=""), keep
        )

    def loaded() -> float:
        accelerator.load_state(last_checkpoint(tmp_path))
        return model.weight.mean().item()

    yield SimpleNamespace(save=save, loaded=loaded, folder=tmp_path / "checkpoints")
    accelerator.free_memory()


def names(run) -> list[str]:
    return sorted(path.name for path in run.folder.iterdir())


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
    assert "step 10: no checkpoint could be written" in "".join(capsys.readouterr())
    assert names(run) == ["step-00000005"]
    assert run.loaded() == 5
    run.save(15)
    assert names(run) == ["step-00000005", "step-00000015"]


def test_what_a_killed_write_left_is_no_checkpoint(run):
    run.save(5)
    (run.folder / "new").mkdir()
    (run.folder / "new" / "model.safetensors").write_bytes(b"half a file")
    assert run.loaded() == 5
    run.save(10)
    assert names(run) == ["step-00000005", "step-00000010"]
