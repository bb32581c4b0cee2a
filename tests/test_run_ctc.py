"""`run_ctc.py` as a user runs it: train, resume, measure, fine-tune, publish, and everything that can be wrong."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from forked_run_ctc import run_ctc_in_a_fork, start_run_ctc_in_a_fork
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer, pipeline

import run_ctc
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Pipeline
from modeling_deepspeech2.decoding_deepspeech2 import has_decoder
from modeling_deepspeech2.training.checkpoints import last_checkpoint
from modeling_deepspeech2.training.hardware import emulates_bf16


REPOSITORY = Path(__file__).parent.parent

TINY = {
    "conv_channels": ["4"],
    "conv_kernel_sizes": ["11x5"],
    "conv_strides": ["4x3"],
    "num_hidden_layers": ["1"],
    "hidden_size": ["16"],
    "per_device_train_batch_size": ["4"],
    "num_train_epochs": ["2"],
    "validation_share": ["0.25"],
    "learning_rate": ["0.01"],
}


def write_shard(file: Path, rows: list[tuple[str, bytes | None, str | None]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            "id": [name for name, _, _ in rows],
            "audio": [{"bytes": content, "path": f"{name}.ogg"} for name, content, _ in rows],
            "text": [text for _, _, text in rows],
        }
    )
    pyarrow.parquet.write_table(table, file)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, bytes, str]]:
    shard = REPOSITORY / "demo" / "speech" / "english" / "validation-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(shard).slice(0, 24).to_pylist()
    return [(row["id"], row["audio"]["bytes"], row["text"]) for row in table]


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    write_shard(folder / "train-00000-of-00002.parquet", rows[:10])
    write_shard(folder / "train-00001-of-00002.parquet", rows[10:20])
    write_shard(folder / "test-00000-of-00001.parquet", rows[20:])
    return folder


def run(*arguments: str, expect: int = 0, environment: dict | None = None, cwd: Path = REPOSITORY) -> str:
    """Runs the script on one CPU process and gives what it printed; anywhere but offline and here, by its command."""
    if environment is None and cwd == REPOSITORY:
        status, printed = run_ctc_in_a_fork(list(arguments))
    else:
        environment = (environment or os.environ | {"HF_HUB_OFFLINE": "1"}) | {"ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, str(REPOSITORY / "run_ctc.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=cwd)
        status, printed = done.returncode, done.stdout + done.stderr
    assert (status != 0) == bool(expect), printed
    return printed


def tiny(dataset: Path | str, output: Path, **changes) -> list[str]:
    settings = TINY | {"dataset": [str(dataset)], "output_dir": [str(output)], "test": ["test"]}
    settings |= {name: [str(v) for v in (value if isinstance(value, list) else [value])] for name, value in changes.items()}
    return [part for name, values in settings.items() for part in (f"--{name}", *values)]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("trained")
    return output, run(*tiny(dataset, output))


def test_training_writes_a_folder_that_the_pipeline_loads(trained, rows):
    output, printed = trained
    assert "WER" in printed and "hypothesis" in printed and "reference" in printed
    recognizer = pipeline("automatic-speech-recognition", model=str(output))
    assert type(recognizer) is DeepSpeech2Pipeline
    assert isinstance(recognizer(rows[20][1])["text"], str)


def test_model_card_holds_command_data_and_results(trained):
    output, _ = trained
    card = ModelCard.load(output / "README.md")
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert set(metrics) == {"wer", "cer"}
    for text in ("run_ctc.py", "training_curve.png", "parameters", "hours of speech"):
        assert text in card.text
    assert (output / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert str(output.parent) not in card.text, "a path of this machine in the card"


EVERYTHING_RANDOM = {
    "hidden_dropout": 0.3,
    "speed_perturbation": 0.1,
    "gain": 6,
    "noise_share": 0.4,
    "codec_share": 0.3,
    "spec_augment": "0.5",
    "dataloader_num_workers": 2,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "save_steps": 1,
    "save_total_limit": 2,
}


def run_and_kill(arguments: list[str], checkpoints: Path, after_step: int, delay: float) -> None:
    """Starts the script and ends it by SIGKILL a moment after the checkpoint of a step has appeared."""
    process = start_run_ctc_in_a_fork(arguments, os.devnull, before=os.setsid)  # with its data workers
    while process.is_alive() and not any(int(path.name[5:]) >= after_step for path in checkpoints.glob("step-*")):
        time.sleep(0.005)
    time.sleep(delay)
    assert process.is_alive(), "the run was over before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def test_a_run_killed_at_any_step_ends_with_the_same_weights(dataset, tmp_path):
    """Law 4 on one process: killed five times, in epochs and between them, with everything random and workers."""
    run(*tiny(dataset, tmp_path / "whole", **EVERYTHING_RANDOM))
    checkpoints = tmp_path / "parts" / "checkpoints"
    arguments = tiny(dataset, tmp_path / "parts", **EVERYTHING_RANDOM)
    rng = np.random.default_rng(0)
    steps_of_an_epoch = max(int(path.name[5:]) for path in (tmp_path / "whole" / "checkpoints").glob("step-*")) // 3
    for number, after_step in enumerate((1, 3, steps_of_an_epoch, steps_of_an_epoch + 2, 2 * steps_of_an_epoch)):
        resume = ["--resume"] if number else []
        run_and_kill([*arguments, *resume], checkpoints, after_step, delay=rng.uniform(0, 0.05))
    run(*arguments, "--resume")
    whole, parts = (load_file(last_checkpoint(tmp_path / name) / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    fresh = load_file(tmp_path / "whole" / "checkpoints" / "start" / "model.safetensors")
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)
    assert len(list(checkpoints.glob("step-*"))) == 2


def test_eval_only_measures_a_saved_model(dataset, trained, tmp_path):
    output, printed = trained
    again = run(*tiny(dataset, tmp_path / "unused"), "--eval_only", f"--model={output}")
    line = next(line for line in printed.splitlines() if line.startswith("test: WER"))
    assert line in again
    assert not (tmp_path / "unused" / "config.json").exists()


def test_bad_utterances_are_left_out_named_and_counted(dataset, rows, tmp_path):
    """Law 6: silence and noise pass, what cannot be used is named with its reason, and the run goes on to its end."""
    folder = tmp_path / "speech"
    shutil.copytree(dataset, folder)
    wave = io.BytesIO()
    soundfile.write(wave, np.zeros(16_000, np.float32), 16_000, format="WAV")
    long_recording = io.BytesIO()
    soundfile.write(long_recording, np.zeros(30 * 16_000, np.float32), 16_000, format="WAV")
    not_a_number = io.BytesIO()
    soundfile.write(not_a_number, np.full(16_000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    bad = [
        ("no-audio", b"this is not audio", "one"),
        ("nothing", None, "two"),
        ("empty-file", b"", "three"),
        ("not-numbers", not_a_number.getvalue(), "four"),
        ("empty-transcript", rows[0][1], "  "),
        ("no-transcript", rows[0][1], None),
        ("foreign-transcript", rows[0][1], "раз два"),
        ("too-long", rows[0][1], "far too many characters for one short clip " * 10),
        ("truncated", rows[1][1][: len(rows[1][1]) // 2], "five"),
        ("long-audio", long_recording.getvalue(), "six"),
        ("silence", wave.getvalue(), "six"),
        ("one-strange-character", rows[2][1], rows[2][2] + " ∂"),
    ]
    write_shard(folder / "train-00002-of-00002.parquet", bad)
    output = tmp_path / "model"
    printed = run(*tiny(folder, output, validation_share=0.0, validation=["test"], max_seconds=20))
    skipped = json.loads((output / "skipped.json").read_text())["utterances"]
    expected = {name for name, _, _ in bad[:8]} | {"long-audio"}
    assert set(skipped) - {"truncated"} == expected
    assert "30.0 s, longer than max_seconds, 20" in skipped["long-audio"]
    for name in expected:
        assert f"left out: {name}" in printed
    assert "'∂' (1)" in (output / "README.md").read_text()
    assert "inf" not in json.dumps(json.loads((output / "history.json").read_text())).lower()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["recipes/no_such_recipe.yaml"], "there is no recipe"),
        (["recipes/demo_english.yaml", "--hiden_size=3"], "hiden_size"),
        (["recipes/demo_english.yaml", "--rnn_type=transformer"], "rnn_type"),
        (
            ["recipes/demo_english.yaml", "--num_train_epochs=0"],
            "num_train_epochs: found 0, expected a number of at least 1",
        ),
        (["recipes/demo_english.yaml", "--learning_rate=fast"], "learning_rate"),
        (["recipes/demo_english.yaml", "--conv_kernel_sizes", "11"], "conv_kernel_sizes"),
        (["recipes/demo_english.yaml", "--dataset=./no_such_folder"], "no data set folder ./no_such_folder"),
        (["recipes/demo_english.yaml", "--train", "klingon/train"], "klingon"),
        (["recipes/demo_english.yaml", "--train", "english/trian"], "trian"),
        (["recipes/demo_english.yaml", "--text_column=transcript"], "no column 'transcript'"),
        (["recipes/demo_english.yaml", "--push_to_hub"], "hub_model_id"),
        (["recipes/demo_english.yaml", "--save_steps=0"], "save_steps: found 0, expected a number of at least 1"),
        (["recipes/demo_english.yaml", "--noise=./no_such_folder"], "there is no folder ./no_such_folder"),
        (["recipes/demo_english.yaml", "--noise=demo::no_such_split"], "no_such_split"),
        (["recipes/demo_english.yaml", "--eval_only"], "needs model"),
        (["recipes/demo_english.yaml", "--resume", "--output_dir=./no_such_run"], "no checkpoint to resume from"),
        (["recipes/demo_english.yaml", "--tokenizer=./no_such_tokenizer"], "no_such_tokenizer"),
        (["--dataset="], "dataset"),
    ],
)
def test_bad_settings_stop_before_any_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = [] if any("output_dir" in argument for argument in arguments) else [f"--output_dir={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        run_ctc.main([*arguments, *output])
    printed = "".join(capsys.readouterr())
    assert message in f"{stop.value} {printed}"
    assert "feature statistics" not in printed
    assert "training:" not in printed


@pytest.fixture
def no_accelerator():
    """As in a new process; the settings of the one that is there would stay."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.skipif(not emulates_bf16("AVX2"), reason="not an x86 processor")
