"""Measures a model with `evaluate`'s evaluator: the pipeline as it is, and any data set with audio and transcripts.

python examples/evaluate_pipeline.py checkpoints/deepspeech2-english demo/speech english test
"""

import sys

import evaluate
import transformers
from datasets import Audio, Dataset, load_dataset
from transformers import Pipeline, pipeline

import modeling_deepspeech2  # noqa: F401  registers the pipeline
from modeling_deepspeech2.training.metrics import ErrorRates


if not hasattr(transformers, "TFPreTrainedModel"):
    transformers.TFPreTrainedModel = ()  # evaluate 0.4.6 asks for it, and transformers 5 has it no more


def measure(recognizer: Pipeline, speech: Dataset) -> dict[str, float]:
    """The error rates of the pipeline's own text, and the evaluator's timings."""
    speech = speech.cast_column("audio", Audio(decode=False))  # the pipeline reads the files itself
    return evaluate.evaluator("automatic-speech-recognition").compute(
        recognizer, speech, metric=ErrorRates(), input_column="audio", label_column="text"
    )


if __name__ == "__main__":
    model, name, configuration, split = sys.argv[1:]
    print(measure(pipeline("automatic-speech-recognition", model), load_dataset(name, configuration, split=split)))
