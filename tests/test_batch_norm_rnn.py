"""The recurrence against the plain per-step formula in float64, and the laws that it must keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.folded_rnn import FoldedRNN
from modeling_deepspeech2.packed_frames import PackedFrames
from modeling_deepspeech2.recurrence import Recurrence


def reference(layer: BatchNormRNN, inputs: Tensor, lengths: list[int]) -> Tensor:
    """h_t = f(BN(W·x_t) + U·h_{t-1}), written as the paper writes it: utterance by utterance, step by step."""
    act = torch.tanh if layer.activation.clip is None else (lambda x: x.clamp(0, layer.activation.clip))
    width, hidden = layer.weight_hh.shape[1:]
    rows = torch.cat([inputs[i, :length] for i, length in enumerate(lengths)])
    projected = rows @ layer.weight_ih.flatten(0, 1).T
    if layer.batch_norm == "off":
        projected = projected + layer.bias
    elif layer.training:
        mean = projected.mean(0)
        variance = (projected - mean).pow(2).mean(0)
        projected = (projected - mean) / (variance + layer.norm.eps).sqrt() * layer.norm.weight + layer.norm.bias
    else:
        deviation = (layer.norm.running_var + layer.norm.eps).sqrt()
        projected = (projected - layer.norm.running_mean) / deviation * layer.norm.weight + layer.norm.bias
    outputs = []
    for i, own in enumerate(projected.split(lengths)):
        output = inputs.new_zeros(inputs.shape[1], hidden)
        for direction in range(layer.directions):
            first = min(direction, len(layer.weight_ih) - 1) * width
            recurrent = layer.weight_hh[direction]
            state = cell = inputs.new_zeros(hidden)
            times = range(lengths[i]) if direction == 0 else range(lengths[i] - 1, -1, -1)
            states = {}
            for t in times:
                x = own[t, first : first + width]
                u = recurrent @ state
                if layer.rnn_type == "rnn":
                    state = act(x + u)
                elif layer.rnn_type == "gru":
                    r, z = torch.sigmoid((x + u)[: 2 * hidden]).chunk(2)
                    n = act(x[2 * hidden :] + r * u[2 * hidden :])
                    state = (1 - z) * n + z * state
                else:
                    into, forget, candidate, out = (x + u).chunk(4)
                    cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * act(candidate)
                    state = torch.sigmoid(out) * act(cell)
                states[t] = state
            if states:
                padding = inputs.new_zeros(inputs.shape[1] - lengths[i], hidden)
                output = output + torch.cat([torch.stack([states[t] for t in sorted(states)]), padding])
        outputs.append(output)
    return torch.stack(outputs)


def make_layer(dtype: torch.dtype = torch.float64, **settings) -> BatchNormRNN:
    layer = BatchNormRNN(5, 4, **settings).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.1, 0.5)
        if layer.batch_norm != "off":
            layer.norm.running_mean.normal_()
            layer.norm.running_var.uniform_(0.5, 2)
    return layer


def make_inputs(lengths: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Random frames with NaN in the padding: whatever reads it shows."""
    inputs = torch.randn(len(lengths), max([1, *lengths]), 5, dtype=dtype)
    for i, length in enumerate(lengths):
        inputs[i, length:] = float("nan")
    return inputs


LENGTHS = [6, 9, 1, 0, 4]
LAYERS = [
    {"rnn_type": rnn_type, "bidirectional": bidirectional, "share_input_weights": shared, "activation_clip": clip}
    for rnn_type in ("rnn", "gru", "lstm")
    for bidirectional, shared in ((False, False), (True, False), (True, True))
    for clip in (None, 1.5)
]


def name(settings: dict) -> str:
    directions = "bidirectional" if settings["bidirectional"] else "forward"
    weights = "shared" if settings["share_input_weights"] else "separate"
    return f"{settings['rnn_type']}-{directions}-{weights}-{'clipped' if settings['activation_clip'] else 'tanh'}"