@pytest.mark.parametrize("option, of_the_launcher", [(["--mixed_precision=bf16"], "no"), ([], "bf16")])
def test_bf16_stops_on_a_processor_without_it(option, of_the_launcher, no_accelerator, monkeypatch):
    """Asked for here, or by `accelerate launch` and its configuration, which speak through the environment."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", of_the_launcher)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(SystemExit, match="use --mixed_precision=no"):
        run_ctc.main(["recipes/demo_english.yaml", *option])


def test_fine_tuning_needs_a_tokenizer_that_fits(trained, dataset, tmp_path):
    output, _ = trained
    broken = tmp_path / "broken"
    shutil.copytree(output, broken)
    vocabulary = json.loads((broken / "vocab.json").read_text())
    (broken / "vocab.json").write_text(json.dumps(vocabulary | {"é": len(vocabulary)}))
    printed = run(*tiny(dataset, tmp_path / "unused"), f"--model={broken}", expect=1)
    assert "29 output symbols, but its tokenizer has 30" in printed
    assert "Traceback" not in printed


def test_fine_tuning_goes_on_from_the_saved_weights(trained, dataset, tmp_path):
    output, _ = trained
    run(*tiny(dataset, tmp_path, max_steps=1), f"--model={output}")
    start = DeepSpeech2ForCTC.from_pretrained(tmp_path / "checkpoints" / "start")
    assert torch.equal(start.ctc_head.weight, DeepSpeech2ForCTC.from_pretrained(output).ctc_head.weight)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 29


def test_fine_tuning_to_another_alphabet_keeps_the_letters_that_both_have(trained, dataset, tmp_path):
    output, _ = trained
    printed = run(*tiny(dataset, tmp_path, max_steps=1, tokenizer="tokenizer/english_bigram"), f"--model={output}")
    assert "29 symbols keep their output weights" in printed
    start, old = (
        DeepSpeech2ForCTC.from_pretrained(tmp_path / "checkpoints" / "start"),
        DeepSpeech2ForCTC.from_pretrained(output),
    )
    size = len(AutoTokenizer.from_pretrained(tmp_path))
    assert start.config.vocab_size == start.ctc_head.out_features == size > 29
    assert torch.equal(start.deepspeech2.layers[0].rnn.weight_hh, old.deepspeech2.layers[0].rnn.weight_hh)
    both = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (tmp_path, output)]
    for letter in ("<pad>", "|", "e", "'"):
        new, saved = (vocabulary[letter] for vocabulary in both)
        assert torch.equal(start.ctc_head.weight[new], old.ctc_head.weight[saved])
        assert start.ctc_head.bias[new] == old.ctc_head.bias[saved]
    assert "with another alphabet (29 symbols keep" in (tmp_path / "README.md").read_text()


def test_fine_tuning_changes_only_the_settings_that_are_given(trained, dataset, tmp_path):
    """A live model begins with the forward direction of one that reads both; its row convolution does nothing yet."""
    output, _ = trained
    live = ["--bidirectional=False", "--lookahead=4", "--conv_strides=4x2", "--hidden_dropout=0.1"]
    run(*tiny(dataset, tmp_path, max_steps=1), *live, f"--model={output}")
    start = DeepSpeech2ForCTC.from_pretrained(tmp_path / "checkpoints" / "start")
    old = DeepSpeech2ForCTC.from_pretrained(output)
    assert (start.config.lookahead, start.config.bidirectional, start.config.hidden_dropout) == (4, False, 0.1)
    assert start.config.conv_strides[0][1] == 2 and start.config.rnn_type == old.config.rnn_type
    rnn, old_rnn = start.deepspeech2.layers[0].rnn, old.deepspeech2.layers[0].rnn
    assert torch.equal(rnn.weight_hh[0], old_rnn.weight_hh[0]) and len(rnn.weight_hh) == 1
    assert torch.equal(rnn.norm.running_var, old_rnn.norm.running_var)
    assert torch.equal(start.ctc_head.weight, old.ctc_head.weight)
    assert (start.deepspeech2.row_convolution.weight[..., 1:] == 0).all()


def test_weights_that_do_not_fit_the_settings_stop_before_any_work(trained, dataset, tmp_path):
    output, _ = trained
    printed = run(*tiny(dataset, tmp_path, hidden_size=17), f"--model={output}", expect=1)
    assert "do not fit the settings" in printed and "weight_ih" in printed and "Traceback" not in printed
    shallow = ["--num_hidden_layers=3", "--model=checkpoints/deepspeech2-english"]
    printed = run(f"--dataset={dataset}", f"--output_dir={tmp_path}", "--validation_share=0.25", *shallow, expect=1)
    assert "no place for weights of checkpoints/deepspeech2-english: deepspeech2.layers.3" in printed
    printed = run(*tiny(dataset, tmp_path), "--normalization=utterance", f"--model={output}", expect=1)
    assert "normalization: found utterance" in printed and "Traceback" not in printed


def test_three_steps_without_a_finite_gradient_end_the_run(dataset, rows, tmp_path):
    printed = run(*tiny(dataset, tmp_path, learning_rate=1e37, save_steps=1), expect=1)
    assert printed.count("step left out; utterances: ") == 3
    assert "3 steps one after the other had no finite gradient" in printed and rows[0][0][:6] in printed
    assert "Traceback" not in printed


def test_validation_every_so_many_steps_stops_early(dataset, tmp_path):
    """A model that learns nothing does not get better: after `patience` validations the run is over, and says why."""
    printed = run(*tiny(dataset, tmp_path, learning_rate=1e-12, num_train_epochs=50, eval_steps=2, patience=3))
    validations = json.loads((tmp_path / "history.json").read_text())["validation"]
    assert [row["step"] for row in validations] == [2, 4, 6, 8]
    assert "no better for 3 validations" in printed


def test_several_data_sets_with_weights(dataset, tmp_path):
    printed = run(
        *tiny(
            "./no/default",
            tmp_path,
            train=[f"{dataset}::train*2"],
            test=[f"{dataset}::test"],
            validation=[f"{dataset}::test"],
        )
    )
    assert "20 utterances" in printed
    for file in ("README.md", "run.json"):
        assert str(dataset.parent) not in (tmp_path / file).read_text(), "a path of this machine"


def test_audio_folder_and_the_papers_optimiser(rows, tmp_path):
    """A user's own folder of files with metadata.csv, trained by Nesterov SGD as in the paper."""
    folder = tmp_path / "my speech"
    (folder / "train").mkdir(parents=True)
    lines = ["file_name,text"]
    for name, content, text in rows:
        (folder / "train" / f"{name}.ogg").write_bytes(content)
        lines.append(f"{name}.ogg,{text}")
    (folder / "train" / "metadata.csv").write_text("\n".join(lines) + "\n")
    printed = run(
        *tiny(folder, tmp_path / "model", test=["train"], optim="sgd", learning_rate=1e-4, num_train_epochs=1),
    )
    assert "train: WER" in printed


