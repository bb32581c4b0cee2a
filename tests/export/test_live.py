"""The live graph in onnxruntime: whatever the pieces, the logits of `StreamingModel`, as soon as it has them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import exact_features, open_session, random_extractor, random_model

from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.export.live import live_graph
from modeling_deepspeech2.export.offline import offline_graph
from modeling_deepspeech2.transcription.streaming import SlidingWindow, StreamingModel


CONFIGURATIONS = [
    {"rnn_type": "gru", "hidden_act": "tanh", "lookahead": 3},
    {"rnn_type": "lstm", "hidden_act": "clipped_relu", "lookahead": 0, "conv_type": "1d"},
    {"rnn_type": "rnn", "hidden_act": "clipped_relu", "activation_clip": 0.7, "lookahead": 2, "batch_norm": "step"},
    # Windows that leave out what lies between them.
    {"conv_kernel_sizes": ((5, 3), (3, 1)), "conv_strides": ((2, 4), (1, 3)), "lookahead": 1},
]


class Live:
    """A stream in onnxruntime."""

    def __init__(self, session, start: dict[str, list[int]], batch: int = 1):
        self.session = session
        self.states = {
            name: np.zeros(shape, np.float32).repeat(batch, axis=int(name.startswith("recurrent")))
            for name, shape in start.items()
        }

    def feed(self, samples: np.ndarray, last: bool) -> np.ndarray:
        logits, *states = self.session.run(None, {"samples": samples, "last": np.array([last]), **self.states})
        self.states = dict(zip(self.states, states))
        return logits


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda one: "-".join(map(str, one.values())))
def case(request):
    model = random_model(bidirectional=False, **request.param)
    graph, start = live_graph(model, random_extractor())
    return StreamingModel(model), open_session(graph), start


@settings(max_examples=25)
@given(pieces=st.lists(st.integers(0, 300), max_size=12), seed=st.integers(0, 9))
def test_any_pieces_give_the_logits_of_the_streaming_model(case, pieces, seed):
    """Call by call the same frames: nothing comes later, and nothing is made up at the ends."""
    streaming, session, start = case
    extractor = random_extractor()
    waveform = np.random.default_rng(seed).normal(scale=0.1, size=sum(pieces)).astype(np.float32)
    # The features of one pass in double precision, cut where they are complete.
    features, half = exact_features(extractor, waveform), extractor.n_fft // 2
    window = SlidingWindow(extractor.n_fft, extractor.hop_length, half, half)
    kept, live, state, seen, taken = torch.zeros(1, half), Live(session, start), streaming.start(), 0, 0
    for index, size in enumerate([*pieces, 0]):
        piece, last = waveform[seen : seen + size], index == len(pieces)
        seen += size
        _, kept, frames = window(kept, torch.from_numpy(piece)[None], last)
        frames = frames if seen else 0
        expected, state = streaming.step(features[None, taken : taken + frames], state, last)
        taken += frames
        found = live.feed(piece[None], last)
        assert found.shape == expected.shape
        if found.size:
            assert np.abs(found - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max()
    assert taken == len(features)


def test_the_pieces_together_are_what_the_offline_graph_gives():
    model, extractor = random_model(bidirectional=False, lookahead=3), random_extractor("none")
    graph, start = live_graph(model, extractor)
    waveforms = np.random.default_rng(0).normal(scale=0.1, size=(2, 1234)).astype(np.float32)
    live = Live(open_session(graph), start, batch=2)
    parts = [live.feed(piece, False) for piece in np.array_split(waveforms, 7, axis=1)]
    found = np.concatenate([*parts, live.feed(waveforms[:, :0], True)], axis=1)
    (expected,) = open_session(offline_graph(model, extractor)).run(None, {"input_values": waveforms})
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("settings", "normalization", "reason"),
    [({}, "none", "bidirectional"), ({"bidirectional": False}, "utterance", "whole utterance")],
)
def test_what_cannot_go_live_is_refused(settings, normalization, reason):
    with pytest.raises(UserError, match=reason):
        live_graph(random_model(**settings), random_extractor(normalization))
