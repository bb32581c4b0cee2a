"""Loads the model that a command names, with its processor and its decoder."""

import argparse
from pathlib import Path

import torch

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..decoding_deepspeech2 import CTCBeamSearchDecoder, has_decoder
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor


def load(settings: argparse.Namespace) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    """The model of `--model`, folded for inference, on `--device` and in `--dtype`, and its processor.

    Raises:
        UserError: there is no such model, or no such device.
    """
    device = find_device(getattr(settings, "device", None))
    try:
        _check_type(settings.model)
        model = DeepSpeech2ForCTC.from_pretrained(settings.model).eval()
        processor = DeepSpeech2Processor.from_pretrained(settings.model)
    except (OSError, ValueError) as error:
        is_name = settings.model.count("/") <= 1 or Path(settings.model).exists()
        reason = str(error).strip().partition("\n")[0] if is_name else "there is no such folder"
        raise UserError(f"--model: found no Deep Speech 2 model in {settings.model} ({reason})") from error
    dtype = getattr(torch, getattr(settings, "dtype", "float32"))
    return model.fold_batch_norm().to(device, dtype), processor


def _check_type(name: str) -> None:
    """Raises ValueError for the configuration of another kind of model; transformers would try to read it."""
    content, _ = DeepSpeech2Config.get_config_dict(name)
    found, expected = content.get("model_type"), DeepSpeech2Config.model_type
    if expected in content:
        raise ValueError("it was exported: `deepspeech2 transcribe` and `live` read it with --engine onnx")
    if found not in (None, expected):
        raise ValueError(f"model_type: found {found!r}, expected {expected!r}")


def find_device(name: str | None) -> torch.device:
    """The named device, or a GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--device: {name} cannot be used here ({reason}); expected cpu, cuda, cuda:N or mps.") from error
    if device.type == "meta":
        raise UserError("--device: found meta, expected cpu, cuda, cuda:N or mps.")
    return device


def load_decoder(settings: argparse.Namespace, processor: DeepSpeech2Processor) -> CTCBeamSearchDecoder | None:
    """The decoder beside the model as `--lm` asks; None stands for the best path.

    Raises:
        UserError: `--lm on` and there is none, or a decoder that cannot be read.
    """
    if settings.lm == "off" or (settings.lm == "auto" and not has_decoder(settings.model)):
        return None
    try:
        return CTCBeamSearchDecoder.from_pretrained(settings.model, processor.tokenizer)
    except (OSError, ValueError) as error:
        raise UserError(f"--lm: {error}") from error