def run_on_two(*arguments: str, expect: int = 0) -> str:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "run_ctc.py"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=300, cwd=REPOSITORY
    )
    assert (done.returncode != 0) == bool(expect), done.stdout + done.stderr
    return done.stdout + done.stderr


def losses(output: Path) -> list[float]:
    """Of every step."""
    return [row["loss"] for row in json.loads((output / "history.json").read_text())["training"]]


def test_two_processes_train_like_one(dataset, rows, tmp_path):
    """The same losses over 50 steps; what either process leaves out is in the report of both."""
    folder = tmp_path / "speech"
    shutil.copytree(dataset, folder)
    bad = [(f"bad-{number}", b"this is not audio", "one") for number in range(4)]
    write_shard(folder / "train-00002-of-00002.parquet", bad)
    changes = {"num_train_epochs": 30, "max_steps": 50, "learning_rate": 1e-3, "logging_steps": 1}
    run(*tiny(folder, tmp_path / "one", per_device_train_batch_size=6, **changes))
    printed = run_on_two(*tiny(folder, tmp_path / "two", per_device_train_batch_size=3, **changes))
    assert "2 × cpu" in printed and "on 4 utterances" in printed
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 50
    assert np.allclose(one, two, rtol=1e-4)
    skipped = [json.loads((tmp_path / name / "skipped.json").read_text())["utterances"] for name in ("one", "two")]
    assert skipped[0] == skipped[1] and len(skipped[0]) > 1


