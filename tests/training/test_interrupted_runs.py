"""Whatever ends a run, nothing that was whole is lost, and `--resume` ends with the same weights (law 4)."""

import errno
import functools
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from filelock import FileLock
from forked_run_ctc import TIMEOUT, become_one_of, free_port, run_ctc_in_a_fork, start_run_ctc_in_a_fork
from safetensors.numpy import load_file, save_file
from test_run_ctc import write_shard

import run_ctc
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training.checkpoints import checkpoints, last_checkpoint
from modeling_deepspeech2.training.output_folder import LOCK, MARKER, seal, written
from modeling_deepspeech2.training.run_record import RECORD, read_record


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SETTINGS = (
    "--dataset=demo/speech --train english/train[:1%] --validation english/validation[:3%] --test english/test[:3%] "
    "--conv_channels 2 --conv_kernel_sizes 11x5 --conv_strides 8x3 --num_hidden_layers 1 --hidden_size 4 "
    "--hidden_dropout=0.3 --per_device_train_batch_size=8 --max_steps=2 --eval_steps=1 --save_steps=1 --save_total_limit=1 "
    "--learning_rate=0.01 --report_to=none"
)


def run(output: Path, *arguments: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    status, printed = run_ctc_in_a_fork([*SETTINGS.split(), f"--output_dir={output}", *arguments], before)
    assert "Traceback" not in printed, printed
    return status, printed


def weights(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def changed_path(event: str, arguments: tuple) -> Path | None:
    """What an operation of the file system is about to change."""
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and (arguments[2] or 0) & WRITING:
        return Path(arguments[0])
    if event in CHANGES:
        path, folder = Path(os.fsdecode(arguments[0])), arguments[-1]
        in_folder = event in ("os.remove", "os.rmdir") and isinstance(folder, int) and folder >= 0
        return Path(os.readlink(f"/proc/self/fd/{folder}")) / path if in_folder else path
    return None


def copy_before_each_change(output: Path, copies: Path) -> None:
    """From now on: what a kill right then would leave on the disk."""
    seen, is_copying = set(), False

    def look(event: str, arguments: tuple) -> None:
        nonlocal is_copying
        if is_copying or event != "open" and event not in CHANGES:
            return
        is_copying = True
        path = changed_path(event, arguments)
        if path is not None and path.is_relative_to(output):
            in_part = next((folder for folder in path.parents if folder.suffix == ".new" or folder.name[:4] == "old."), path)
            point = (event, str(in_part))  # a folder that is being written or removed is as good as not there
            if point not in seen and output.exists():
                shutil.copytree(output, copies / f"{len(seen):03d}")
                (copies / f"{len(seen):03d}.txt").write_text(" ".join(point))
            seen.add(point)
        is_copying = False

    sys.addaudithook(look)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing has interrupted, with what it had on the disk before each change."""
    folder = tmp_path_factory.mktemp("whole")
    status, printed = run(
        folder / "run", before=functools.partial(copy_before_each_change, folder / "run", folder / "killed")
    )
    assert status == 0, printed
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_before_any_write_rename_or_remove_it_ends_with_the_same_weights(whole):
    killed = sorted(path for path in (whole / "killed").iterdir() if path.is_dir())
    assert len(killed) > 25
    for output in killed:
        point = output.with_suffix(".txt").read_text()
        status, printed = run(output, *(["--resume"] if (output / MARKER).exists() else []))
        assert status == 0, f"{point}\n{printed}"
        assert weights(output) == weights(whole / "run"), point
        assert not any(path.suffix == ".new" or path.name.startswith("old.") for path in output.rglob("*")), point


def send_after_first_step(number: int) -> None:
    """A signal to this process within its first step."""
    step = torch.optim.AdamW.step

    def send_and_step(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), number)
        torch.optim.AdamW.step = step
        return step(*arguments, **options)

    torch.optim.AdamW.step = send_and_step


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_once_and_says_how_to_continue(whole, tmp_path, number, status):
    """Also with the last regular checkpoint far behind; the launcher sees that a signal was the reason."""
    rare = ["--save_steps=100", "--eval_steps=100", "--max_steps=2"]
    found, printed = run(tmp_path / "run", *rare, before=functools.partial(send_after_first_step, number))
    assert found == status, printed
    assert "continue with: accelerate launch run_ctc.py" in printed and "--resume" in printed
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["step-00000001"]
    assert run(tmp_path / "run", *rare, "--resume")[0] == 0
    newest = checkpoints(tmp_path / "run")[-1]
    assert weights(newest) == weights(checkpoints(whole / "run")[-1])


def damage_after_first_step(file: Path, place: int) -> None:
    """Bytes of a file of the training data are overwritten while the run goes on."""
    step = torch.optim.AdamW.step

    def damage_and_step(*arguments: object, **options: object) -> object:
        with file.open("r+b") as damaged:
            damaged.seek(place)
            damaged.write(b"\xff" * 60)
        torch.optim.AdamW.step = step
        return step(*arguments, **options)

    torch.optim.AdamW.step = damage_and_step


@pytest.fixture
def shard(tmp_path) -> Path:
    """60 seconds of noise in row groups of four."""
    rows = []
    for number in range(60):
        content = io.BytesIO()
        soundfile.write(content, np.random.default_rng(number).uniform(-1, 1, 16_000), 16_000, format="FLAC")
        rows.append({"id": f"{number}", "audio": {"bytes": content.getvalue(), "path": None}, "text": "one"})
    shard = tmp_path / "speech" / "train-00000-of-00001.parquet"
    shard.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), shard, row_group_size=4, compression="none")
    return shard


def settings_for(shard: Path) -> list[str]:
    """Nothing is saved before the end, unless the run is interrupted."""
    settings = [f"--dataset={shard.parent}", "--train=train", "--sorta_grad=false", "--shuffle_memory=1", "--max_steps=9"]
    settings += ["--save_steps=100", "--eval_steps=100", "--statistics_utterances=4"]
    return [*settings, "--validation", "train[:5%]", "--test", "train[:5%]"]


def damage_row(number: int, shard: Path) -> Callable[[], None]:
    """What breaks it after the first step."""
    audio = pyarrow.parquet.read_table(shard).to_pylist()[number]["audio"]["bytes"]
    return functools.partial(damage_after_first_step, shard, shard.read_bytes().index(audio) - 40)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_break_within_an_epoch_cost_no_step(workers, shard, tmp_path):
    """With the shard whole again, the run goes on and ends as if nothing had happened."""
    whole_shard = shard.read_bytes()
    settings = [*settings_for(shard), f"--dataloader_num_workers={workers}"]
    status, printed = run(tmp_path / "run", *settings, before=damage_row(59, shard))
    assert status == 1 and f"{shard} cannot be read, or is damaged" in printed, printed
    [saved] = checkpoints(tmp_path / "run")
    step = int(saved.name.removeprefix("step-"))
    assert 1 < step < 9 and f"saved at step {step}; continue with: " in printed
    shard.write_bytes(whole_shard)
    for name, *more in (("run", "--resume"), ("undisturbed",)):
        status, printed = run(tmp_path / name, *settings, *more)
        assert status == 0, printed
    assert weights(tmp_path / "run") == weights(tmp_path / "undisturbed")


def join(rank: int, port: int, before: Callable[[], None]) -> None:
    become_one_of(2, rank, port)
    os.environ["OMP_NUM_THREADS"] = "1"
    before()


def nothing() -> None:
    pass


def run_on_two(output: Path, own: list[list[str]], befores: tuple[Callable, Callable] = (nothing, nothing)) -> list:
    """Two processes with arguments of their own, and what each calls first -> status and output of each."""
    port, processes = free_port(), []
    for rank, (arguments, before) in enumerate(zip(own, befores, strict=True)):
        settings, printed = [*SETTINGS.split(), f"--output_dir={output}", *arguments], output.with_name(f"printed-{rank}")
        printed.write_text("")  # runs of before wrote there, too
        prepare = functools.partial(join, rank, port, before)
        processes.append((start_run_ctc_in_a_fork(settings, str(printed), prepare), printed))
    for process, _ in processes:
        process.join(TIMEOUT)
        process.kill()  # it has ended, unless it hangs
        process.join()
    return [(process.exitcode, printed.read_text()) for process, printed in processes]


@pytest.mark.parametrize("failing", [0, 1])
def test_data_that_one_of_two_processes_cannot_read_cost_no_step(failing, shard, tmp_path):
    """Each has a copy of the data, as on two machines. Both learn of it at the end of a step, and save it together."""
    shards = [shard, tmp_path / "other" / shard.name]
    shutil.copytree(shard.parent, shards[1].parent)
    own = [[*settings_for(one), "--per_device_train_batch_size=4"] for one in shards]
    whole_shard, befores = shard.read_bytes(), [nothing, nothing]
    befores[failing] = damage_row(59, shards[failing])
    ends = run_on_two(tmp_path / "run", own, tuple(befores))
    assert [status for status, _ in ends] == [1 if rank == failing else 143 for rank in (0, 1)], ends
    assert f"{shards[failing]} cannot be read" in ends[failing][1] and "continue with: " in ends[1 - failing][1]
    [saved] = checkpoints(tmp_path / "run")
    assert 1 <= int(saved.name.removeprefix("step-")) < 9
    shards[failing].write_bytes(whole_shard)
    for name, *more in (("run", "--resume"), ("undisturbed",)):
        assert [status for status, _ in run_on_two(tmp_path / name, [[*one, *more] for one in own])] == [0, 0]
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "undisturbed"))
    for name, array in expected.items():
        assert np.allclose(found[name], array, rtol=1e-4, atol=1e-6), name


def fill_the_disk(folder: str) -> None:
    """The first file that is begun in a folder of this name finds no room."""
    is_full = False

    def look(event: str, arguments: tuple) -> None:
        nonlocal is_full
        path = changed_path(event, arguments) if event == "open" else None
        if path is not None and path.parent.name.startswith(folder) and not is_full:
            is_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    sys.addaudithook(look)


@pytest.mark.parametrize("part", ["start.new", "step.new", "best-", "files.new"])
def test_a_full_disk_costs_nothing_that_was_whole(whole, tmp_path, part):
    """A checkpoint or best model is left out and named; start and end stop with a sentence, and go on with --resume."""
    output = tmp_path / "run"
    if part == "files.new":  # a finished model is there already
        shutil.copytree(whole / "run", output)
        (output / "model.safetensors").write_bytes(b"the model of before")
    options = ["--resume"] if part == "files.new" else []
    status, printed = run(output, *options, before=functools.partial(fill_the_disk, part))
    assert "could not be written: No space left on device; it takes" in printed and " MB" in printed
    assert status == (1 if part in ("start.new", "files.new") else 0)
    if part == "files.new":
        assert (output / "model.safetensors").read_bytes() == b"the model of before"
    assert not list(output.rglob("*.new"))
    assert run(output, "--resume")[0] == 0
    if part != "best-":  # else the best one may be another
        assert weights(output) == weights(whole / "run")


def test_the_sentence_says_how_much_room_is_missing(tmp_path):
    sentence = r"could not be written: .*; it takes 1000000000000.0 MB, and [\d.]+ MB are missing"
    with pytest.raises(UserError, match=sentence), written(tmp_path / "model", 10**18):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(whole, tmp_path):
    """Each file of the newest: changed, cut short, gone."""
    kept_two = tmp_path / "two"
    assert run(kept_two, "--save_total_limit=2")[0] == 0
    newest = checkpoints(kept_two)[-1].name
    damages = [
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x")),
        ("state.json", lambda file: file.write_text("")),
        ("random-0.safetensors", Path.unlink),
    ]
    for number, (name, spoil) in enumerate(damages):
        output = shutil.copytree(kept_two, tmp_path / str(number))
        spoil(output / "checkpoints" / newest / name)
        status, printed = run(output, "--save_total_limit=2", "--resume")
        assert status == 0 and f"{newest} is damaged: {name}" in printed
        assert weights(output) == weights(whole / "run")
    shutil.rmtree(kept_two / "checkpoints" / "step-00000001")
    (kept_two / "checkpoints" / newest / "state.json").unlink()
    status, printed = run(kept_two, "--resume")
    assert status == 1 and "is whole: start anew" in printed


def of_another_network(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: array.repeat(2, axis=0) for name, array in weights.items()}, folder / "model.safetensors")


def of_another_optimizer(folder: Path) -> None:
    moments = load_file(folder / "optimizer.safetensors")
    save_file({f"other.{name}": array for name, array in moments.items()}, folder / "optimizer.safetensors")


def of_a_later_version(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    state["progress"]["something_new"] = 1
    (folder / "state.json").write_text(json.dumps(state))


def without_progress(folder: Path) -> None:
    (folder / "state.json").write_text('{"settings": {}}')


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (of_another_network, "weights are those of another network"),
        (of_another_optimizer, "optimiser is that of another network"),
        (of_a_later_version, "another version of this package"),
        (without_progress, "another version of this package"),
    ],
)
def test_a_whole_checkpoint_of_something_else_is_not_taken(whole, tmp_path, capsys, spoil, problem):
    """Copied from another run or written by another version of the package: its hashes are right."""
    output = shutil.copytree(whole / "run", tmp_path / "run")
    before = checkpoints(output)
    later = shutil.copytree(before[-1], output / "checkpoints" / "step-00000009")
    (output / "checkpoints" / "step-00000010").write_text("a file")
    (later / "sha256.json").unlink()
    spoil(later)
    seal(later)
    assert last_checkpoint(output) == before[-1]
    printed = capsys.readouterr().out
    assert "step-00000009 is damaged: " in printed and problem in printed


@pytest.mark.parametrize("content", ['{"resumed": 5', "[1]", '{"resumed": null}', "null"])
def test_a_damaged_record_is_begun_anew(content, tmp_path):
    (tmp_path / RECORD).write_text(content)
    assert read_record(tmp_path) == {}


def test_nothing_in_a_checkpoint_is_pickled(whole):
    files = [path for path in (whole / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".py"}


def test_a_changed_setting_is_applied_or_refused_by_name(whole, tmp_path):
    """What is not named stays as it was begun; the record keeps what changed, and when."""
    output = shutil.copytree(whole / "run", tmp_path / "run")
    status, printed = run(output, "--resume", "--learning_rate=0.001", "--max_steps=3")
    assert status == 0 and "learning_rate: 0.01 until step 2, 0.001 from there on." in printed
    record = json.loads((output / "run.json").read_text())
    assert record["resumed"][-1]["changed"] == {"learning_rate": [0.01, 0.001], "max_steps": [2, 3]}
    assert record["settings"]["learning_rate"] == 0.001
    for refused in ("--optim=sgd", "--hidden_size=5", "--validation=english/test", "--statistics_utterances=9"):
        status, printed = run(output, "--resume", refused)
        assert status == 1 and f"{refused[2:].partition('=')[0]}: this run was begun with" in printed


def test_two_runs_do_not_share_a_folder(whole, tmp_path):
    output = shutil.copytree(whole / "run", tmp_path / "run")
    with FileLock(output / LOCK):
        status, printed = run(output)
    assert status == 1 and "Another run is writing to" in printed
    assert weights(output) == weights(whole / "run")


@pytest.mark.parametrize("output", [".", "..", "", "docs", "README.md"])
def test_a_folder_that_holds_other_things_is_left_alone(output, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as stop:
        run_ctc.main([*SETTINGS.split(), f"--output_dir={output}"])
    assert "output_dir: " in f"{stop.value}{capsys.readouterr().err}"
    assert not Path(output, MARKER).exists()


def test_what_the_end_needs_is_checked_at_the_beginning(tmp_path):
    """A test split without one usable utterance, and a name that the Hub refuses: before any training."""
    write_shard(tmp_path / "speech" / "test-00000-of-00001.parquet", [("bad", b"this is not audio", "one")])
    status, printed = run(tmp_path / "one", "--test", f"{tmp_path / 'speech'}::test")
    assert status == 1 and "no utterance could be used" in printed and "training:" not in printed
    for name in ("not/a/name", "me/model"):  # the second: no token, or no network here
        status, printed = run(tmp_path / "two", "--push_to_hub", f"--hub_model_id={name}")
        assert status == 1 and ("hub_model_id: found" in printed or "Hub" in printed) and "training:" not in printed
