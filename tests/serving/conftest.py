"""The published live model, loaded once."""

from pathlib import Path

import pytest

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor


LIVE_MODEL = Path(__file__).parent.parent.parent / "checkpoints" / "deepspeech2-english-live"


@pytest.fixture(scope="session")
def live_model():
    """Model, processor and decoder of the published live folder."""
    processor = DeepSpeech2Processor.from_pretrained(LIVE_MODEL)
    decoder = CTCBeamSearchDecoder.from_pretrained(LIVE_MODEL, processor.tokenizer, beam_width=50)
    return DeepSpeech2ForCTC.from_pretrained(LIVE_MODEL).eval().fold_batch_norm(), processor, decoder