@pytest.mark.parametrize("settings", LAYERS, ids=name)
@pytest.mark.parametrize("batch_norm", ["sequence", "off"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["double", "float"])
def test_outputs_and_gradients_equal_the_plain_formula(settings, batch_norm, dtype, tolerance):
    torch.manual_seed(0)
    exact = make_layer(batch_norm=batch_norm, **settings)
    fast = BatchNormRNN(5, 4, batch_norm=batch_norm, **settings).to(dtype)
    fast.load_state_dict(exact.state_dict())
    inputs = make_inputs(LENGTHS)
    weights = torch.randn(len(LENGTHS), max(LENGTHS), 4, dtype=torch.float64)

    def run(layer, forward, inputs, weights):
        inputs = inputs.clone().requires_grad_()
        outputs = forward(layer, inputs)
        (outputs * weights).sum().backward()
        return [outputs, inputs.grad, *(parameter.grad for parameter in layer.parameters())]

    expected = run(exact, lambda layer, x: reference(layer, x, LENGTHS), inputs, weights)
    frames = PackedFrames(torch.tensor(LENGTHS), inputs.shape[1])
    found = run(fast, lambda layer, x: layer(x, frames), inputs.to(dtype), weights.to(dtype))
    for one, other in zip(expected, found):
        scale = max(1.0, one.abs().max().item())
        assert (one - other).abs().max().item() / scale <= tolerance


@pytest.mark.parametrize("settings", LAYERS, ids=name)
def test_inference_equals_the_plain_formula_with_running_averages(settings):
    layer = make_layer(**settings).eval()
    inputs = make_inputs(LENGTHS)
    found = layer(inputs, PackedFrames(torch.tensor(LENGTHS), inputs.shape[1]))
    assert torch.allclose(found, reference(layer, inputs, LENGTHS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rnn_type", ["rnn", "gru", "lstm"])
def test_gradcheck(rnn_type):
    layer = make_layer(rnn_type=rnn_type, activation_clip=None)
    frames = PackedFrames(torch.tensor([3, 2]), 3)
    inputs = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, *_: layer(x, frames), (inputs, *layer.parameters()))


@pytest.mark.parametrize("rnn_type", ["rnn", "gru", "lstm"])
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5))
@settings(max_examples=25)
def test_any_lengths_in_any_order(rnn_type, lengths):
    layer = make_layer(rnn_type=rnn_type)
    inputs = make_inputs(lengths)
    found = layer(inputs, PackedFrames(torch.tensor(lengths), inputs.shape[1]))
    assert found.shape == (len(lengths), inputs.shape[1], 4)
    if sum(lengths):
        assert torch.allclose(found, reference(layer, inputs, lengths), rtol=0, atol=1e-11)
    for i, length in enumerate(lengths):
        assert (found[i, length:] == 0).all()


def test_running_averages_see_valid_frames_only():
    layer = make_layer(batch_norm="sequence")
    layer.norm.reset_parameters()
    lengths = [4, 2, 7]
    inputs = make_inputs(lengths)
    layer(inputs, PackedFrames(torch.tensor(lengths), 7))
    rows = torch.cat([inputs[i, :length] for i, length in enumerate(lengths)]) @ layer.weight_ih.flatten(0, 1).T
    assert torch.allclose(layer.norm.running_mean, 0.1 * rows.mean(0))
    assert torch.allclose(layer.norm.running_var, 0.9 + 0.1 * rows.var(0))


@pytest.mark.parametrize("rnn_type", ["rnn", "gru", "lstm"])
def test_step_normalisation_is_batch_norm_of_each_time_step(rnn_type):
    """One step of a batch of equal lengths is stock BatchNorm over the batch; inference uses one running average."""
    layer = make_layer(rnn_type=rnn_type, batch_norm="step", bidirectional=False)
    inputs = torch.randn(6, 1, 5, dtype=torch.float64)
    found = layer(inputs, PackedFrames(torch.ones(6, dtype=torch.long), 1))[:, 0]
    x = torch.nn.functional.batch_norm(
        inputs[:, 0] @ layer.weight_ih[0].T, None, None, layer.norm.weight, layer.norm.bias, training=True
    )
    act = layer.activation
    if rnn_type == "rnn":
        expected = act(x)
    elif rnn_type == "gru":
        expected = (1 - x[:, 4:8].sigmoid()) * act(x[:, 8:])
    else:
        into, _, candidate, out = x.chunk(4, 1)
        expected = out.sigmoid() * act(into.sigmoid() * act(candidate))
    assert torch.allclose(found, expected)
    layer.eval()
    lengths = [5, 2, 3]
    inputs = make_inputs(lengths)
    together = layer(inputs, PackedFrames(torch.tensor(lengths), 5))
    alone = layer(inputs[1:2, :2], PackedFrames(torch.tensor([2]), 2))
    assert torch.allclose(together[1, :2], alone[0])


