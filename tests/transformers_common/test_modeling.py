"""transformers' common tests of a model."""

import unittest

import torch
from tests.test_modeling_common import ModelTesterMixin, floats_tensor
from transformers.testing_utils import torch_device

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC, DeepSpeech2Model


class DeepSpeech2ModelTester:
    """A small model and a batch of unequal utterances for it.

    The convolutions make 8 channels × 4 bins of the 16 bins (or 32 channels), as many features as the recurrent layers
    have units: the tests want all hidden states to be of one size, and the first is what the first layer reads.
    """

    is_training = True
    batch_size = 3
    seq_length = 20
    encoder_seq_length = 10
    num_frequency_bins = 16
    hidden_size = 32
    num_hidden_layers = 2
    vocab_size = 11

    def __init__(self, **settings):
        self.settings = settings

    def get_config(self) -> DeepSpeech2Config:
        return DeepSpeech2Config(
            vocab_size=self.vocab_size,
            num_frequency_bins=self.num_frequency_bins,
            conv_channels=[8, 32 if self.settings.get("conv_type") == "1d" else 8],
            conv_kernel_sizes=[[5, 3], [3, 3]],
            conv_strides=[[2, 2], [2, 1]],
            num_hidden_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            **self.settings,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[DeepSpeech2Config, dict[str, torch.Tensor]]:
        lengths = torch.tensor([self.seq_length, self.seq_length - 3, self.seq_length // 2])
        attention_mask = (torch.arange(self.seq_length) < lengths[:, None]).long().to(torch_device)
        input_features = floats_tensor([self.batch_size, self.seq_length, self.num_frequency_bins])
        return self.get_config(), {"input_features": input_features, "attention_mask": attention_mask}


class DeepSpeech2ModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DeepSpeech2Model, DeepSpeech2ForCTC)
    has_attentions = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # the age of a model without a copyright line is unknown

    def setUp(self):
        self.model_tester = DeepSpeech2ModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if "labels" in inputs:  # theirs are all 0, the blank, and longer than the output
            inputs["labels"] = torch.tensor([[3, 1, 4, 4], [1, 5, 9, -100], [2, 6, -100, -100]], device=torch_device)
        return inputs


class DeepSpeech2LiveModelTest(DeepSpeech2ModelTest):
    """The other way at every fork: no BatchNorm, one direction, row convolution, LSTM, convolutions over time."""

    def setUp(self):
        self.model_tester = DeepSpeech2ModelTester(
            batch_norm="off", bidirectional=False, lookahead=2, rnn_type="lstm", hidden_act="tanh", conv_type="1d"
        )


class DeepSpeech2StepNormModelTest(DeepSpeech2ModelTest):
    """BatchNorm at each time step, and two directions with their own input weights."""

    def setUp(self):
        self.model_tester = DeepSpeech2ModelTester(batch_norm="step", share_input_weights=False, rnn_type="rnn")
