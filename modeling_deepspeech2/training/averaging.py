"""Averages several trainings of one network (`deepspeech2 average`; Izmailov et al., arXiv 1803.05407)."""

import json

import torch

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC


# Settings that do not change what a network computes from the same weights.
_OF_TRAINING = {"hidden_dropout", "batch_norm_momentum", "word_confidence", "ctc_loss_reduction", "ctc_zero_infinity"}


def average(models: list[DeepSpeech2ForCTC]) -> DeepSpeech2ForCTC:
    """A new model, in float32.

    Raises:
        UserError: their networks differ.
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise UserError("Only models of one network can be averaged; these have other layers or another alphabet.")
    for name in DeepSpeech2Config.own_fields():
        values = {json.dumps(getattr(model.config, name)) for model in models}  # tuples and lists are alike
        if name not in _OF_TRAINING and len(values) > 1:
            raise UserError(f"Only models of one network can be averaged; these differ in {name}.")
    mean = DeepSpeech2ForCTC(models[0].config)
    with torch.no_grad():
        for name, tensor in mean.state_dict().items():
            tensor.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    return mean
