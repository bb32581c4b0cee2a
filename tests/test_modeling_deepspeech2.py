"""The model keeps the laws: batch invariance, padding is never read, the loss is CTC, every field does something."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.ctc_loss import ctc_loss
from modeling_deepspeech2.modeling_deepspeech2 import DeepSpeech2RowConvolution, convolve_phases


SMALL = {
    "vocab_size": 7,
    "num_frequency_bins": 21,
    "conv_channels": [3, 4],
    "conv_kernel_sizes": [[7, 5], [3, 3]],
    "conv_strides": [[2, 2], [2, 1]],
    "num_hidden_layers": 2,
    "hidden_size": 6,
}
ONE_DIRECTION = {"bidirectional": False}

VARIANTS = [
    {},
    {"conv_type": "1d"},
    {"rnn_type": "rnn"},
    {"rnn_type": "lstm", "share_input_weights": False},
    {"hidden_act": "tanh", "batch_norm": "off"},
    {"batch_norm": "step"},
    {**ONE_DIRECTION, "lookahead": 4},
    {"conv_channels": [3], "conv_kernel_sizes": [[7, 5]], "conv_strides": [[2, 3]]},
    {"conv_channels": [2, 3, 4], "conv_kernel_sizes": [[7, 5], [3, 3], [3, 3]], "conv_strides": [[2, 2], [2, 1], [2, 2]]},
]


def small_model(**changes) -> DeepSpeech2ForCTC:
    torch.manual_seed(0)
    model = DeepSpeech2ForCTC(DeepSpeech2Config(**SMALL | changes))
    # Running averages as after some training; fresh ones would hide a mistake in them.
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_(0, 0.3)
    return model


def batch(lengths: list[int], bins: int = 21, padding: float = float("nan")) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(len(lengths), max(lengths), bins)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return features.masked_fill(mask[..., None] == 0, padding), mask


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_batch_invariance(changes):
    """Law 1: at inference an utterance's logits are those that it has alone, and its padding says blank."""
    model = small_model(**changes).eval()
    lengths = [40, 17, 1, 29]
    features, mask = batch(lengths)
    logits = model(features, mask).logits
    assert torch.isfinite(logits).all()
    for i, length in enumerate(lengths):
        alone = model(features[i : i + 1, :length]).logits[0]
        assert len(alone) == math.ceil(length / model.config.time_stride)
        assert (logits[i, : len(alone)] - alone).abs().max() <= 1e-5
        assert (logits[i, len(alone) :].argmax(-1) == model.config.pad_token_id).all()
        assert (logits[i, len(alone) :].softmax(-1)[:, model.config.pad_token_id] == 1).all()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_padding_never_reaches_outputs_or_gradients(changes):
    """Laws 1 and 2: in training too, more padding and NaN in it change neither the loss nor any gradient."""
    lengths, labels = [30, 12, 21], torch.tensor([[1, 2, 2], [3, -100, -100], [4, 5, -100]])
    features, mask = batch(lengths)
    longer = torch.nn.functional.pad(features, (0, 0, 0, 13), value=float("inf"))
    results = []
    for inputs, attention_mask in ((features, mask), (longer, torch.nn.functional.pad(mask, (0, 13)))):
        model = small_model(**changes).train()
        loss = model(inputs, attention_mask, labels).loss
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        results.append((loss.detach(), *gradients, *model.buffers()))
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "field, value",
    [
        ("conv_type", "1d"),
        ("conv_channels", [3, 5]),
        ("conv_kernel_sizes", [[7, 5], [5, 3]]),
        ("conv_strides", [[2, 3], [2, 1]]),
        ("rnn_type", "rnn"),
        ("num_hidden_layers", 3),
        ("hidden_size", 8),
        ("bidirectional", False),
        ("share_input_weights", False),
        ("batch_norm", "step"),
        ("batch_norm", "off"),
        ("hidden_act", "tanh"),
        ("activation_clip", 0.1),
        ("hidden_dropout", 0.5),
        ("pad_token_id", 3),
        ("ctc_loss_reduction", "sum"),
    ],
)
def test_every_field_changes_the_result(field, value):
    features, mask = batch([30, 20])
    labels = torch.tensor([[1, 2, 4], [5, 1, -100]])
    losses = []
    for changes in ({}, {field: value}):
        torch.manual_seed(1)
        model = DeepSpeech2ForCTC(DeepSpeech2Config(**SMALL | changes)).train()
        torch.manual_seed(2)
        losses.append(model(features, mask, labels).loss.item())
    assert losses[0] != losses[1]


