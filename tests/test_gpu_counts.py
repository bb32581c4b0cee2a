"""What a training step would ask of a GPU, counted without one: kernels, launches of the recurrence, bytes of messages."""

from unittest import mock

import pytest

from benchmarks.gpu_counts import (
    NETWORKS,
    loss_of_a_step,
    message_bytes,
    message_bytes_before,
    one_launch_a_step,
    training_step,
)
from modeling_deepspeech2 import DeepSpeech2Config, recurrence


pytest.importorskip("triton", reason="Triton is not installed: without it the recurrence is not one kernel")
CLIPPED, TANH = NETWORKS.values()
UTTERANCES, FRAMES = 64, 1231  # 12.3 s


def test_a_step_launches_hundreds_of_kernels_not_thousands():
    """5 × BiGRU-800: the number does not grow with the length, and the recurrence is one launch a layer and pass."""
    forward, backward = training_step(CLIPPED, UTTERANCES, FRAMES)
    assert forward.kernels.total() <= 300 and backward.kernels.total() <= 200
    assert all(found.kernels.total() <= 30 for found in loss_of_a_step(CLIPPED, UTTERANCES, FRAMES))
    assert forward.recurrence == backward.recurrence == CLIPPED.num_hidden_layers
    assert [found.kernels for found in training_step(CLIPPED, UTTERANCES, 2 * FRAMES)] == [forward.kernels, backward.kernels]


def test_without_the_cooperative_kernel_a_time_step_is_one_launch():
    with mock.patch.object(recurrence, "choose", one_launch_a_step):
        forward, backward = training_step(CLIPPED, UTTERANCES, FRAMES)
    steps = -(-FRAMES // CLIPPED.time_stride)
    assert forward.recurrence == backward.recurrence == CLIPPED.num_hidden_layers * steps


@pytest.mark.parametrize("rnn_type", ["rnn", "lstm"])
def test_other_units_are_one_launch_as_well(rnn_type):
    config = DeepSpeech2Config(conv_channels=[4], conv_kernel_sizes=[[5, 5]], conv_strides=[[2, 2]], rnn_type=rnn_type)
    forward, backward = training_step(config, 2, 40)
    assert forward.recurrence == backward.recurrence == config.num_hidden_layers


def test_messages_of_statistics_are_kilobytes():
    """Folded layers exchanged matrices: at a width of 2112 two hundred megabytes a step, in place of a vector each."""
    now, messages = message_bytes(TANH)
    assert message_bytes_before(TANH) > 200e6 and now < 400e3
    assert message_bytes(CLIPPED)[1] == 2 * (2 + CLIPPED.num_hidden_layers + 1)  # one a layer forwards, one back
