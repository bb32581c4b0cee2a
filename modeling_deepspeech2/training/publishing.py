"""Writes a model as a Hub repository: weights, processor, and the code that runs them (`deepspeech2 publish`).

The folder is loaded by this package where it is imported, and by `trust_remote_code=True` where it is not installed.
"""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import HfApi

from ..decoding_deepspeech2 import CTCBeamSearchDecoder, has_decoder
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..remote_code import write_remote_code


def save_repository(folder: Path, model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor) -> None:
    """Writes model, processor and code into `folder`, ready for `pipeline` and for upload."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


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


def publish(folder: Path, output: Path) -> None:
    """Copies a checkpoint without code, such as those of this repository, into a new folder that runs anywhere."""
    shutil.copytree(folder, output)
    write_remote_code(output)


def release(run: Path, folder: Path) -> None:
    """Copies a finished run, with its decoder, its card and what the card shows, in half precision.

    BatchNorm stays in float32, and so is the model that comes of loading it: only the file is small.
    """
    processor = DeepSpeech2Processor.from_pretrained(run)
    save_repository(folder, DeepSpeech2ForCTC.from_pretrained(run, dtype=torch.float16), processor)
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if has_decoder(run):
        CTCBeamSearchDecoder.from_pretrained(run, processor.tokenizer).save_pretrained(folder)
    for pattern in ("README.md", "*.png", "results.json", "decoder_tuning.json"):
        for file in run.glob(pattern):
            shutil.copyfile(file, folder / file.name)
