"""Checks the types of a data set's columns before anything of it is read."""

import pyarrow

from .errors import DataError


def check_text(schema: pyarrow.Schema, column: str | None, called: str, is_guessed: bool) -> None:
    """Lists would be learned as their Python text, and numbers with a point as what they are not.

    Args:
        is_guessed: the type is not that of the file, but what `datasets` has made of the metadata of a folder.

    Raises:
        DataError: no text.
    """
    if column not in schema.names:
        return
    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    kinds = pyarrow.types
    if is_guessed and kinds.is_integer(kind):
        raise DataError(
            f"The column {column!r} of the data set {called} must hold text, but datasets makes numbers ({kind}) of it, of "
            f"007 for example 7: write a metadata.jsonl with the texts in quotation marks, or make the data set parquet."
        )
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_integer(kind) or kinds.is_null(kind)):
        raise DataError(f"The column {column!r} of the data set {called} must hold text, but holds {kind}.")


def check_audio(schema: pyarrow.Schema, column: str, called: str) -> None:
    """Samples in place of a file would be refused row by row, or end in a traceback.

    Raises:
        DataError: neither bytes nor paths of files.
    """
    if column not in schema.names:
        return
    kind, kinds = schema.field(column).type, pyarrow.types
    is_place = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind)
    has_places = kinds.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}
    if not (is_place or has_places or kinds.is_null(kind)):
        raise DataError(
            f"The column {column!r} of the data set {called} must hold audio files, as bytes or paths, but holds {kind}: "
            f"write it with the feature Audio() of datasets."
        )
