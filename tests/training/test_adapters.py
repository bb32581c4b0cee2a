"""LoRA adapters by peft, as `docs/clients.md` describes them: trained, saved, loaded and merged with the same logits."""

import pytest
import torch
from transformers import AutoModelForCTC


peft = pytest.importorskip("peft", reason="peft is not installed")

LAYERS = {"target_modules": ["conv", "linear", "ctc_head"], "modules_to_save": ["norm"]}
RECURRENT = {"target_modules": ["linear", "ctc_head"], "target_parameters": ["rnn.weight_ih", "rnn.weight_hh"]}


def train(model: torch.nn.Module, inputs: dict) -> None:
    """Two steps, after which every trainable parameter has moved or at least had a gradient."""
    labels = torch.tensor([[1, 2, 3], [4, 5, -100]])
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name
    model.eval()


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return (logits - expected).abs().max().item()


@pytest.fixture
def inputs(processor, clips) -> dict:
    return processor([clip.waveform for clip in clips[:2]], sampling_rate=16_000, return_tensors="pt")


@pytest.mark.parametrize("changes", [{}, {"bidirectional": False, "lookahead": 3}, {"conv_type": "1d"}], ids=str)
def test_adapters_of_layers(make_tiny_model, inputs, tmp_path, changes):
    """Convolutions, linear layers and the output layer by LoRA, every BatchNorm whole, its statistics included."""
    make_tiny_model(**changes).save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(AutoModelForCTC.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=4, **LAYERS))
    before = model.eval()(**inputs).logits
    train(model, inputs)
    trained = model(**inputs).logits
    assert difference(trained, before) > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForCTC.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(again.eval()(**inputs).logits, trained)
    merged = again.merge_and_unload()
    assert difference(merged(**inputs).logits, trained) <= 1e-4
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(AutoModelForCTC.from_pretrained(tmp_path / "merged")(**inputs).logits, merged(**inputs).logits)


@pytest.mark.parametrize("changes", [{}, {"bidirectional": False, "rnn_type": "rnn"}, {"batch_norm": "off"}], ids=str)
def test_adapters_of_recurrent_weights(make_tiny_model, inputs, tmp_path, changes):
    """W and U are parameters, not modules; the BatchNorm between them cannot be saved apart, and so the model is merged."""
    model = peft.get_peft_model(make_tiny_model(**changes), peft.LoraConfig(r=4, **RECURRENT))
    train(model, inputs)
    trained = model(**inputs).logits
    merged = model.merge_and_unload()
    assert difference(merged(**inputs).logits, trained) <= 1e-4
    merged.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCTC.from_pretrained(tmp_path)(**inputs).logits, merged(**inputs).logits)
