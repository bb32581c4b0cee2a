"""Finds the clips of a corpus: one row for each, with the place of its audio and its transcript.

It reads folders of audio with a metadata file, manifests and Kaldi folders (`manifests`), and corpora as they are downloaded
(`layouts`).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..data.sources import DataError
from ..data.text_tables import writable
from .layouts import find_layout
from .manifests import MANIFESTS, Clip, ManifestColumns, kaldi_folders, manifests, metadata_files, read_kaldi, read_manifest


SPLIT_NAME = re.compile(r"\w+(\.\w+)*")  # what `datasets` takes for the name of a split


def read_clips(source: Path, audio_root: Path | None = None, columns: ManifestColumns | None = None) -> Iterator[Clip]:
    """Every clip that a folder or manifest names, each with a name of its own.

    Args:
        audio_root: the folder that paths start from, where it is not the manifest's own.
        columns: of manifests, where they are called otherwise.

    Raises:
        DataError: no such source, none of a known kind, a file that cannot be read, or a bad name of a split.
    """
    seen: Counter[str] = Counter()
    for clip in _read_source(source, audio_root, columns or ManifestColumns()):
        if clip.split is not None and not SPLIT_NAME.fullmatch(clip.split):
            raise DataError(
                f"{source}: expected a split's name of letters, digits and underscores, but found {clip.split!r}: rename it."
            )
        name = writable(clip.name)
        seen[name] += 1
        yield clip._replace(
            name=name if seen[name] == 1 else f"{name} ({seen[name]})",
            text=writable(clip.text, "replace"),
            speaker=clip.speaker and writable(clip.speaker),
            problem=writable(clip.problem),
        )


def _read_source(source: Path, audio_root: Path | None, columns: ManifestColumns) -> Iterator[Clip]:
    if source.is_file():
        if source.suffix.lower() not in MANIFESTS:
            raise DataError(f"A manifest is a file {', '.join(MANIFESTS)}, but {source} is none.")
        yield from read_manifest(source, audio_root, None, columns)
        return
    if not source.is_dir():
        raise DataError(f"There is no folder or manifest {source}.")
    if any(source.rglob("*.parquet")):
        raise DataError(f"{source} holds parquet shards already, which are read as they are.")
    kaldi = kaldi_folders(source)
    if kaldi:
        for folder, split in kaldi:
            yield from read_kaldi(folder, audio_root, split)
        return
    layout = find_layout(source)
    if layout is not None:
        yield from layout(source)
        return
    files = metadata_files(source) or manifests(source)
    if not files:
        raise DataError(
            f"{source} holds none of metadata.csv, metadata.jsonl (in it or in a folder for each split), manifests "
            f"({', '.join('*' + kind for kind in MANIFESTS)}), wav.scp with text as Kaldi has them, a known corpus, or "
            f"audio files with a .txt beside each."
        )
    for file, split in files:
        yield from read_manifest(file, audio_root, split, columns)
