"""transformers' common tests of a feature extractor of sequences."""

import unittest

import numpy as np
from tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor


class DeepSpeech2FeatureExtractionTester:
    """A feature extractor of 5 bins with statistics, and spectrograms of several lengths for its `pad`."""

    batch_size = 3
    feature_size = 5
    min_seq_length = 40
    max_seq_length = 70
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self) -> dict:
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 8_000,
            "hop_length": 4,
            "n_fft": 8,
            "normalization": "training_set",
            "mean": [-3.0, -2.5, -2.0, -1.5, -1.0],
            "deviation": [1.0, 1.25, 1.5, 1.75, 2.0],
            "padding_value": 0.0,
        }

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        shortest = self.max_seq_length if equal_length else self.min_seq_length
        lengths = np.linspace(shortest, self.max_seq_length, self.batch_size).astype(int)
        random = np.random.default_rng(0)
        spectrograms = [random.normal(size=(length, self.feature_size)).astype(np.float32) for length in lengths]
        return spectrograms if numpify else [spectrogram.tolist() for spectrogram in spectrograms]


class DeepSpeech2FeatureExtractionTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = DeepSpeech2FeatureExtractor
    feat_extract_tester = DeepSpeech2FeatureExtractionTester()
