"""transformers' common tests of a configuration."""

import unittest

from tests.test_configuration_common import ConfigTester

from modeling_deepspeech2 import DeepSpeech2Config


class DeepSpeech2ConfigTest(unittest.TestCase):
    def test_config(self):
        tester = ConfigTester(
            self,
            config_class=DeepSpeech2Config,
            common_properties=["hidden_size", "num_hidden_layers"],
            conv_channels=[8],
            conv_kernel_sizes=[[5, 3]],
            conv_strides=[[2, 2]],
            hidden_size=32,
            num_hidden_layers=2,
        )
        tester.run_common_tests()
