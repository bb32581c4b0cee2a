"""Reads parquet files from any row on: what stands in earlier row groups is neither fetched nor decoded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pyarrow
from datasets.utils.file_utils import xopen
from pyarrow.parquet import ParquetFile

from .errors import DataError


TABLE_ROWS = 256  # rows that are handed on at a time


class ParquetTables:
    """Parquet files as the tables of a data set, one shard for each.

    Args:
        files: paths or URLs, those of the Hub included.
    """

    def __init__(self, files: list[str]):
        self.files = files

    @property
    def num_shards(self) -> int:
        return len(self.files)

    def tables(self, shard: int, columns: list[str], first_row: int = 0) -> Iterator[tuple[int, pyarrow.Table]]:
        """Rows of one file with the number of the first of them, from the row group on that holds `first_row`.

        Raises:
            DataError: the file cannot be read, is damaged, or lacks one of the columns.
        """
        with _opened(self.files[shard]) as parquet:
            missing = set(columns) - set(parquet.schema_arrow.names)
            if missing:
                raise DataError(f"{self.files[shard]} has no column {missing.pop()!r}, which other files of its split have.")
            start = 0
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                if end > first_row:
                    for batch in parquet.iter_batches(TABLE_ROWS, [group], columns, use_threads=False):
                        batch.validate(full=True)  # strings that are not UTF-8 would be noticed only where they are used
                        yield start, pyarrow.Table.from_batches([batch])
                        start += batch.num_rows
                start = end


@contextmanager
def _opened(file: str) -> Iterator[ParquetFile]:
    # A local file by arrow itself, which reads no more than it needs; a file of Python would fill a buffer at every seek.
    is_local = os.path.exists(file)
    try:
        with nullcontext(file) if is_local else xopen(file, "rb") as opened, ParquetFile(opened) as parquet:
            yield parquet
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file} is no parquet file, or a damaged one: {error}") from error
    except OSError as error:  # as which arrow reports damaged pages, too
        raise DataError(f"{file} cannot be read, or is damaged: {error}") from error
