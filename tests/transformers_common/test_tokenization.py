"""transformers' common tests of a tokenizer."""

import unittest
from pathlib import Path

from tests.test_tokenization_common import TokenizerTesterMixin

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer


TOKENIZERS = Path(__file__).parents[2] / "tokenizer"


class DeepSpeech2TokenizationTest(TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = DeepSpeech2CTCTokenizer
    from_pretrained_id = str(TOKENIZERS / "english")


class DeepSpeech2BigramTokenizationTest(DeepSpeech2TokenizationTest):
    from_pretrained_id = str(TOKENIZERS / "english_bigram")