def test_zero_infinity_decides_what_a_transcript_too_long_costs():
    features, mask = batch([4])
    labels = torch.tensor([[1, 2, 3, 4, 5]])
    assert small_model()(features, mask, labels).loss == 0
    assert small_model(ctc_zero_infinity=False)(features, mask, labels).loss == float("inf")


def test_a_transcript_too_long_is_reported_by_utterance(caplog):
    """Law 6, for those who call the model themselves; in training the data loader names and leaves out the utterance."""
    features, mask = batch([8, 8, 8])  # four output frames each
    small_model()(features, mask, torch.tensor([[1, 2, 3, 4], [1, 1, 2, 2], [1, 2, -100, -100]]))
    (warning,) = caplog.records
    assert "utterance 1 of the batch need 6 output frames, but it has 4" in warning.message


def test_momentum_of_the_running_averages():
    model = small_model(batch_norm_momentum=0.25).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    features, mask = batch([30, 20])
    model(features, mask)
    default = small_model().train()
    default(features, mask)
    for (name, buffer), other in zip(model.named_buffers(), default.buffers()):
        assert torch.allclose((buffer - before[name]) / 0.25, (other - before[name]) / 0.1, atol=1e-4), name


def test_a_batch_that_overflows_teaches_the_running_averages_nothing():
    model = small_model().train()
    features, mask = batch([30, 20])
    model(features * 1e30, mask)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    half_kernel=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 3),
)
def test_convolution_in_phases_is_the_convolution(size, half_kernel, stride, channels):
    """Training's fast form of a strided convolution: the same outputs and gradients, whatever sizes and strides."""
    kernel = tuple(2 * half + 1 for half in half_kernel)
    conv = torch.nn.Conv2d(channels, 2, kernel, stride, half_kernel).double()
    inputs = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for outputs in (conv(inputs), convolve_phases(inputs, conv)):
        results.append([outputs, *torch.autograd.grad(outputs.square().sum(), [inputs, *conv.parameters()])])
    for expected, found in zip(*results):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_row_convolution_is_the_papers_sum():
    """r_{t,i} = Σ_j W_{i,j} h_{t+j-1,i}, j = 1 … τ + 1, with nothing beyond the end."""
    config = DeepSpeech2Config(**SMALL | ONE_DIRECTION | {"lookahead": 3})
    layer = DeepSpeech2RowConvolution(config)
    torch.nn.init.normal_(layer.weight)
    hidden = torch.randn(2, 10, 6)
    found = layer(hidden)
    for t, i in itertools.product(range(10), range(6)):
        expected = sum(layer.weight[i, 0, j] * hidden[:, t + j, i] for j in range(4) if t + j < 10)
        assert torch.allclose(found[:, t, i], expected, atol=1e-6)


@given(num_frames=st.integers(0, 300))
@settings(max_examples=20)
def test_output_lengths_are_what_the_convolutions_give(num_frames):
    model = small_model(conv_strides=[[2, 3], [2, 2]])
    lengths = model.output_lengths(torch.tensor([num_frames]))
    assert lengths.item() == math.ceil(math.ceil(num_frames / 3) / 2)
    if num_frames:
        logits = model.eval()(torch.zeros(1, num_frames, 21)).logits
        assert logits.shape[1] == lengths.item()


