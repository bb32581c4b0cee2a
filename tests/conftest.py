"""What several test modules share: clips of the bundled speech, and a small model saved as a Hub repository."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, settings
from transformers import AutoTokenizer


if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # test files side by side share the cores, as do the processes that they start
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)

from modeling_deepspeech2 import (
    CTCBeamSearchDecoder,
    DeepSpeech2Config,
    DeepSpeech2FeatureExtractor,
    DeepSpeech2ForCTC,
    DeepSpeech2Processor,
)
from modeling_deepspeech2.language_models.estimation import build
from modeling_deepspeech2.training.publishing import save_repository


REPOSITORY = Path(__file__).parent.parent
NUM_CLIPS = 8

# Where another process keeps a core busy, two threads wait for each other at every small operation: minutes for seconds.
torch.set_num_threads(1)

# Nothing fails because the machine is busy, and a failure belongs to a change: the examples are the same in every run.
# `--hypothesis-profile=default` draws new ones.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


class Clip(NamedTuple):
    """One utterance of the bundled test split."""

    name: str
    waveform: np.ndarray  # float32, 16 kHz
    text: str


@pytest.fixture(scope="session")
def encoded_clips() -> list[tuple[str, bytes]]:
    """Name and Ogg Opus file of the first utterances of the bundled English test split."""
    table = pyarrow.parquet.read_table(next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet")))
    return [(row["audio"]["path"], row["audio"]["bytes"]) for row in table.slice(0, NUM_CLIPS).to_pylist()]


@pytest.fixture(scope="session")
def clips(encoded_clips) -> list[Clip]:
    """The same utterances decoded, by soundfile alone, with their transcripts."""
    table = pyarrow.parquet.read_table(next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet")))
    found = []
    for (name, content), text in zip(encoded_clips, table.column("text").to_pylist()):
        waveform, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert rate == 16_000 and waveform.ndim == 1
        found.append(Clip(name, waveform, text))
    return found


@pytest.fixture(scope="session")
def processor(clips) -> DeepSpeech2Processor:
    """English characters, and features with the statistics of the clips."""
    extractor = DeepSpeech2FeatureExtractor(normalization="training_set").fit(clip.waveform for clip in clips)
    return DeepSpeech2Processor(extractor, AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "english"))


@pytest.fixture(scope="session")
def make_tiny_model(clips, processor) -> Callable[..., DeepSpeech2ForCTC]:
    """A function that makes a small random model in evaluation mode; its arguments are fields of the configuration.

    The running averages of BatchNorm are those of the clips, and the output layer is drawn wide, so that almost every
    frame has a symbol of its own: the transcripts are long noise, and change with the slightest shift of a frame.
    """

    def make(**settings) -> DeepSpeech2ForCTC:
        torch.manual_seed(0)
        defaults = {
            "vocab_size": len(processor.tokenizer),
            "pad_token_id": processor.tokenizer.pad_token_id,
            "conv_channels": (4, 4),
            "num_hidden_layers": 2,
            "hidden_size": 32,
        }
        model = DeepSpeech2ForCTC(DeepSpeech2Config(**(defaults | settings)))
        inputs = processor.feature_extractor([clip.waveform for clip in clips], sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            norms = [module for module in model.modules() if hasattr(module, "running_mean")]
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
            model.train()(**inputs)
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
            model.ctc_head.weight.normal_(std=0.5)
            # Around their own mean: else one symbol would win in most frames.
            valid = inputs.attention_mask[:, :: model.config.time_stride].bool()
            hidden = model.eval().deepspeech2(**inputs).last_hidden_state[valid]
            model.ctc_head.bias.copy_(-(hidden @ model.ctc_head.weight.T).mean(0))
        return model

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, make_tiny_model, processor) -> Path:
    """A folder as `run_ctc.py` leaves it and as it stands on the Hub, with a small random bidirectional model."""
    folder = tmp_path_factory.mktemp("tiny_model")
    save_repository(folder, make_tiny_model(), processor)
    return folder


@pytest.fixture(scope="session")
def language_model_file(tmp_path_factory) -> Path:
    """A word model of a few lines, whose words the random models' noise never holds."""
    file = tmp_path_factory.mktemp("language_model") / "lm.safetensors"
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "english")
    lines = ["turn on the lamp in the kitchen", "turn off the radio", "a a b", "seventy seven", "i o u"]
    build(lines, tokenizer, "word", order=3, held_out=0)[0].save(file)
    return file


@pytest.fixture(scope="session")
def tiny_model_with_decoder(tmp_path_factory, tiny_model_folder, language_model_file) -> Path:
    """The same folder with a decoder in it."""
    folder = tmp_path_factory.mktemp("tiny_model_with_decoder")
    shutil.copytree(tiny_model_folder, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    CTCBeamSearchDecoder(tokenizer, language_model_file, alpha=1.5, beta=2.5, beam_width=20).save_pretrained(folder)
    return folder
