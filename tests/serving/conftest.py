"""The published live model, loaded once, and a server of it in a thread of the tests' own process."""

import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor


LIVE_MODEL = Path(__file__).parent.parent.parent / "checkpoints" / "deepspeech2-english-live"


@pytest.fixture(scope="session")
def live_model():
    """Model, processor and decoder of the published live folder."""
    processor = DeepSpeech2Processor.from_pretrained(LIVE_MODEL)
    decoder = CTCBeamSearchDecoder.from_pretrained(LIVE_MODEL, processor.tokenizer, beam_width=50)
    return DeepSpeech2ForCTC.from_pretrained(LIVE_MODEL).eval().fold_batch_norm(), processor, decoder


class RunningServer(NamedTuple):
    url: str
    token: str
    headers: dict[str, str]
    wyoming_port: int
    service: object


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_model_folder):
    """The live model and a small bidirectional one, best path, with a token, short patience, and the Wyoming port."""
    from modeling_deepspeech2.serving.limits import Limits
    from modeling_deepspeech2.serving.server import Server
    from modeling_deepspeech2.serving.service import Service

    folder = tmp_path_factory.mktemp("models") / "tiny_model"
    folder.symlink_to(tiny_model_folder, target_is_directory=True)
    limits = Limits(
        max_streams=16, max_mb=1.0, max_file_seconds=60.0, upload_seconds=2.0, idle_seconds=3.0, patience_seconds=3.0
    )
    token = "a token of the tests alone".replace(" ", "-")
    service = Service([str(LIVE_MODEL), str(folder)], "off", limits)
    running = Server(service, port=0, token=token, wyoming=0)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not (running.started and service.is_ready and running.wyoming):
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    headers = {"Authorization": f"Bearer {token}"}
    yield RunningServer(f"http://127.0.0.1:{running.port}", token, headers, running.wyoming_port, service)
    running.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
