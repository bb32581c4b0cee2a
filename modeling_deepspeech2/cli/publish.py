"""Writes a model as a folder that works anywhere, with the code that it needs, or uploads it to the Hub.

People who have not installed this package open it with `trust_remote_code=True`.
"""

import argparse
from pathlib import Path

from .options import add_model


EPILOG = """examples:
  deepspeech2 publish --model checkpoints/deepspeech2-english --output english
  deepspeech2 publish --model runs/mine --dtype float16 --output small
  deepspeech2 publish --model small --hub_model_id me/my-model
  deepspeech2 publish --model me/my-model --hub_model_id us/our-model --private"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write this folder; it must not exist yet")
    parser.add_argument("--hub_model_id", metavar="USER/NAME", help="upload the model to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is new")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="float16 halves the file; the model is float32 again when it is loaded (%(default)s)",
    )


def run(settings: argparse.Namespace) -> int:
    import tempfile

    from ..errors import UserError
    from ..training.publishing import local_folder, publish, push_repository, release

    if settings.output is None and settings.hub_model_id is None:
        raise UserError("nothing to do: give --output, --hub_model_id or both.")
    if settings.output is not None and settings.output.exists():
        raise UserError(f"--output: {settings.output} is there already; name a new folder.")
    model = local_folder(settings.model)
    with tempfile.TemporaryDirectory() as folder:
        output = settings.output or Path(folder) / "model"
        (release if settings.dtype == "float16" else publish)(model, output)
        if settings.output is not None:
            print(f"The repository is in {output}.")
        if settings.hub_model_id is not None:
            print("Published:", push_repository(output, settings.hub_model_id, settings.private or None))
    return 0
