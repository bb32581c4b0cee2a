"""A wider model says what the narrow one says, before it learns on."""

import pytest
import torch

from modeling_deepspeech2.training.widening import widen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rnn_type": "lstm", "hidden_act": "tanh"},
        {"rnn_type": "rnn", "bidirectional": False, "lookahead": 3},
        {"share_input_weights": False, "num_hidden_layers": 3},
        {"batch_norm": "off"},
    ],
    ids=lambda settings: " ".join(settings) or "default",
)
def test_the_wider_model_gives_the_same_logits(make_tiny_model, settings):
    model = make_tiny_model(**settings).eval()
    features = torch.randn(2, 60, model.config.num_frequency_bins)
    mask = (torch.arange(60) < torch.tensor([[60], [41]])).long()
    wide = widen(model, model.config.hidden_size + 5, noise=0.0).eval()
    assert wide.config.hidden_size == model.config.hidden_size + 5
    with torch.no_grad():
        torch.testing.assert_close(wide(features, mask).logits, model(features, mask).logits, atol=1e-4, rtol=1e-4)


def test_noise_parts_the_copies(make_tiny_model):
    model = make_tiny_model()
    weight = widen(model, 2 * model.config.hidden_size).state_dict()["deepspeech2.fully_connected.linear.weight"]
    assert len(weight.unique(dim=0)) == len(weight)


def test_a_narrower_model_is_refused(make_tiny_model):
    model = make_tiny_model()
    with pytest.raises(ValueError, match="hidden_size must be above"):
        widen(model, model.config.hidden_size)
