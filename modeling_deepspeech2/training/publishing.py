"""A finished model -> a folder as it stands on the Hub: weights, processor, and the code that runs them.

The folder is loaded by this package where it is imported, and by `trust_remote_code=True` where it is not installed.
"""

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor


PACKAGE = Path(__file__).parent.parent

# What the files of a Hub repository say of the code beside them, by file.
_REMOTE_CODE = {
    "config.json": {
        "auto_map": {
            "AutoConfig": "configuration_deepspeech2.DeepSpeech2Config",
            "AutoModel": "modeling_deepspeech2.DeepSpeech2Model",
            "AutoModelForCTC": "modeling_deepspeech2.DeepSpeech2ForCTC",
        },
        "custom_pipelines": {
            "automatic-speech-recognition": {
                "impl": "pipeline_deepspeech2.DeepSpeech2Pipeline",
                "pt": ["AutoModelForCTC"],
                "type": "multimodal",
            }
        },
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["tokenization_deepspeech2.DeepSpeech2CTCTokenizer", None]},
    },
    "processor_config.json": {
        "auto_map": {
            "AutoProcessor": "processing_deepspeech2.DeepSpeech2Processor",
            "AutoFeatureExtractor": "feature_extraction_deepspeech2.DeepSpeech2FeatureExtractor",
        },
    },
}


def save_repository(folder: Path, model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor) -> None:
    """Writes model, processor and code into `folder`, ready for `pipeline` and for upload."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name, entries in _REMOTE_CODE.items():
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        if name == "processor_config.json":
            content["feature_extractor"]["auto_map"] = entries["auto_map"]
        file.write_text(json.dumps(content | entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for module in PACKAGE.glob("*.py"):
        if module.name not in ("__init__.py", "command_line.py"):
            shutil.copyfile(module, folder / module.name)


def push_repository(folder: Path, hub_model_id: str, patterns_left_out: list[str]) -> str:
    """Uploads the folder as a model repository, made if it is not there; gives its address."""
    api = HfApi()
    repository = api.create_repo(hub_model_id, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        ignore_patterns=patterns_left_out,
        commit_message="Deep Speech 2: model, processor, code and card",
    )
    return commit.repo_url
