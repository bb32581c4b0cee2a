"""The order of an epoch: sorted first, random later, each utterance once, the same on all processes and when resumed."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2.data.batching import Batching, EpochPlan
from modeling_deepspeech2.data.durations import DurationIndex
from modeling_deepspeech2.data.loader import Batches, make_loader
from modeling_deepspeech2.data.sources import DataError, SpeechData, Utterance
from modeling_deepspeech2.data.utterance_file import UtteranceFile, write_utterances


AMAZON_QUEEN = Path(__file__).parents[3] / "shared" / "data" / "speech-en" / "amazon_queen"


def make_index(utterances: int, shards: int = 3, seed: int = 0, weight: float = 1.0) -> DurationIndex:
    rng = np.random.default_rng(seed)
    shard = np.sort(rng.integers(0, shards, utterances)).astype(np.int32)
    rows = np.concatenate([np.arange(n) for n in np.bincount(shard, minlength=shards)]).astype(np.int32)
    seconds = rng.gamma(4, 2, utterances).astype(np.float32)
    return DurationIndex(
        shard,
        rows,
        seconds,
        (seconds * 1000).astype(np.int32),
        np.zeros(utterances, np.uint32),
        np.full(utterances, weight, np.float32),
    )


batchings = st.builds(
    Batching,
    batch_size=st.integers(1, 9),
    batch_seconds=st.sampled_from([0.0, 5.0, 40.0, 300.0]),
    parts=st.integers(1, 4),
    sorta_grad=st.booleans(),
    seed=st.integers(0, 3),
    memory=st.sampled_from([1, 20_000, 10**9]),
)


@settings(max_examples=150)
@given(batching=batchings, utterances=st.integers(0, 120) | st.sampled_from([403, 450]), epoch=st.integers(0, 2))
def test_every_utterance_once_whatever_the_settings(batching, utterances, epoch):
    index = make_index(utterances)
    plan = batching.plan(index, epoch)
    assert sorted(plan.order) == list(range(utterances))
    batches = [[plan.batch(step, part) for part in range(batching.parts)] for step in range(plan.steps)]
    assert sorted(number for step in batches for batch in step for number in batch) == list(range(utterances))
    assert all(any(len(batch) for batch in step) for step in batches), "a step without an utterance"
    windows = list(plan.windows())
    assert [step for window in windows for step in window] == list(range(plan.steps))
    for window in windows:
        held = sum(index.sizes[batch].sum() for step in window for batch in batches[step])
        largest = max(sum(index.sizes[batch].sum() for batch in batches[step]) for step in window)
        assert held <= batching.memory + largest
    again = batching.plan(index, epoch)
    assert np.array_equal(plan.order, again.order) and np.array_equal(plan.step_ends, again.step_ends)


@settings(max_examples=50)
@given(batching=batchings, utterances=st.integers(1, 120))
def test_the_first_epoch_goes_from_short_to_long(batching, utterances):
    batching.sorta_grad = True
    index = make_index(utterances)
    plan = batching.plan(index, 0)
    assert (np.diff(index.seconds[plan.order]) >= 0).all()


@settings(max_examples=50)
@given(utterances=st.integers(1, 450), parts=st.integers(1, 4), seconds=st.floats(1, 200), epoch=st.integers(0, 1))
def test_batches_by_seconds_keep_to_their_seconds(utterances, parts, seconds, epoch):
    index = make_index(utterances)
    plan = Batching(1, seconds, parts, sorta_grad=True).plan(index, epoch)
    for step in range(plan.steps):
        for part in range(parts):
            lengths = index.seconds[plan.batch(step, part)]
            assert len(lengths) <= 1 or len(lengths) * lengths.max() <= seconds * (1 + 1e-6)


def test_later_epochs_differ_with_seed_and_epoch_and_have_little_padding():
    index = make_index(2_000)
    orders = {
        (seed, epoch): Batching(16, seed=seed).plan(index, epoch).order.tolist() for seed in (0, 1) for epoch in (1, 2)
    }
    assert len(set(map(tuple, orders.values()))) == 4
    plan = Batching(16, batch_seconds=130).plan(index, 1)
    batches = [index.seconds[plan.batch(step, 0)] for step in range(plan.steps)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert 1 - index.seconds.sum() / padded < 0.06
    # Neighbours in time are not neighbours in length: the order of the batches is random.
    longest = [batch.max() for batch in batches]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3


@pytest.mark.skipif(not AMAZON_QUEEN.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("seconds", [50, 100])
def test_batches_by_seconds_of_real_speech_have_little_padding(seconds):
    index = SpeechData(str(AMAZON_QUEEN.parent), ["amazon_queen/train"]).index
    for epoch in range(3):
        plan = Batching(1, seconds, sorta_grad=True).plan(index, epoch)
        lengths = [index.seconds[plan.batch(step, 0)] for step in range(plan.steps)]
        assert 1 - index.seconds.sum() / sum(len(batch) * batch.max() for batch in lengths) <= 0.06


def test_two_times_eight_are_sixteen_in_a_small_data_set():
    """Where no reading would be saved, the step is the same however it is shared out among processes and accumulation."""
    index = make_index(100)
    one, two = Batching(16).plan(index, 1), Batching(8, parts=2).plan(index, 1)
    assert np.array_equal(one.order, two.order) and np.array_equal(one.step_ends, two.step_ends)
    assert sorted(one.batch(3, 0)) == sorted([*two.batch(3, 0), *two.batch(3, 1)])


@pytest.mark.parametrize("batch_seconds", [0.0, 60.0])
@pytest.mark.parametrize("parts", [2, 8])
def test_parts_of_a_large_data_set_read_shards_of_their_own(parts, batch_seconds):
    """But for the shard in which one part ends and the next begins; and all parts have about as much to do in each step."""
    index = make_index(5_000, shards=50)
    plan = Batching(8, batch_seconds, parts).plan(index, 1)
    assert plan.lanes == plan.parts
    shards = [set[int]() for _ in range(parts)]
    work = np.zeros((plan.steps, parts))
    for step in range(plan.steps):
        for part in range(parts):
            own = plan.batch(step, part)
            shards[part] |= set(index.shards[own].tolist())
            work[step, part] = len(own) * index.seconds[own].max(initial=0) if batch_seconds else len(own)
    assert sum(map(len, shards)) <= 50 + parts - 1
    assert work.mean() >= 0.85 * work.max(1).mean()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.5])
def test_weights_say_how_often_an_epoch_reads_an_utterance(weight):
    index = make_index(1_000, weight=weight)
    times = np.bincount(Batching(8).plan(index, 1).order, minlength=1_000)
    assert set(times) <= {int(weight), int(np.ceil(weight))}
    assert abs(times.mean() - weight) < 0.05


def recording(seconds: float, samples: int, rng: np.random.Generator) -> bytes:
    """Noise that lasts so long by its sampling rate, however small the file is."""
    file = io.BytesIO()
    soundfile.write(file, rng.uniform(-1, 1, samples), round(samples / seconds), "PCM_U8", format="WAV")
    return file.getvalue()


SHARDS, ROWS = 64, 1_562  # about 100,000 utterances


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    audio = recording(5.0, 156, rng)  # what lasts twice or half as long is believed
    for shard in range(SHARDS):
        table = pyarrow.table(
            {
                "id": [f"{shard}-{row}" for row in range(ROWS)],
                "audio": [{"bytes": audio, "path": None}] * ROWS,
                "text": ["a"] * ROWS,
                "duration": rng.uniform(2.6, 9.9, ROWS).astype(np.float32),
            }
        )
        pyarrow.parquet.write_table(table, folder / f"train-{shard:05d}-of-{SHARDS:05d}.parquet")
    return folder


READ_AN_EPOCH = """
import os, resource, sys
from modeling_deepspeech2.data.loader import Batches
from modeling_deepspeech2.data.batching import Batching
from modeling_deepspeech2.data.sources import SpeechData

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