def test_accumulated_batches_train_like_one(dataset, tmp_path):
    """2 × 8 = 16, exactly where nothing but the gradients connects the utterances: BatchNorm sees each batch alone."""
    changes = {"num_train_epochs": 30, "max_steps": 20, "learning_rate": 1e-3, "logging_steps": 1, "batch_norm": "off"}
    run(*tiny(dataset, tmp_path / "whole", per_device_train_batch_size=6, **changes))
    run(*tiny(dataset, tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=3, **changes))
    assert np.allclose(losses(tmp_path / "whole"), losses(tmp_path / "parts"), rtol=1e-5)


@pytest.mark.parametrize("rnn_type, share, reduction", [("gru", "true", "mean"), ("lstm", "false", "sum")])
def test_two_processes_that_share_the_model_out_train_like_one(dataset, tmp_path, rnn_type, share, reduction):
    """Each direction and half of the output layer on a process of its own: the same losses over 20 steps."""
    changes = {"num_train_epochs": 6, "max_steps": 20, "num_hidden_layers": 2, "learning_rate": 1e-3, "logging_steps": 1}
    changes |= {"rnn_type": rnn_type, "share_input_weights": share, "ctc_loss_reduction": reduction, "max_grad_norm": 0.5}
    run(*tiny(dataset, tmp_path / "one", **changes))
    run_on_two(*tiny(dataset, tmp_path / "two", tensor_parallel_size=2, **changes))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20
    assert np.allclose(one, two, rtol=1e-5)


