"""Transcribes with a model that `deepspeech2 export` wrote, by onnxruntime, without torch and transformers.

From the logits on, everything is as with torch: the same utterances, decoder and word times. The logits are those of torch
but for rounding.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..conditioning import Conditioner, conditioned, with_silence
from ..decoder_settings import DECODER_CONFIG
from ..errors import UserError
from ..hypotheses import NO_CALIBRATION, Decoder, Hypothesis
from ..recognition import Recognition
from ..search_decoder import SearchDecoder
from ..spelling import Spelling
from ..utterances import END_OF_UTTERANCE, LONGEST_UTTERANCE
from .chunks import BLOCK_SECONDS, CHUNK_SECONDS, CHUNKS, CONTEXT_SECONDS, overlapping, trimmed


if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIXES = {"float32": "", "int16": "_fp16", "int8": "_quantized"}  # of the files' names


class ExportedTokenizer(Spelling):
    """The alphabet of an exported model, as decoders ask for it."""

    replace_word_delimiter_char = " "

    def __init__(self, settings: dict[str, Any], vocabulary: dict[str, int]):
        self.encoder = vocabulary
        self.symbols = sorted(vocabulary, key=lambda symbol: vocabulary[symbol])
        self.pad_token, self.unk_token = settings["pad_token"], settings["unk_token"]
        self.word_delimiter_token = settings["word_delimiter_token"]
        self.pad_token_id, self.word_delimiter_token_id = vocabulary[self.pad_token], vocabulary[self.word_delimiter_token]
        self.all_special_tokens = [self.pad_token, self.word_delimiter_token]
        self.language, self.numerals = settings["language"], settings["numerals"]
        self.label_unit, self.word_boundaries = settings["label_unit"], settings["word_boundaries"]
        self._named_characters: set[str] = set()

    def __len__(self) -> int:
        return len(self.symbols)

    def convert_ids_to_tokens(self, ids: int | list[int]) -> str | list[str]:
        """Symbols of ids."""
        return self.symbols[ids] if isinstance(ids, int) else [self.symbols[number] for number in ids]

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """Ids of symbols."""
        return [self.encoder[token] for token in tokens]


class ExportedModel:
    """The folder of an exported model, or its repository on the Hub, of which only the files in use are downloaded.

    >>> model = ExportedModel("english-onnx")
    >>> for utterance in model.transcribe(read_audio_blocks("talk.mp3", model.sampling_rate, 20.0), model.load_decoder()):
    ...     print(utterance.text)

    Args:
        name: a folder as `deepspeech2 export` wrote it, or a repository on the Hub.
        weights: which files: "float32", "int16" or "int8".
        threads: of onnxruntime; None: as many as cores.

    Raises:
        UserError: there is no such model, it is no exported one, or there are no such files.
    """

    def __init__(self, name: str | Path, weights: str = "float32", threads: int | None = None):
        if weights not in SUFFIXES:
            raise UserError(f"weights: found {weights!r}, expected one of {', '.join(SUFFIXES)}.")
        self.name, self.threads, self.suffix = str(name), threads, SUFFIXES[weights]
        self.folder = Path(name) if Path(name).exists() else self._download("*.json")
        try:
            config, settings, vocabulary = (
                json.loads((self.folder / file).read_text(encoding="utf-8"))
                for file in ("config.json", "tokenizer_config.json", "vocab.json")
            )
            own = {"word_confidence": NO_CALIBRATION} | config["deepspeech2"]  # exported before there was one
            self.config = SimpleNamespace(vocab_size=config["vocab_size"], **own)
            self.tokenizer = ExportedTokenizer(settings, vocabulary)
            self.sampling_rate: int = self.config.sampling_rate
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"--model: found no exported model in {name}, expected what `deepspeech2 export` writes."
            ) from error

    def _download(self, *patterns: str) -> Path:
        """Files of the repository, into the cache of the Hub; all of one commit."""
        from huggingface_hub import snapshot_download  # takes a while

        commit = self.folder.name if hasattr(self, "folder") else None
        try:
            return Path(snapshot_download(self.name, allow_patterns=list(patterns), revision=commit))
        except (OSError, ValueError) as error:
            is_name = self.name.count("/") <= 1
            reason = str(error).strip().partition("\n")[0] if is_name else "there is no such folder"
            raise UserError(f"--model: found no exported model in {self.name} ({reason}).") from error

    def load_decoder(self, **settings: Any) -> SearchDecoder:
        """The decoder that was exported beside the model; see [`CTCBeamSearchDecoder.from_pretrained`]."""
        return SearchDecoder.from_files(self.name, self._find, self.tokenizer, **settings)

    def find_decoder(self, lm: str) -> SearchDecoder | None:
        """The decoder as the option `--lm` asks for it: "auto", "on" or "off"; None stands for the best path."""
        if lm == "off" or (lm == "auto" and self._find(DECODER_CONFIG) is None):
            return None
        return self.load_decoder()

    def _find(self, file: str) -> Path | None:
        if not Path(self.name).exists():
            self._download(file)
        return self.folder / file if (self.folder / file).is_file() else None

    def open_session(self, graph: str) -> "InferenceSession":
        """One of the graphs, "model" or "live", in onnxruntime.

        Raises:
            UserError: it is missing or damaged, or onnxruntime is.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("An exported model needs the package onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # an input that may be left out is worth a warning to it
        options.intra_op_num_threads = self.threads or 0
        file = self._find(f"onnx/{graph}{self.suffix}.onnx")
        if file is None:
            raise UserError(f"--model: {self.name} lacks onnx/{graph}{self.suffix}.onnx; export the model again.")
        try:
            return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes are not public, and have no base but this
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"--model: {file} is damaged, or no graph ({reason}): copy it again, or export anew.") from error

    @cached_property
    def offline(self) -> "InferenceSession":
        return self.open_session("model")

    @cached_property
    def live(self) -> "InferenceSession":
        return self.open_session("live")

    def logits(self, pieces: Iterable[np.ndarray], batch_size: int = CHUNKS) -> Iterator[np.ndarray]:
        """Logits of a recording that comes in pieces, in pieces of shape (frames, vocab_size), in bounded memory."""
        conditioner, config = Conditioner(self.sampling_rate, self.config.live_states is None), self.config
        logits = self._logits(conditioned(pieces, conditioner), conditioner, batch_size)
        yield from with_silence(
            logits, conditioner, config.inputs_to_logits_ratio, config.vocab_size, self.tokenizer.pad_token_id
        )

    def _logits(self, pieces: Iterable[np.ndarray], conditioner: Conditioner, batch_size: int) -> Iterator[np.ndarray]:
        if self.config.live_states is None:
            yield from self._chunked_logits(pieces, conditioner, batch_size)
            return
        acoustics, block = self.start(), round(BLOCK_SECONDS * self.sampling_rate)
        for piece in pieces:
            for start in range(0, len(piece), block):
                yield acoustics.feed(piece[start : start + block])
        yield acoustics.feed(np.zeros(0, np.float32), last=True)

    def _chunked_logits(
        self, pieces: Iterable[np.ndarray], conditioner: Conditioner, batch_size: int
    ) -> Iterator[np.ndarray]:
        ratio = self.config.inputs_to_logits_ratio
        size, context = (round(seconds * self.sampling_rate / ratio) for seconds in (CHUNK_SECONDS, CONTEXT_SECONDS))
        chunks = trimmed(overlapping(pieces, size * ratio, context * ratio), conditioner)
        # The first and the last chunk are shorter; those between them need no mask.
        for _, alike in itertools.groupby(chunks, key=lambda chunk: len(chunk[0])):
            while batch := list(itertools.islice(alike, batch_size)):
                samples = np.stack([chunk for chunk, _ in batch]).astype(np.float32, copy=False)
                (logits,) = self.offline.run(["logits"], {"input_values": samples})
                for own, (_, counts) in zip(logits, batch):
                    yield own[counts.start // ratio : None if counts.stop is None else counts.stop // ratio]

    def transcribe(
        self,
        pieces: Iterable[np.ndarray],
        decoder: Decoder | None = None,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
        batch_size: int = CHUNKS,
    ) -> Iterator[Hypothesis]:
        """The utterances of a recording, as [`transcribe`](recordings.py) gives them, from pieces of its samples."""
        recognition = Recognition(self.tokenizer, self.config, decoder, end_of_utterance, longest_utterance, hotwords)
        return recognition.utterances(self.logits(pieces, batch_size))

    def start(self) -> "ExportedAcoustics":
        """A stream before its first sample.

        Raises:
            UserError: the model was exported without `--live`.
        """
        if self.config.live_states is None:
            raise UserError(f"{self.name} has no graph for streams: export a unidirectional model with --live.")
        return ExportedAcoustics(self)


class ExportedAcoustics:
    """One stream through the live graph of an exported model: samples in pieces -> logits."""

    def __init__(self, model: ExportedModel):
        self.session, self.sampling_rate = model.live, model.sampling_rate
        self.states = {name: np.zeros(shape, np.float32) for name, shape in model.config.live_states.items()}

    def feed(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """The logits that are complete now, shape (frames, vocab_size)."""
        inputs = {"samples": samples[None].astype(np.float32, copy=False), "last": np.array([last])}
        logits, *states = self.session.run(None, inputs | self.states)
        self.states = dict(zip(self.states, states))
        return logits[0]

    @staticmethod
    def feed_all(streams: "list[ExportedAcoustics]", samples: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """`feed` for many streams, one after the other; yields the place of a stream and its logits."""
        for place, (stream, piece) in enumerate(zip(streams, samples)):
            yield place, stream.feed(piece)
