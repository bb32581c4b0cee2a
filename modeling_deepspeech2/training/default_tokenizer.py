"""The default alphabet of a new model: English, from the clone or from the installed package."""

from pathlib import Path


PACKAGE = Path(__file__).resolve().parent.parent


def default_tokenizer() -> Path:
    """The folder of the tokenizer, whatever the working directory."""
    in_the_clone = PACKAGE.parent / "tokenizer" / "english"
    return in_the_clone if in_the_clone.is_dir() else PACKAGE / "tokenizers" / "english"
