"""transformers' common tests of a processor."""

import unittest
from pathlib import Path

from tests.test_processing_common import ProcessorTesterMixin

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer, DeepSpeech2FeatureExtractor, DeepSpeech2Processor


ENGLISH = Path(__file__).parents[2] / "tokenizer" / "english"


class DeepSpeech2ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = DeepSpeech2Processor
    text_input_name = "labels"

    @classmethod
    def _setup_feature_extractor(cls) -> DeepSpeech2FeatureExtractor:
        return DeepSpeech2FeatureExtractor(mean=[-3.0] * 161, deviation=[2.0] * 161)

    @classmethod
    def _setup_tokenizer(cls) -> DeepSpeech2CTCTokenizer:
        return DeepSpeech2CTCTokenizer.from_pretrained(ENGLISH)