path, output, world_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rank = 0
while rank < world_size and os.fork():  # a process for each rank, after what takes seconds to import
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    rank += 1
if rank == world_size:
    sys.exit()
sys.stdout = open(f"{output}/{rank}", "w")
base = most = resident()
data = SpeechData(path, ["train"], show_progress=False)
plan = Batching(16, parts=world_size, sorta_grad=True, memory=40 * 2**20).plan(data.index, 0)
for count, batch in enumerate(Batches(data, plan, rank=rank, world_size=world_size)):
    for utterance in batch:
        print(utterance.name)
    if count % 100 == 0:
        most = max(most, resident())
print("memory", most - base)
"""


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_large_stream_is_exactly_sorted_on_every_process_in_bounded_memory(large, world_size, tmp_path, monkeypatch):
    """100,000 utterances in 64 shards, on each of 1, 2 and 4 processes"""
    durations = {}
    for file in sorted(large.glob("*.parquet")):
        table = pyarrow.parquet.read_table(file, columns=["id", "duration"]).to_pydict()
        durations |= dict(zip(table["id"], table["duration"]))
    everybody = []
    subprocess.run([sys.executable, "-c", READ_AN_EPOCH, str(large), str(tmp_path), str(world_size)], check=True)
    for rank in range(world_size):
        lines = (tmp_path / str(rank)).read_text().splitlines()
        lengths = [durations[name] for name in lines[:-1]]
        assert lengths == sorted(lengths)
        assert int(lines[-1].split()[1]) < 300 * 2**20
        everybody += lines[:-1]
    assert len(everybody) == len(durations) and set(everybody) == set(durations)


def test_a_resumed_epoch_goes_on_where_it_stopped(large):
    data = SpeechData(str(large), ["train"], show_progress=False)
    plan = Batching(500, parts=2, memory=2 * 2**20).plan(data.index, 1)
    assert len(plan.window_ends) > 2
    whole = [[utterance.name for utterance in batch] for batch in Batches(data, plan, rank=1, world_size=2)]
    first_step = plan.steps - 20
    rest = [[utterance.name for utterance in batch] for batch in Batches(data, plan, first_step, rank=1, world_size=2)]
    assert rest == whole[first_step:]


def test_later_epochs_of_a_large_stream_differ_with_the_seed_alone(large):
    data = SpeechData(str(large), ["train"], show_progress=False)
    one, again, other = (Batching(16, seed=seed, memory=2**20).plan(data.index, 1).order for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert sorted(one) == sorted(other) == list(range(len(data.index)))


@pytest.fixture(scope="module")
def row_groups(tmp_path_factory) -> Path:
    """4,000 utterances of 1 kB in 4 files with 10 row groups each: 4 MB."""
    folder = tmp_path_factory.mktemp("row_groups")
    rng = np.random.default_rng(0)
    for shard in range(4):
        seconds = rng.uniform(1, 20, 1_000).astype(np.float32)
        table = pyarrow.table(
            {
                "id": [f"{shard}-{row}" for row in range(1_000)],
                "audio": [{"bytes": recording(length, 1_000, rng), "path": None} for length in seconds.tolist()],
                "text": ["a"] * 1_000,
                "duration": seconds,
            }
        )
        pyarrow.parquet.write_table(table, folder / f"train-{shard:05d}-of-00004.parquet", row_group_size=100)
    return folder


def epoch_of(data: SpeechData | UtteranceFile, plan: EpochPlan, readers: int, first_step: int = 0) -> list[list[list[str]]]:
    """The names in every part of every step, as so many readers find them one after the other."""
    steps: list[list[list[str]]] = [[[] for _ in range(plan.parts)] for _ in range(plan.steps - first_step)]
    for reader in range(readers):
        batches = Batches(data, plan, first_step, reader, readers)
        places = [(step, part) for step in range(plan.steps - first_step) for part in batches.parts]
        for (step, part), batch in zip(places, batches, strict=True):
            steps[step][part] = [utterance.name for utterance in batch]
    return steps


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
@pytest.mark.parametrize("readers, most", [(1, 1.05), (2, 1.1), (8, 1.2), (32, 2.1)])
def test_an_epoch_reads_the_data_about_once_in_all(row_groups, readers, most):
    """Not once for each reader; a row group in which one reader's stretch ends and another's begins is read by both."""
    data = SpeechData(str(row_groups), ["train"], show_progress=False)
    plan = Batching(4, parts=readers, memory=2**20).plan(data.index, 1)
    assert len(plan.window_ends) > 4
    before = psutil.Process().io_counters().read_chars
    steps = epoch_of(data, plan, readers)
    read = psutil.Process().io_counters().read_chars - before
    assert sorted(name for step in steps for batch in step for name in batch) == sorted(
        f"{shard}-{row}" for shard in range(4) for row in range(1_000)
    )
    assert read <= most * sum(file.stat().st_size for file in row_groups.glob("*.parquet"))


@pytest.mark.parametrize("batch_seconds", [0.0, 100.0])
def test_a_run_resumed_on_other_processes_goes_on_in_the_same_order(row_groups, batch_seconds):
    data = SpeechData(str(row_groups), ["train"], show_progress=False)
    plan = Batching(4, batch_seconds, parts=6, memory=2**20).plan(data.index, 1)
    assert plan.lanes == plan.parts
    whole = epoch_of(data, plan, readers=6)
    for readers in (1, 2, 4):
        assert epoch_of(data, plan, readers, first_step=plan.steps // 2) == whole[plan.steps // 2 :]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_readers_of_a_sorted_epoch_read_only_what_is_theirs(row_groups, tmp_path):
    """From a copy, in the same order as from the data, which 8 readers would read whole for each of many windows."""
    data = SpeechData(str(row_groups), ["train"], show_progress=False)
    plan = Batching(4, parts=8, sorta_grad=True, memory=2**22).plan(data.index, 0)
    assert len(plan.window_ends) > 2
    write_utterances(data, tmp_path / "copy.arrow")
    before = psutil.Process().io_counters().read_chars
    copy = UtteranceFile(data.index, tmp_path / "copy.arrow")
    (tmp_path / "copy.arrow").unlink()
    steps = epoch_of(copy, plan, readers=8)
    read = psutil.Process().io_counters().read_chars - before
    assert steps == epoch_of(data, plan, readers=1)
    assert read <= 1.7 * sum(file.stat().st_size for file in row_groups.glob("*.parquet"))  # 0.6 kB for each of 1 kB


def test_a_copied_utterance_is_what_it_was(tmp_path):
    """Without a transcript, without audio, with a problem, or a path that is no UTF-8."""
    utterances = [
        Utterance("one", {"bytes": b"\0\xff", "path": None}, "a \u2028 b", 0.1),
        Utterance("two", {"bytes": None, "path": "/a/\udcff.ogg"}, None, None),
        Utterance("three", {}, "", 0.0, "Line 3: it has no audio."),
    ]

    class Data:
        index = make_index(3)
        show_progress = False

        def stream(self, numbers: np.ndarray) -> list[Utterance]:
            return [utterances[number] for number in numbers]

    write_utterances(Data(), tmp_path / "folder" / "copy.arrow")  # type: ignore[arg-type]
    found = list(UtteranceFile(Data.index, tmp_path / "folder" / "copy.arrow").stream(np.array([2, 0, 1])))
    utterances[2].audio = {"bytes": None}
    assert found == [utterances[number] for number in (2, 0, 1)]


def test_a_copy_is_written_whole_or_not_at_all(row_groups, tmp_path, monkeypatch):
    """An error halfway leaves nothing behind, nor does a disk that has too little room; old leftovers go."""
    leftover, recent = tmp_path / "leftover", tmp_path / "recent"
    for file in (leftover, recent):
        file.touch()
    os.utime(leftover, (0, 0))
    data = SpeechData(str(row_groups), ["train"], show_progress=False)
    data.index.rows[3_500] = 2_000
    with pytest.raises(DataError, match="has changed"):
        write_utterances(data, tmp_path / "copy.arrow")
    data.index.sizes[:4] = 2**31 - 1
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**34 - 1))
    with pytest.raises(OSError, match="8.6 GB are needed, and 17.2 GB are free"):
        write_utterances(data, tmp_path / "copy.arrow")
    assert list(tmp_path.iterdir()) == [recent]


def test_workers_decode_what_this_process_reads(row_groups):
    """Two of them give what the process alone gives, in its order."""
    data = SpeechData(str(row_groups), ["train"], show_progress=False)
    plan = Batching(50, parts=2, memory=2**20).plan(data.index, 1)
    batches = Batches(data, plan, rank=1, world_size=2)
    alone, shared = (list(make_loader(batches, _names, workers)) for workers in (0, 2))
    assert [names for names, _ in alone] == [names for names, _ in shared]
    assert {process for _, process in shared}.isdisjoint({os.getpid()}) and len({process for _, process in shared}) == 2


def _names(batch: list[Utterance]) -> tuple[list[str], int]:
    return [utterance.name for utterance in batch], os.getpid()
