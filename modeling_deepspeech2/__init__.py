"""Deep Speech 2 for the Hugging Face ecosystem. Importing the package registers it with the Auto classes and `pipeline`."""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .audio import read_audio
    from .configuration_deepspeech2 import DeepSpeech2Config
    from .decoding_deepspeech2 import CTCBeamSearchDecoder
    from .errors import UserError
    from .feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
    from .greedy_decoder import GreedyDecoder
    from .hypotheses import Hypothesis, Span
    from .modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Model
    from .pipeline_deepspeech2 import DeepSpeech2Pipeline
    from .processing_deepspeech2 import DeepSpeech2Processor
    from .tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
    from .transcription.alignment import align
    from .transcription.recordings import transcribe
    from .transcription.streaming import StreamingModel
    from .transcription.streams import DeepSpeech2Stream, feed_streams

__version__ = "0.1.0"

_MODULES = {  # public name -> the module that holds it, imported when the name is first used
    "CTCBeamSearchDecoder": "decoding_deepspeech2",
    "DeepSpeech2CTCTokenizer": "tokenization_deepspeech2",
    "DeepSpeech2Config": "configuration_deepspeech2",
    "DeepSpeech2FeatureExtractor": "feature_extraction_deepspeech2",
    "DeepSpeech2ForCTC": "modeling_deepspeech2",
    "DeepSpeech2Model": "modeling_deepspeech2",
    "DeepSpeech2Pipeline": "pipeline_deepspeech2",
    "DeepSpeech2Processor": "processing_deepspeech2",
    "DeepSpeech2Stream": "transcription.streams",
    "GreedyDecoder": "greedy_decoder",
    "Hypothesis": "hypotheses",
    "Span": "hypotheses",
    "StreamingModel": "transcription.streaming",
    "UserError": "errors",
    "align": "transcription.alignment",
    "feed_streams": "transcription.streams",
    "read_audio": "audio",
    "transcribe": "transcription.recordings",
}
__all__ = [
    "__version__",
    "CTCBeamSearchDecoder",
    "DeepSpeech2CTCTokenizer",
    "DeepSpeech2Config",
    "DeepSpeech2FeatureExtractor",
    "DeepSpeech2ForCTC",
    "DeepSpeech2Model",
    "DeepSpeech2Pipeline",
    "DeepSpeech2Processor",
    "DeepSpeech2Stream",
    "GreedyDecoder",
    "Hypothesis",
    "Span",
    "StreamingModel",
    "UserError",
    "align",
    "feed_streams",
    "read_audio",
    "register",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


class _TaskWithoutCode(dict):
    """The `custom_pipelines` of a published config.json where this package is imported.

    For `pipeline(model=…)` it names the task; but no entry is found in it, for which `pipeline` would ask for
    `trust_remote_code`: the same pipeline is registered here.
    """

    def __contains__(self, task: object) -> bool:
        return False


def register() -> None:
    """Makes transformers' Auto classes and `pipeline` know the classes of this package; importing the package does it."""
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutomaticSpeechRecognitionPipeline,
        AutoModel,
        AutoModelForCTC,
        AutoProcessor,
        AutoTokenizer,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_deepspeech2 import DeepSpeech2Config
    from .feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
    from .modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Model
    from .pipeline_deepspeech2 import DeepSpeech2Pipeline
    from .processing_deepspeech2 import DeepSpeech2Processor
    from .tokenization_deepspeech2 import DeepSpeech2CTCTokenizer

    AutoConfig.register(DeepSpeech2Config.model_type, DeepSpeech2Config, exist_ok=True)
    AutoModel.register(DeepSpeech2Config, DeepSpeech2Model, exist_ok=True)
    AutoModelForCTC.register(DeepSpeech2Config, DeepSpeech2ForCTC, exist_ok=True)
    AutoFeatureExtractor.register(DeepSpeech2Config, DeepSpeech2FeatureExtractor, exist_ok=True)
    AutoTokenizer.register(DeepSpeech2Config, slow_tokenizer_class=DeepSpeech2CTCTokenizer, exist_ok=True)
    AutoProcessor.register(DeepSpeech2Config, DeepSpeech2Processor, exist_ok=True)

    class _SpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
        """What `pipeline("automatic-speech-recognition")` makes: ours for our models, transformers' for others."""

        def __new__(cls, model, *args, **kwargs):
            is_ours = model.config.model_type == DeepSpeech2Config.model_type
            return (DeepSpeech2Pipeline if is_ours else AutomaticSpeechRecognitionPipeline)(model, *args, **kwargs)

    task = "automatic-speech-recognition"
    PIPELINE_REGISTRY.supported_tasks[task]["impl"] = _SpeechRecognitionPipeline
    # A property, so that the entry of a published config.json does not take its place.
    DeepSpeech2Config.custom_pipelines = property(lambda config: _TaskWithoutCode({task: {}}), lambda config, value: None)


# The command registers when it has something to do, and exported models run where there is no torch.
if os.environ.get("DEEPSPEECH2_REGISTER") != "later" and importlib.util.find_spec("torch"):
    register()
