"""Writes what commands produce: files that appear only when complete, JSON, and a progress bar in seconds of audio."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from ..audio import name_of, read_audio_blocks
from ..transcription.chunks import BLOCK_SECONDS


FORMATS = ("txt", "json", "srt", "vtt")
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]"
BAR_WITHOUT_END = "{desc}{n:.0f} s of audio [{elapsed}{postfix}]"


@contextlib.contextmanager
def written(path: Path | None) -> Iterator[TextIO]:
    """Opens the standard output, or a file that gets its name only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    unfinished = path.with_name(path.name + ".part")
    try:
        with open(unfinished, "w", encoding="utf-8", errors="surrogateescape") as stream:
            yield stream
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def as_json(content: dict) -> str:
    """A line of JSON without escapes, except for bytes of file names that are not text."""
    text = json.dumps(content, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def spans(items: list) -> list[dict]:
    """Words or characters with times rounded to milliseconds, for JSON."""
    return [
        {name: round(value, 3) if isinstance(value, float) else value for name, value in dataclasses.asdict(item).items()}
        for item in items
    ]


class Progress:
    """A bar in seconds of audio, with the speed as a multiple of real time; absent where there is no terminal."""

    def __init__(self, seconds: float, is_known: bool):
        self.begin = time.perf_counter()
        self.bar = tqdm(
            total=seconds if is_known else None,
            bar_format=BAR if is_known and seconds else BAR_WITHOUT_END,
            dynamic_ncols=True,
            disable=None,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def watch(self, file: str, rate: int, channel: int | None = None) -> Iterator[np.ndarray]:
        """Passes on the audio of a file, or of one channel, and counts it; of several channels only the first."""
        self.bar.set_description_str(f"{Path(name_of(file)).name} ")
        for block in read_audio_blocks(file, rate, BLOCK_SECONDS, channel=channel):
            yield block
            if channel:
                continue
            speed = (self.bar.n + len(block) / rate) / max(time.perf_counter() - self.begin, 1e-3)
            self.bar.set_postfix_str(f"{speed:.0f} × real time", refresh=False)
            self.bar.update(len(block) / rate)

    def write(self, text: str, stream: TextIO) -> None:
        """Writes a line without disturbing the bar."""
        if stream.isatty():
            with tqdm.external_write_mode(stream):
                stream.write(text)
        else:
            stream.write(text)
        if stream in (sys.stdout, sys.stderr):
            stream.flush()
