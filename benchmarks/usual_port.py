"""Trains as `run_ctc.py` does, with the layers of the usual open-source port in place of this package's.

    python -m benchmarks.usual_port recipes/findings.yaml --sorta_grad=false

BatchNorm of each layer's input, statistics over the padding as well, packed `nn.GRU`.
"""

import sys
from typing import Any

import run_ctc
from benchmarks.rivals import UsualConvolution, UsualPort
from modeling_deepspeech2 import DeepSpeech2Config
from modeling_deepspeech2 import modeling_deepspeech2 as network


class UsualLayer(network.DeepSpeech2RecurrentLayer):
    def __init__(self, config: DeepSpeech2Config, input_size: int):
        super().__init__(config, input_size)
        self.rnn: Any = UsualPort(input_size, config.hidden_size)


if __name__ == "__main__":
    network.DeepSpeech2RecurrentLayer = UsualLayer  # type: ignore[misc]
    network.DeepSpeech2ConvolutionLayer = UsualConvolution  # type: ignore[misc]
    run_ctc.main(sys.argv[1:])
