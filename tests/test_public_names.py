"""What `import modeling_deepspeech2` promises."""

import re
from pathlib import Path

from transformers import AutoConfig, AutoModelForCTC

import modeling_deepspeech2 as package


PROMISED = """DeepSpeech2Config DeepSpeech2FeatureExtractor DeepSpeech2CTCTokenizer DeepSpeech2Processor DeepSpeech2Model
DeepSpeech2ForCTC DeepSpeech2Pipeline CTCBeamSearchDecoder DeepSpeech2Stream transcribe align read_audio feed_streams
StreamingModel Hypothesis Span"""


def test_public_names():
    assert {"__version__", *PROMISED.split()} <= set(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", package.__version__)


def test_registering_again_changes_nothing():
    package.register()
    config = AutoConfig.for_model("deepspeech2", hidden_size=8, num_hidden_layers=1)
    assert type(AutoModelForCTC.from_config(config)) is package.DeepSpeech2ForCTC


def test_the_version_is_said_once():
    """The distribution takes it from the package."""
    content = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "modeling_deepspeech2.__version__" }' in content
    assert not re.search('^version = "', content, re.MULTILINE)
