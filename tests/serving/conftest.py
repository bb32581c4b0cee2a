"""The published live model, loaded once, and a server of it in a thread of the tests' own process."""

import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from good_client import pcm
from transformers import AutoTokenizer

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.training.publishing import save_repository
from modeling_deepspeech2.transcription.recordings import transcribe


REPOSITORY = Path(__file__).parent.parent.parent
LIVE_MODEL = REPOSITORY / "checkpoints" / "deepspeech2-english-live"


@pytest.fixture(scope="session")
def live_model():
    """Model, processor and decoder of the published live folder."""
    processor = DeepSpeech2Processor.from_pretrained(LIVE_MODEL)
    decoder = CTCBeamSearchDecoder.from_pretrained(LIVE_MODEL, processor.tokenizer, beam_width=50)
    return DeepSpeech2ForCTC.from_pretrained(LIVE_MODEL).eval().fold_batch_norm(), processor, decoder


@pytest.fixture(scope="session")
def good(live_model, clips):
    """What a good client sends, and the text that it must get."""
    model, processor, _ = live_model
    content = pcm(clips[1].waveform[:24_000])
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
    return content, " ".join(one.text for one in transcribe(model, processor, samples))


@pytest.fixture(scope="session")
def mandarin_model(make_tiny_model, processor):
    """A small random model that can transcribe streams, with Mandarin's characters."""
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "mandarin")
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "lookahead": 2}
    model = make_tiny_model(bidirectional=False, **settings)
    return model, DeepSpeech2Processor(processor.feature_extractor, tokenizer)


class _Tracebacks(logging.Handler):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


@pytest.fixture
def no_tracebacks():
    """What a client does wrong is no error of the server's: no log holds a traceback."""
    handler, names = _Tracebacks(), ("", "uvicorn", "uvicorn.error")  # uvicorn's do not go on to the root
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield
    for name in names:
        logging.getLogger(name).removeHandler(handler)
    assert not handler.found, handler.found[0]


class RunningServer(NamedTuple):
    url: str
    token: str
    headers: dict[str, str]
    wyoming_port: int
    service: object


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_model_folder, mandarin_model):
    """The live model, a small bidirectional one and a small Mandarin one, best path, with a token, short patience, and the
    Wyoming port."""
    from modeling_deepspeech2.serving.limits import Limits
    from modeling_deepspeech2.serving.server import Server
    from modeling_deepspeech2.serving.service import Service

    folder = tmp_path_factory.mktemp("models") / "tiny_model"
    folder.symlink_to(tiny_model_folder, target_is_directory=True)
    save_repository(folder.with_name("tiny_mandarin"), *mandarin_model)
    limits = Limits(
        max_streams=16, max_mb=1.0, max_file_seconds=60.0, upload_seconds=2.0, idle_seconds=3.0, patience_seconds=3.0
    )
    token = "a token of the tests alone".replace(" ", "-")
    service = Service([str(LIVE_MODEL), str(folder), str(folder.with_name("tiny_mandarin"))], "off", limits)
    running = Server(service, port=0, token=token, wyoming=0)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 400
    while not (running.started and service.is_ready and running.wyoming):
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    headers = {"Authorization": f"Bearer {token}"}
    yield RunningServer(f"http://127.0.0.1:{running.port}", token, headers, running.wyoming_port, service)
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
