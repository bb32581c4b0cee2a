"""Deep Speech 2 for the Hugging Face ecosystem: importing the package makes the Auto classes and pipelines know it."""

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
from .decoding_deepspeech2 import CTCBeamSearchDecoder, GreedyDecoder
from .feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from .modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Model
from .pipeline_deepspeech2 import DeepSpeech2Pipeline
from .processing_deepspeech2 import DeepSpeech2Processor
from .tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .transcription.streaming import DeepSpeech2Stream


__all__ = [
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
]

AutoConfig.register(DeepSpeech2Config.model_type, DeepSpeech2Config, exist_ok=True)
AutoModel.register(DeepSpeech2Config, DeepSpeech2Model, exist_ok=True)
AutoModelForCTC.register(DeepSpeech2Config, DeepSpeech2ForCTC, exist_ok=True)
AutoFeatureExtractor.register(DeepSpeech2Config, DeepSpeech2FeatureExtractor, exist_ok=True)
AutoTokenizer.register(DeepSpeech2Config, slow_tokenizer_class=DeepSpeech2CTCTokenizer, exist_ok=True)
AutoProcessor.register(DeepSpeech2Config, DeepSpeech2Processor, exist_ok=True)


class _SpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """What `pipeline("automatic-speech-recognition")` makes: ours for a Deep Speech 2 model, transformers' for others."""

    def __new__(cls, model, *args, **kwargs):
        is_ours = model.config.model_type == DeepSpeech2Config.model_type
        return (DeepSpeech2Pipeline if is_ours else AutomaticSpeechRecognitionPipeline)(model, *args, **kwargs)


PIPELINE_REGISTRY.supported_tasks["automatic-speech-recognition"]["impl"] = _SpeechRecognitionPipeline
# A published config.json names the pipeline of its repository, for those who have not installed this package. With that
# entry in sight `pipeline` would ask for trust_remote_code; whoever imports this package has the same pipeline here.
DeepSpeech2Config.custom_pipelines = property(lambda config: {}, lambda config, value: None)