def test_pipeline_contract_of_frames():
    """The stock pipeline cuts at round(samples / inputs_to_logits_ratio) frames; the model must give at least as many."""
    config = DeepSpeech2Config()
    assert config.inputs_to_logits_ratio == 320
    for samples in range(0, 5_000, 7):
        assert math.ceil((samples // 160 + 1) / 2) >= round(samples / config.inputs_to_logits_ratio)


def brute_force_ctc(log_probabilities: torch.Tensor, labels: list[int], blank: int) -> float:
    """−log of the sum over all paths that collapse to the labels."""
    total = 0.0
    frames, symbols = log_probabilities.shape
    for path in itertools.product(range(symbols), repeat=frames):
        collapsed = [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]
        if collapsed == labels:
            total += math.exp(sum(log_probabilities[t, s].item() for t, s in enumerate(path)))
    return -math.log(total)


@pytest.mark.parametrize("blank", [0, 2])
def test_loss_sums_over_all_paths(blank):
    logits = torch.randn(2, 5, 3, dtype=torch.float64)
    first, second = (1, 2) if blank == 0 else (0, 1)
    labels = [[first, first], [second]]
    padded = torch.tensor([[first, first], [second, -100]])
    costs = [
        brute_force_ctc(logits[i, :length].log_softmax(-1), own, blank)
        for i, (length, own) in enumerate(zip((5, 4), labels))
    ]
    lengths = torch.tensor([5, 4])
    assert ctc_loss(logits, lengths, padded, blank, "sum").item() == pytest.approx(sum(costs), abs=1e-10)
    mean = (costs[0] / 2 + costs[1] / 1) / 2
    assert ctc_loss(logits, lengths, padded, blank, "mean").item() == pytest.approx(mean, abs=1e-10)


def test_loss_is_computed_in_double_precision():
    """Law 7: the gradient of long float32 logits equals the float64 one to float32 rounding."""
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 400, 29)
    labels = torch.randint(1, 29, (2, 80))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        ctc_loss(leaf, torch.tensor([400, 350]), labels, 0, "sum").backward()
        gradients.append(leaf.grad.double())
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6


@pytest.mark.parametrize("blank", [0, 999])
def test_loss_of_a_large_alphabet_is_that_of_the_plain_formula(blank):
    """Symbols that no transcript has are summed up before the loss; neither the cost nor any gradient may notice."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(3, 40, 1_000, dtype=torch.float64)).requires_grad_()
    lengths, counts = torch.tensor([40, 31, 25]), torch.tensor([9, 4, 0])
    labels = torch.randint(1, 999, (3, 9)).masked_fill(torch.arange(9) >= counts[:, None], -100)
    labels[0, 1] = labels[0, 0]
    loss = ctc_loss(logits, lengths, labels, blank, "sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    plain = torch.nn.functional.ctc_loss(log_probs, labels[labels >= 0], lengths, counts, blank, "sum")
    (expected,) = torch.autograd.grad(plain, logits)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-10)
    assert (gradient - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("batch_norm", ["sequence", "step", "off"])
def test_an_empty_batch_takes_part_in_the_backward_pass(batch_norm):
    """A process that ran out of data goes on with empty batches, and must not stop the others."""
    model = small_model(batch_norm=batch_norm).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss = model(torch.zeros(0, 5, 21), torch.zeros(0, 5, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long)).loss
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_bfloat16_model_transcribes():
    model = small_model().eval()
    features, mask = batch([40, 25], padding=0.0)
    expected = model(features, mask).logits
    found = model.bfloat16()(features.bfloat16(), mask).logits
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_sise": 3}, "no field 'hidden_sise'"),
        ({"rnn_type": "gro"}, "gro"),
        ({"conv_kernel_sizes": [[4, 3], [3, 3]]}, "odd"),
        ({"conv_channels": [1, 2, 3]}, "one entry for each"),
        ({"conv_channels": [], "conv_kernel_sizes": [], "conv_strides": []}, "1 to 3"),
        ({"lookahead": 5}, "bidirectional=False"),
        ({"lookahead": -1, "bidirectional": False}, "at least 0"),
        ({"hidden_dropout": 1.5}, "hidden_dropout"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_bad_settings_stop_with_the_field_named(settings, message):
    with pytest.raises(Exception, match=message):
        DeepSpeech2Config(**settings)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_folded_model_gives_the_same_logits(changes):
    model = small_model(**changes).eval().double()
    features, mask = batch([40, 17, 1, 29])
    assert torch.allclose(model.fold_batch_norm()(features, mask).logits, model(features, mask).logits, rtol=0, atol=1e-11)
    assert any("norm" in name for name, _ in model.named_modules()) == (model.config.batch_norm != "off")  # a copy
    folded = model.fold_batch_norm()
    assert torch.equal(folded.fold_batch_norm()(features, mask).logits, folded(features, mask).logits)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_int8_and_bfloat16_stay_close(changes):
    """The two documented ways to a smaller model run, and lose no more than their precision."""
    model = small_model(**changes).eval()
    features, mask = batch([40, 17, 1, 29])
    expected = model(features, mask).logits.log_softmax(-1)
    folded = model.fold_batch_norm()
    quantized = torch.ao.quantization.quantize_dynamic(folded, {torch.nn.Linear, torch.nn.GRU, torch.nn.LSTM})
    assert not any(type(module) in (torch.nn.Linear, torch.nn.RNN, torch.nn.GRU) for module in quantized.modules())
    valid = mask[:, :: model.config.time_stride].bool()
    for smaller, tolerance in ((quantized, 0.5), (folded.to(torch.bfloat16), 0.2), (model.to(torch.bfloat16), 0.2)):
        found = smaller(features, mask).logits.float().log_softmax(-1)
        assert (found - expected)[valid].abs().max() <= tolerance


def test_half_precision_keeps_the_statistics(tmp_path):
    """Law 7: a model loaded in half precision has its BatchNorm in float32."""
    small_model().save_pretrained(tmp_path)
    model = DeepSpeech2ForCTC.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.ctc_head.weight.dtype == torch.bfloat16
    norms = {name: tensor.dtype for name, tensor in model.state_dict().items() if "norm." in name}
    assert len(norms) == 5 * 4 and set(norms.values()) == {torch.float32}
    features, mask = batch([30, 20])
    assert torch.isfinite(model(features, mask, torch.tensor([[1, 2], [3, -100]])).loss)
    folded = model.eval().fold_batch_norm()
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.bfloat16}
    valid = mask[:, :: model.config.time_stride].bool()
    assert (folded(features, mask).logits - model(features, mask).logits)[valid].abs().max() <= 0.2


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_changes_nothing(use_reentrant):
    """Neither gradients nor running averages, though the forward pass runs twice."""
    features, mask = batch([30, 20])
    results = []
    for checkpointing in (False, True):
        model = small_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model(features, mask, torch.tensor([[1, 2], [3, -100]])).loss.backward()
        results.append([*(parameter.grad for parameter in model.parameters()), *model.buffers()])
    for one, other in zip(*results):
        assert torch.equal(one, other)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flash_attention_2", "flex_attention"])
def test_an_implementation_of_attention_is_accepted(tmp_path, implementation):
    """Scripts for other models choose one; there is no attention here, so that it means nothing."""
    small_model().save_pretrained(tmp_path)
    assert DeepSpeech2ForCTC.from_pretrained(tmp_path, attn_implementation=implementation).ctc_head.weight.isfinite().all()


def test_freezing():
    model = small_model()
    model.freeze_feature_encoder()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("deepspeech2.convolutions")} != set()
    model.freeze_base_model()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"ctc_head.weight", "ctc_head.bias"}


@pytest.mark.parametrize("batch_norm", ["sequence", "step"])
def test_with_frozen_batch_norm_training_computes_what_recognition_does(batch_norm):
    """Statistics of a batch of single words, say, are others than the running averages that recognition has."""
    model = small_model(batch_norm=batch_norm, hidden_dropout=0.0).double()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.uniform_(*((0.2, 2.0) if name.endswith("var") else (-0.1, 0.1)))
    features, mask = batch([30, 20])
    features = features.double()
    expected = model.eval()(features, mask).logits
    plain = model.train()(features, mask).logits
    assert not torch.allclose(plain, expected, atol=1e-2)
    model.freeze_batch_norm()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for _ in range(2):  # also after an evaluation
        model.eval().train()
        output = model(features, mask, torch.tensor([[1, 2], [3, 1]]))
        assert torch.allclose(output.logits, model.eval()(features, mask).logits, atol=1e-9)
        output.loss.backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for name, gradient in gradients.items() if "norm" in name)
