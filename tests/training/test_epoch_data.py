"""What an epoch is read from: in order of length, by many readers, a copy that is made once and leaves nothing behind."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from forked_run_ctc import become_one_of, free_port

from modeling_deepspeech2.data.batching import Batching
from modeling_deepspeech2.data.loader import Batches
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.data.utterance_file import UtteranceFile, folder_of_copies
from modeling_deepspeech2.training.interruption import Interruption
from modeling_deepspeech2.training.progress import Progress
from modeling_deepspeech2.training.run import Run


SPEECH = Path(__file__).parents[2] / "demo" / "speech" / "english"


def make_run(processes: int) -> Run:
    settings = SimpleNamespace(run=SimpleNamespace(tensor_parallel_size=1, shuffle_memory=1))
    data, batching = (
        SpeechData(str(SPEECH), ["validation"], show_progress=False),
        Batching(4, parts=processes, sorta_grad=True),
    )
    batching.memory = int(data.index.sizes.sum()) // 2
    unused = dict.fromkeys(("lock", "model", "processor", "validation", "tests", "augmentation", "checkpoint", "record"))
    return Run(
        settings=settings,
        accelerator=Accelerator(cpu=True),
        interruption=Interruption(),
        train_data=data,
        batching=batching,
        progress=Progress(),
        **unused,
    )


def read_an_epoch(rank: int, processes: int, port: int, folder: Path) -> None:
    """One of several processes writes the names in its parts, step by step, and which files it finds in the end."""
    become_one_of(processes, rank, port)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)  # of tests before this one
    run = make_run(processes)
    assert run.readers == processes
    plan = run.batching.plan(run.train_data.index, 0)
    source = run.epoch_data(plan)
    assert isinstance(source, UtteranceFile) and list(folder_of_copies().iterdir()) == []
    batches = Batches(source, plan, rank=rank, world_size=processes)
    (folder / str(rank)).write_text("\n".join(utterance.name for batch in batches for utterance in batch))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_processes_share_a_copy_in_order_of_length(tmp_path, monkeypatch):
    """Three of them, of which each reads its own parts; the file has no name any more when they begin."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [context.Process(target=read_an_epoch, args=(rank, 3, port, tmp_path)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    data = SpeechData(str(SPEECH), ["validation"], show_progress=False)
    plan = Batching(4, parts=3, sorta_grad=True).plan(data.index, 0)
    for rank in range(3):
        expected = [u.name for batch in Batches(data, plan, rank=rank, world_size=3) for u in batch]
        assert (tmp_path / str(rank)).read_text().splitlines() == expected


def test_the_data_itself_is_read_where_a_copy_does_not_help_or_cannot_be_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run = make_run(1)
    plan = run.batching.plan(run.train_data.index, 0)
    assert len(plan.window_ends) > 2
    assert isinstance(run.epoch_data(plan), UtteranceFile)
    run.progress.epoch = 1
    assert run.epoch_data(plan) is run.train_data
    run.progress.epoch = 0
    assert run.epoch_data(Batching(4, sorta_grad=True).plan(run.train_data.index, 0)) is run.train_data
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(__file__))
    assert run.epoch_data(plan) is run.train_data
    assert "cannot be copied" in caplog.text and "shuffle_memory" in caplog.text
