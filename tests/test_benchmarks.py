"""What the recurrence is measured against computes the same thing, and the command that measures runs."""

import subprocess
import sys

import pyarrow.parquet
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from benchmarks import memory, scaling
from benchmarks.decoding import exactness
from benchmarks.gpu import gpu
from benchmarks.measure import saved_bytes
from benchmarks.rivals import FoldedPadded, PlainLoop, UsualConvolution, UsualPort
from modeling_deepspeech2 import (
    CTCBeamSearchDecoder,
    DeepSpeech2Config,
    DeepSpeech2FeatureExtractor,
    DeepSpeech2ForCTC,
    DeepSpeech2Processor,
)
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.modeling_deepspeech2 import DeepSpeech2ConvolutionLayer
from modeling_deepspeech2.packed_frames import PackedFrames
from modeling_deepspeech2.training.evaluation import evaluate
from modeling_deepspeech2.training.publishing import save_repository


@pytest.mark.parametrize("rival", [PlainLoop, FoldedPadded])
def test_rivals_compute_the_same(rival):
    torch.manual_seed(0)
    ours = BatchNormRNN(5, 4, activation_clip=None).double()
    other = rival(5, 4, activation_clip=None).double()
    other.load_state_dict(ours.state_dict())
    frames = PackedFrames(torch.tensor([9, 7, 2]), 9)
    inputs = frames.unpack(frames.pack(torch.randn(3, 9, 5, dtype=torch.float64)))
    results = []
    for layer in (ours, other):
        rows = frames.pack(layer(inputs, frames))
        rows.square().sum().backward()
        results.append([rows, *(parameter.grad for parameter in layer.parameters())])
    for one, two in zip(*results):
        assert torch.allclose(one, two, rtol=0, atol=1e-10)
    assert UsualPort(5, 4).double()(inputs, frames).shape == (3, 9, 4)


def test_usual_convolution_is_ours_without_padding():
    """The rival differs in nothing but the frames that it counts."""
    torch.manual_seed(0)
    config = DeepSpeech2Config()
    ours, rival = DeepSpeech2ConvolutionLayer(config, 0, 1), UsualConvolution(config, 0, 1)
    rival.load_state_dict(ours.state_dict(), strict=False)
    spectrograms, lengths = torch.randn(2, 1, 12, 161), torch.tensor([12, 12])
    (expected, frames), (found, same) = ours(spectrograms, lengths), rival(spectrograms, lengths)
    assert torch.equal(frames.lengths, same.lengths)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rnn_type", ["rnn", "gru", "lstm"])
def test_memory_is_linear_in_frames(rnn_type):
    """A training step on utterances of twice the length keeps at most 2.2 times the memory for its backward pass."""
    layer = BatchNormRNN(32, 32, rnn_type=rnn_type)

    def kept(num_frames: int) -> int:
        frames = PackedFrames(torch.full((4,), num_frames), num_frames)
        return saved_bytes(lambda: layer(torch.randn(4, num_frames, 32), frames))

    assert 1.5 <= kept(400) / kept(200) <= 2.2


def test_the_command_prints_a_table():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "features", "--rounds", "1"], capture_output=True, text=True, check=True
    )
    assert "| features, complete, one core |" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
def test_the_gpu_benchmark_runs_without_a_gpu():
    """The same rows from a tiny network, so that the command works when a GPU is there at last."""
    rows = {what: figure for what, figure, _ in gpu(rounds=1)}
    assert "recurrence of 5 × BiGRU-800, clipped" in rows
    names = ("ours, clipped", "ours, tanh", "nn.GRU, padded, without BatchNorm", "usual port")
    for name in names:
        assert "of the product rate" in rows[f"BiGRU-16, 2 utterances, T=20, training step, float32: {name}"]
    for name in ("clipped", "tanh", "usual port"):
        assert "s of audio a second" in rows[f"2 × BiGRU-16, 2 × 1 s, bf16, training step: {name}"]


def test_beam_search_is_exact_where_it_is_measured(tmp_path):
    """The row of the benchmark that compares with enumeration: ours finds every best labelling."""
    rows = {what.rpartition(", ")[2]: figure for what, figure, _ in exactness(tmp_path, cases=30)}
    assert rows["ours"] == "30"


def test_results_are_those_of_the_evaluation(tmp_path):
    """Clip by clip, through the folded model, as in batches during training; with a decoder as well, where there is one."""
    torch.manual_seed(0)
    clips = pyarrow.parquet.read_table("demo/speech/english/test-00000-of-00001.parquet").slice(0, 6)
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(clips, tmp_path / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "recipe.yaml").write_text(f"dataset: {tmp_path / 'data'}\ntest: [test]\n")
    tokenizer = AutoTokenizer.from_pretrained("tokenizer/english")
    processor = DeepSpeech2Processor(DeepSpeech2FeatureExtractor(normalization="utterance"), tokenizer)
    shape = {"conv_channels": [4], "conv_kernel_sizes": [[11, 5]], "conv_strides": [[4, 3]]}
    model = DeepSpeech2ForCTC(DeepSpeech2Config(**shape, num_hidden_layers=1, hidden_size=16, vocab_size=len(tokenizer)))
    CTCBeamSearchDecoder(tokenizer).save_pretrained(tmp_path / "model")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    expected = evaluate(model, processor, SpeechData(str(tmp_path / "data"), ["test"]), Accelerator(cpu=True))
    command = [sys.executable, "-m", "benchmarks.results", str(tmp_path / "model"), str(tmp_path / "recipe.yaml")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    best_path, beam = (line for line in lines if line.startswith("| test |"))
    assert f"| best path | {expected.wer:.1%} | {expected.cer:.1%} |" in best_path
    assert "| beam search |" in beam


def test_a_step_is_counted_in_proportion():
    """Twice the utterances are twice the operations; a process alone waits for nobody, and messages take longer for more."""
    config = DeepSpeech2Config(conv_channels=[4, 4], num_hidden_layers=2, hidden_size=16, hidden_act="tanh")
    one, two = (scaling.operations_of_a_step(config, torch.ones(count, 40, dtype=torch.long)) for count in (2, 4))
    assert two == 2 * one > 0
    counts = scaling.Counts.of(config, 2, 40)
    waits = [scaling.exchanging(counts, scaling.GPU, processes) for processes in (1, 2, 8)]
    assert waits[0] == 0 < waits[1] < waits[2]


def test_memory_is_measured_of_calls_and_of_a_stream(make_tiny_model, processor, tmp_path, capsys):
    save_repository(tmp_path, make_tiny_model(bidirectional=False, lookahead=2), processor)
    memory.main([str(tmp_path), "--calls=20", "--hours=0.005"])
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 20 calls of the pipeline", "| 0.005 hours of a live stream"]
    assert all(0.5 < float(row.split(" | ")[-1].rstrip(" |")) < 2 for row in rows)