def test_only_products_are_rounded_under_bfloat16():
    """Law 7: from the rounded W·x on, outputs and running averages are those of float32."""
    layer, exact = make_layer(torch.float32), make_layer(torch.float32)
    exact.load_state_dict(layer.state_dict())
    inputs = make_inputs(LENGTHS, torch.float32)
    frames = PackedFrames(torch.tensor(LENGTHS), inputs.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(inputs, frames)
        projected = torch.nn.functional.linear(frames.pack(inputs), exact.weight_ih.flatten(0, 1))
    assert outputs.dtype == torch.float32 and projected.dtype == torch.bfloat16
    normalized = exact.norm(projected.float())[:, None]
    expected = frames.unpack(
        Recurrence.apply(normalized, exact.weight_hh, frames, exact.activation, "gru", (0, 1), torch.float32)
    )
    assert (outputs - expected).abs().max() <= 1e-6
    assert torch.equal(layer.norm.running_mean, exact.norm.running_mean)
    assert torch.equal(layer.norm.running_var, exact.norm.running_var)


@pytest.mark.parametrize("batch_norm", ["sequence", "step", "off"])
@pytest.mark.parametrize("settings", LAYERS, ids=name)
def test_folded_layer_equals_the_layer_at_inference(settings, batch_norm):
    layer = make_layer(batch_norm=batch_norm, **settings).eval()
    inputs = make_inputs(LENGTHS)
    frames = PackedFrames(torch.tensor(LENGTHS), inputs.shape[1])
    found = FoldedRNN(layer)(inputs, frames)
    assert torch.allclose(found, layer(inputs, frames), rtol=0, atol=1e-12)
    nobody = PackedFrames(torch.tensor([0, 0]), 3)
    assert (FoldedRNN(layer)(inputs[:2, :3], nobody) == 0).all()


@pytest.mark.parametrize("settings", [s for s in LAYERS if not s["bidirectional"]], ids=name)
def test_folded_layer_goes_on_from_its_state(settings):
    layer = FoldedRNN(make_layer(**settings).eval())
    inputs = torch.randn(3, 9, 5, dtype=torch.float64)
    whole = layer(inputs, PackedFrames(torch.full((3,), 9), 9))
    first, state = layer.step(inputs[:, :1])
    second, state = layer.step(inputs[:, 1:5], state)
    third, _ = layer.step(inputs[:, 5:], state)
    assert torch.allclose(torch.cat([first, second, third], dim=1), whole, rtol=0, atol=1e-12)


def test_backward_under_autocast_stays_in_float32():
    """Law 7: who calls `backward()` inside the autocast block gets the recurrence's gradients of who calls it outside."""
    inputs = torch.randn(2, 5, 5)
    frames = PackedFrames(torch.tensor([5, 3]), 5)
    gradients = []
    for inside in (True, False):
        torch.manual_seed(0)
        layer = make_layer(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(inputs, frames).sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(layer.weight_hh.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("settings", [s for s in LAYERS if s["activation_clip"] is None], ids=name)
@pytest.mark.parametrize("batch_norm", ["sequence", "off"])
@pytest.mark.parametrize("training", [True, False])
def test_stock_kernel_on_folded_statistics_is_the_same_layer(monkeypatch, settings, batch_norm, training):
    """What runs on cuDNN where there is a GPU: outputs, gradients and running averages, here by torch's CPU kernel."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [make_layer(batch_norm=batch_norm, **settings).to(device).train(training) for _ in range(2)]
    monkeypatch.setattr(layers[0], "_has_stock_kernel", lambda rows: False)
    layers[1].load_state_dict(layers[0].state_dict())
    monkeypatch.setattr(layers[1], "_has_stock_kernel", lambda rows: True)
    inputs = make_inputs(LENGTHS).to(device)
    frames = PackedFrames(torch.tensor(LENGTHS, device=device), inputs.shape[1])
    weights = torch.randn(len(LENGTHS), max(LENGTHS), 4, dtype=torch.float64, device=device)
    results = []
    for layer in layers:
        own = inputs.clone().requires_grad_()
        outputs = layer(own, frames)
        (outputs * weights).sum().backward()
        results.append([outputs, own.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()])
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
    nobody = layers[1](inputs[:1, :1], PackedFrames(torch.tensor([0], device=device), 1))
    nobody.sum().backward()
    assert (nobody == 0).all()
