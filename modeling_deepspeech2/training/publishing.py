"""Writes a model as a Hub repository: weights, processor, and the code that runs them (`deepspeech2 publish`).

The folder is loaded by this package where it is imported, and by `trust_remote_code=True` where it is not installed.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from huggingface_hub import HfApi, ModelCard, get_token, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import httpx

from ..decoding_deepspeech2 import CTCBeamSearchDecoder, has_decoder
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..remote_code import write_remote_code
from .output_folder import written


# The files of a model. Nothing else of a folder is published: not checkpoints, transcripts, notes or secrets beside it.
MODEL_FILES = (
    "config.json", "model*.safetensors", "model.safetensors.index.json", "processor_config.json", "preprocessor_config.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "decoder_config.json", "language_model.safetensors",
    "language_model.arpa*",
)  # fmt: skip
CARD_FILES = (
    "README.md",
    "LICENSE*",
    "results.json",
    "run.json",
    "training_curve.png",
    "decoder_tuning.json",
    "decoder_tuning.png",
    "word_confidence.png",
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def save_repository(folder: Path, model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor) -> None:
    """Writes model, processor and code into `folder`, ready for `pipeline` and for upload."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def push_repository(folder: Path, hub_model_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Uploads the model in `folder`, with its code, as a repository of the Hub, made if it is not there.

    Args:
        private: of a new repository; None leaves it to the settings of its owner.
        token: for the Hub; None: that of `hf auth login` or HF_TOKEN.

    Returns:
        The address of the repository.

    Raises:
        UserError: see `open_repository` and `publish`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        publish(folder, Path(temporary) / "model")
        return push_folder(Path(temporary) / "model", hub_model_id, private, token, "model, processor, code and card")


def push_folder(
    folder: Path, hub_model_id: str, private: bool | None = None, token: str | None = None, content: str = "all files"
) -> str:
    """Uploads all that is in `folder`; see `push_repository` for the other arguments and what is returned.

    Raises:
        UserError: see `open_repository`, or a file holds an access token.
    """
    for file in folder.rglob("*"):
        _refuse_token(file)
    commit = HfApi(token=token).upload_folder(
        repo_id=open_repository(hub_model_id, private, token),
        folder_path=folder,
        delete_patterns="*.py",  # modules of an earlier version
        commit_message=f"Deep Speech 2: {content}",
    )
    return commit.repo_url


def open_repository(hub_model_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Makes the repository if it is not there; worth a call before a long training, which it would end in vain.

    Raises:
        UserError: the name is not one of the Hub's, there is no token or one without permission, or no connection.
    """
    try:
        return HfApi(token=token).create_repo(hub_model_id, private=private, exist_ok=True).repo_id
    except HFValidationError as error:
        raise UserError(f"hub_model_id: found {hub_model_id!r}, expected USER/NAME ({_first_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise UserError("Publishing needs a token of the Hub: run `hf auth login`, or set HF_TOKEN.") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UserError(f"The Hub does not take {hub_model_id}: {_first_line(error)}") from error


def local_folder(name: str) -> Path:
    """The folder of a finished model; if `name` is that of a Hub repository, its files are downloaded.

    Raises:
        UserError: there is no such folder or repository, or no model in it.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*MODEL_FILES, *CARD_FILES]))
        except (HFValidationError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
            raise UserError(f"--model: found no folder {name} and no such model on the Hub: {_first_line(error)}") from error
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        raise UserError(f"--model: there is no finished model in {name} (found no config.json with model.safetensors).")
    return folder


def publish(folder: Path, output: Path) -> None:
    """Copies the files of a model into a new folder, with the code that runs it anywhere, and nothing else.

    Raises:
        UserError: a file holds an access token, or the card cannot be read.
    """
    files = _files(folder, MODEL_FILES) + _card_files(folder)
    for file in files:
        _refuse_token(file)
    output.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, output / file.name)
    write_remote_code(output)


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]


def _card_files(folder: Path) -> list[Path]:
    """The card, what it shows, and the clips beside it that it names as examples for the Hub's widget."""
    files, card = _files(folder, CARD_FILES), folder / "README.md"
    try:
        widget = ModelCard.load(card, ignore_metadata_errors=True).data.get("widget") if card.is_file() else None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or no dict
        reason = " ".join(str(error).split())
        raise UserError(f"The card {card} cannot be read: its head must be YAML in UTF-8 ({reason}).") from error
    clips = [str(example.get("src")) for example in widget or [] if isinstance(example, dict)]
    return files + [folder / clip for clip in clips if Path(clip).name == clip and (folder / clip).is_file()]


def _refuse_token(file: Path) -> None:
    if file.suffix not in (".json", ".md"):
        return
    content, own = file.read_text(encoding="utf-8", errors="replace"), get_token()
    if _TOKEN.search(content) or (own and own in content):
        raise UserError(f"{file.name} holds an access token of the Hub: take it out before publishing, and revoke it.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def release(run: Path, folder: Path) -> None:
    """Copies a finished run, with its decoder, its card and what the card shows, in half precision.

    BatchNorm stays in float32, and so is the model that comes of loading it: only the file is small.
    """
    processor = DeepSpeech2Processor.from_pretrained(run)
    with written(folder, 0):
        save_repository(folder, DeepSpeech2ForCTC.from_pretrained(run, dtype=torch.float16), processor)
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if has_decoder(run):
        CTCBeamSearchDecoder.from_pretrained(run, processor.tokenizer).save_pretrained(folder)
    for file in _card_files(run):
        shutil.copyfile(file, folder / file.name)
