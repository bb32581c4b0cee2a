"""Divides long recordings into overlapping chunks, for models that need future context; only the middle of each counts."""

from collections.abc import Iterable, Iterator

import numpy as np

from ..conditioning import Conditioner, steady_samples


BLOCK_SECONDS = 20.0  # of a state that is carried
CHUNK_SECONDS = 40.0  # of a chunk that counts
CONTEXT_SECONDS = 5.0  # more on both sides: the overlap
CHUNKS = 4  # default number in a batch


def overlapping(pieces: Iterable[np.ndarray], size: int, context: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Samples in pieces -> chunks of `size` with `context` more on both sides, and where in each the samples that count are.

    All that remains at the end counts in the last one.
    """
    held, before = np.zeros(0, np.float32), 0  # samples that are still needed, and how many are left context
    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) > before + size + context:
            yield held[: before + size + context], slice(before, before + size)
            held = held[before + size - context :]
            before = context
    if len(held) > before:
        yield held, slice(before, None)


def trimmed(chunks: Iterable[tuple[np.ndarray, slice]], conditioner: Conditioner) -> Iterator[tuple[np.ndarray, slice]]:
    """The same chunks, the last one without the steady silence at its end, which no model has to read."""
    for chunk, counts in chunks:
        if counts.stop is None:
            spoken = max(counts.start, len(chunk) - steady_samples(chunk, conditioner))
            chunk = chunk[: spoken or len(chunk)]
        yield chunk, counts
