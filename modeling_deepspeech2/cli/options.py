"""Options that several commands share: one idea has one spelling everywhere."""

import argparse
import os
from pathlib import Path
from typing import Any


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")


def add_engine(parser: argparse.ArgumentParser, graph: str = "") -> None:
    """`--engine`; the main program leaves out torch where it is onnx."""
    parser.add_argument(
        "--engine",
        choices=("torch", "onnx"),
        default="torch",
        help=f"onnx: --model is what `deepspeech2 export{graph}` wrote; onnxruntime runs it without torch (%(default)s)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Options for the device and precision of a model."""
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="type of the weights (%(default)s)"
    )


def add_decoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lm",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: use the decoder and language model in the model's folder if there are any; on: insist on them; off: "
        "take the best path (%(default)s)",
    )


def add_pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pause", type=float, default=0.8, metavar="SECONDS", help="silence that ends an utterance (%(default)s)"
    )


def check_pause(settings: argparse.Namespace) -> None:
    """Raises a UserError unless `--pause` can end an utterance."""
    from ..errors import UserError
    from ..utterances import LONGEST_UTTERANCE

    if not 0 < settings.pause < LONGEST_UTTERANCE:
        raise UserError(f"--pause: found {settings.pause}, expected seconds above 0 and below {LONGEST_UTTERANCE:g}.")


def add_dataset(parser: argparse.ArgumentParser, help_of_splits: str, is_required: bool = True) -> None:
    parser.add_argument(
        "--dataset",
        required=is_required,
        help="a data set's name on the Hub, or a folder: parquet shards, audio with metadata.csv, or manifests",
    )
    parser.add_argument("--split", nargs="+", default=[], metavar="SPLIT", help=help_of_splits)


def add_columns(parser: argparse.ArgumentParser, *names: str) -> None:
    """The names of a data set's columns, such as --text_column."""
    for name in names:
        default = "speaker_id" if name == "speaker" else name
        parser.add_argument(f"--{name}_column", default=default, metavar="NAME", help=f"column of the {name} (%(default)s)")


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--output", required=True, type=Path, help=what)


def check_output_file(option: str, file: Path | None, *inputs: str | Path) -> None:
    """Raises a UserError for a file that could not be written once the work is done, or that is one of the inputs."""
    from ..errors import UserError

    if file is None:
        return
    if not file.parent.is_dir():
        raise UserError(f"--{option}: there is no folder {file.parent}.")
    if file.is_dir():
        raise UserError(f"--{option}: {file} is a folder, expected the name of a file.")
    for place in inputs:
        if file.exists() and Path(place).exists() and file.samefile(place):
            raise UserError(f"--{option}: {file} would be written over {place}, which is read; name another file.")


def check_output_folder(folder: Path, *inputs: str | Path) -> None:
    """Raises a UserError for a folder that cannot be made because a file has its name, or that is one of the inputs."""
    from ..errors import UserError

    taken = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None)
    if taken is not None:
        raise UserError(f"--output: found {taken}, which is a file; expected a folder.")
    for place in inputs:
        if folder.exists() and Path(place).exists() and folder.samefile(place):
            raise UserError(f"--output: {folder} is the model that is read, and would be lost; name another folder.")


def open_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or repository.

    Raises:
        UserError: there is none, or one of another kind of model.
    """
    from transformers import AutoTokenizer

    from ..errors import UserError

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:  # ValueError: the configuration of another kind of model
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--tokenizer: {name} cannot be opened ({reason})") from error
    if not hasattr(tokenizer, "language_model_unit"):
        raise UserError(f"--tokenizer: {name} holds a {type(tokenizer).__name__}, expected one of Deep Speech 2.")
    return tokenizer


def add_shares(parser: argparse.ArgumentParser, validation: float, test: float, megabytes: int) -> None:
    """Options for the splits and shards of a new data set."""
    parser.add_argument(
        "--validation_share",
        type=float,
        default=validation,
        metavar="SHARE",
        help="share of the speech drawn for validation if the source has no splits (%(default)s)",
    )
    parser.add_argument(
        "--test_share",
        type=float,
        default=test,
        metavar="SHARE",
        help="share drawn for the test split, likewise (%(default)s)",
    )
    parser.add_argument(
        "--shard_megabytes", type=int, default=megabytes, metavar="MB", help="size of a parquet file (%(default)s)"
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", type=int, default=available_cores(), metavar="N", help="processes that work in parallel (%(default)s)"
    )