def test_memory_does_not_grow_with_the_epochs(dataset, tmp_path):
    """After 20 epochs at most 1.05 times what it was after 2."""
    run(*tiny(dataset, tmp_path, num_train_epochs=20, eval_epochs=20, logging_steps=1, dataloader_num_workers=1))
    memory = {row["epoch"]: row["memory_gb"] for row in json.loads((tmp_path / "history.json").read_text())["training"]}
    assert memory[19] <= 1.05 * memory[1]


def test_other_data_amid_an_epoch_is_refused_and_an_earlier_run_is_kept(dataset, tmp_path):
    """What was read so far and what is to come would be parts of different epochs, with utterances lost or repeated."""
    run(*tiny(dataset, tmp_path, max_steps=5))
    CTCBeamSearchDecoder(AutoTokenizer.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    printed = run(*tiny(dataset, tmp_path, max_steps=7, per_device_train_batch_size=2), "--resume", expect=1)
    assert "stands amid an epoch of other data, or of another" in printed and "Traceback" not in printed
    printed = run(*tiny(dataset, tmp_path, max_steps=1))
    assert f"earlier run are now in {tmp_path / 'checkpoints.before-1'}" in printed
    assert (tmp_path / "checkpoints.before-1" / "step-00000005").exists()
    assert "decoder of the earlier model is now" in printed and not has_decoder(tmp_path), "tuned for other weights"


def test_from_the_hub_to_the_hub(dataset, tmp_path):
    """Streams a data set from a Hub, and publishes the finished model there; the recipe's paths are names."""
    upload = f"""
from huggingface_hub import HfApi
HfApi().create_repo("tester/speech", repo_type="dataset")
HfApi().upload_folder(repo_id="tester/speech", repo_type="dataset", folder_path={str(dataset)!r})
"""
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        subprocess.run([sys.executable, "-c", upload], env=environment, check=True, timeout=120)
        arguments = ["--push_to_hub", "--hub_model_id=tester/digits"]
        run(*tiny("tester/speech", tmp_path / "model", num_train_epochs=1), *arguments, environment=environment)
        files = hub.files("tester/digits")
        read = [request for request in hub.requests if "/datasets/tester/speech/resolve/" in request]
    assert {"README.md", "model.safetensors", "config.json", "modeling_deepspeech2.py", "training_curve.png"} <= set(files)
    assert not any(name.startswith(("checkpoints/", "run_ctc/")) for name in files)
    assert any("train-00000" in request for request in read) and any("test-00000" in request for request in read)
