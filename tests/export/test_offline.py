"""The offline graph in onnxruntime: every configuration gives the model's own logits, and holds to its laws."""

import copy
import itertools

import numpy as np
import pytest
import torch
from small_models import HOP, exact_features, open_session, random_extractor, random_model

from modeling_deepspeech2.export.offline import offline_graph


LENGTHS = [1000, 777, 41, 1]
ACTIVATIONS = [
    {"hidden_act": "tanh"},
    {"hidden_act": "clipped_relu"},
    {"hidden_act": "clipped_relu", "activation_clip": 0.7},
]
DIRECTIONS = [
    {"bidirectional": True},
    {"bidirectional": True, "share_input_weights": False},
    {"bidirectional": False},
    {"bidirectional": False, "lookahead": 3},
]


@pytest.fixture(scope="module")
def noise() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(scale=0.1, size=length).astype(np.float32) for length in LENGTHS]


def padded(waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
    """A batch with NaN in the padding."""
    shape = len(waveforms), max(map(len, waveforms))
    samples, mask = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int64)
    for row, waveform in enumerate(waveforms):
        samples[row, : len(waveform)], mask[row, : len(waveform)] = waveform, 1
    return {"input_values": samples, "attention_mask": mask}


def expected_logits(model, extractor, waveforms: list[np.ndarray], dtype=torch.float64) -> np.ndarray:
    """The model's own, on the features of double precision."""
    features = [exact_features(extractor, waveform) for waveform in waveforms]
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(one) for one in features])
    mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
    with torch.inference_mode():
        return copy.deepcopy(model).to(dtype)(batch.to(dtype), mask).logits.numpy()


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest logit."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected[expected > -1e3]).max())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: "-".join(map(str, one.values())))
@pytest.mark.parametrize("unit", ["gru", "lstm", "rnn"])
def test_every_configuration_gives_the_logits_of_the_model(noise, unit, activation):
    modes = itertools.cycle(itertools.product(["sequence", "step", "off"], ["training_set", "utterance", "none"]))
    for (directions, conv_type), (batch_norm, normalization) in zip(itertools.product(DIRECTIONS, ["2d", "1d"]), modes):
        model = random_model(rnn_type=unit, conv_type=conv_type, batch_norm=batch_norm, **activation, **directions)
        extractor = random_extractor(normalization)
        (found,) = open_session(offline_graph(model, extractor)).run(None, padded(noise))
        assert np.isfinite(found).all()
        expected = expected_logits(model, extractor, noise)
        # A recurrence without bounds makes more of rounding than that; torch in float32 tells how much more.
        rounding = worst(expected_logits(model, extractor, noise, torch.float32), expected)
        assert worst(found, expected) <= max(1e-5, 2 * rounding), (directions, conv_type, batch_norm, normalization)


@pytest.mark.parametrize("normalization", ["training_set", "utterance"])
def test_logits_depend_neither_on_the_batch_nor_on_the_mask_that_is_left_out(noise, normalization):
    model = random_model(bidirectional=False, lookahead=3)
    session = open_session(offline_graph(model, random_extractor(normalization)))
    (together,) = session.run(None, padded(noise))
    for row, waveform in enumerate(noise):
        (alone,) = session.run(None, {"input_values": waveform[None]})
        assert alone.shape[1] == -(-(len(waveform) // HOP + 1) // 3)
        np.testing.assert_allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5 * np.abs(alone).max())


def test_padded_frames_say_blank(noise):
    model = random_model(pad_token_id=5)
    (logits,) = open_session(offline_graph(model, random_extractor())).run(None, padded([*noise, noise[0][:0]]))
    assert (logits[2, 1:].argmax(-1) == 5).all() and (logits[4].argmax(-1) == 5).all()
    assert np.exp(logits[4] - logits[4].max(-1, keepdims=True)).sum() == len(logits[4])  # with certainty


def test_gain_multiplies_the_samples(noise):
    model, extractor = random_model(), random_extractor()
    sessions = [open_session(offline_graph(model, extractor, gain=gain)) for gain in (1.0, 0.25)]
    plain, scaled = (
        session.run(None, {"input_values": factor * noise[0][None]})[0] for session, factor in zip(sessions, (1, 4))
    )
    np.testing.assert_allclose(plain, scaled, atol=1e-4)
    assert worst(sessions[1].run(None, {"input_values": noise[0][None]})[0], plain) > 1e-3


def test_directions_with_one_matrix_store_it_once():
    sizes = [
        offline_graph(random_model(hidden_size=64, share_input_weights=share), random_extractor()).ByteSize()
        for share in (True, False)
    ]
    inputs, biases = 4 * 6 + 64, 2 * 2  # of both layers; ONNX has two biases for each gate
    assert sizes[1] - sizes[0] == pytest.approx(4 * 3 * 64 * (inputs + biases), abs=500)
