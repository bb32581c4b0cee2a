"""`torch.compile` compiles a model once for all lengths, and what it leaves out it leaves out on purpose."""

import pytest
import torch
from torch._dynamo.utils import counters

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC


def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_features": torch.randn(*mask.shape, 161),
        "attention_mask": mask,
        "labels": torch.randint(1, 29, (len(lengths), 5)),
    }


@pytest.mark.parametrize("is_training", [True, False])
def test_a_second_length_compiles_nothing(is_training):
    """Neither do another number of utterances and another share of padding; the results are those without a compiler."""
    torch._dynamo.reset()
    counters.clear()
    graphs = []

    def compiler(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    model = DeepSpeech2ForCTC(DeepSpeech2Config(conv_channels=[4, 4], num_hidden_layers=1, hidden_size=8)).train(is_training)
    compiled = torch.compile(model, backend=compiler, dynamic=True)
    found = []
    for lengths in ([60, 41, 33], [93, 90, 70, 12]):
        inputs = batch(lengths)
        expected = model(**inputs).loss
        loss = compiled(**inputs).loss
        if is_training:
            loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        found.append(len(graphs))
    assert found[0] > 0 and found[1] == found[0]
    reasons = "\n".join(counters["graph_break"])
    assert counters["graph_break"] and all("torch.compiler.disable" in reason for reason in counters["graph_break"]), reasons
