"""Transcribes with a model that `deepspeech2 export` wrote, by onnxruntime, without torch and transformers.

From the logits on, everything is as with torch: the same utterances, decoder and word times. The logits are those of torch
but for rounding; a bidirectional model reads one chunk at a time here, and batches of chunks there.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..hypotheses import NO_CALIBRATION, Decoder, Hypothesis
from ..recognition import Recognition
from ..search_decoder import SearchDecoder
from ..spelling import Spelling
from ..utterances import END_OF_UTTERANCE, LONGEST_UTTERANCE, LiveText
from ..waveform import mono
from .chunks import BLOCK_SECONDS, CHUNK_SECONDS, CONTEXT_SECONDS, overlapping


if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_quantized"}  # of the files' names


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
    """The folder of an exported model.

    >>> model = ExportedModel("english-onnx")
    >>> for utterance in model.transcribe(read_audio_blocks("talk.mp3", model.sampling_rate, 20.0), model.load_decoder()):
    ...     print(utterance.text)

    Args:
        folder: as `deepspeech2 export` wrote it.
        weights: which files: "float32", "float16" or "int8".
        threads: of onnxruntime; None: as many as cores.

    Raises:
        UserError: the folder holds no exported model, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, weights: str = "float32", threads: int | None = None):
        self.folder, self.threads, self.suffix = Path(folder), threads, SUFFIXES[weights]
        try:
            config, settings, vocabulary = (
                json.loads((self.folder / name).read_text(encoding="utf-8"))
                for name in ("config.json", "tokenizer_config.json", "vocab.json")
            )
            own = {"word_confidence": NO_CALIBRATION} | config["deepspeech2"]
            self.config = SimpleNamespace(vocab_size=config["vocab_size"], **own)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"--model: found no exported model in {folder}, expected the folder that `deepspeech2 export` writes."
            ) from error
        self.tokenizer = ExportedTokenizer(settings, vocabulary)
        self.sampling_rate: int = self.config.sampling_rate

    @property
    def has_decoder(self) -> bool:
        return self._find("decoder_config.json") is not None

    def load_decoder(self, **settings: Any) -> SearchDecoder:
        """The decoder that was exported beside the model; see [`CTCBeamSearchDecoder.from_pretrained`]."""
        return SearchDecoder.from_files(self.folder, self._find, self.tokenizer, **settings)

    def _find(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_file() else None

    def open_session(self, graph: str) -> "InferenceSession":
        """One of the graphs, "model" or "live", in onnxruntime."""
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("An exported model needs the package onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # an input that may be left out is worth a warning to it
        options.intra_op_num_threads = self.threads or 0
        file = self.folder / "onnx" / f"{graph}{self.suffix}.onnx"
        if not file.is_file():
            live = " --live" if graph == "live" else ""
            raise UserError(f"There is no {file}: export the model with `deepspeech2 export{live}`.")
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    @cached_property
    def offline(self) -> "InferenceSession":
        return self.open_session("model")

    @cached_property
    def live(self) -> "InferenceSession":
        return self.open_session("live")

    def logits(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Logits of a recording that comes in pieces, in pieces of shape (frames, vocab_size), in bounded memory."""
        if self.config.live_states is None:
            yield from self._chunked_logits(pieces)
            return
        acoustics, block = Acoustics(self), round(BLOCK_SECONDS * self.sampling_rate)
        for piece in pieces:
            for start in range(0, len(piece), block):
                yield acoustics.feed(piece[start : start + block])
        yield acoustics.feed(np.zeros(0, np.float32), last=True)

    def _chunked_logits(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        ratio = self.config.inputs_to_logits_ratio
        size, context = (round(seconds * self.sampling_rate / ratio) for seconds in (CHUNK_SECONDS, CONTEXT_SECONDS))
        for chunk, counts in overlapping(pieces, size * ratio, context * ratio):
            (logits,) = self.offline.run(["logits"], {"input_values": chunk[None].astype(np.float32, copy=False)})
            yield logits[0, counts.start // ratio : None if counts.stop is None else counts.stop // ratio]

    def transcribe(
        self,
        pieces: Iterable[np.ndarray],
        decoder: Decoder | None = None,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
    ) -> Iterator[Hypothesis]:
        """The utterances of a recording, as [`transcribe`](recordings.py) gives them, from pieces of its samples."""
        recognition = Recognition(self.tokenizer, self.config, decoder, end_of_utterance, longest_utterance, hotwords)
        return recognition.utterances(self.logits(pieces))


class Acoustics:
    """One stream through the live graph of an exported model: samples in pieces -> logits."""

    def __init__(self, model: ExportedModel):
        self.session = model.live
        self.states = {name: np.zeros(shape, np.float32) for name, shape in model.config.live_states.items()}

    def feed(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """The logits that are complete now, shape (frames, vocab_size)."""
        inputs = {"samples": samples[None].astype(np.float32, copy=False), "last": np.array([last])}
        logits, *states = self.session.run(None, inputs | self.states)
        self.states = dict(zip(self.states, states))
        return logits[0]


class ExportedStream:
    """A live stream with an exported model; has the methods of [`DeepSpeech2Stream`].

    >>> stream = ExportedStream(ExportedModel("live-onnx"))
    >>> for samples in microphone:
    ...     for utterance in stream.feed(samples):
    ...         print(utterance.text)
    >>> stream.finish()

    Args:
        model: exported with `--live`.
        decoder, end_of_utterance, longest_utterance, hotwords: as of [`DeepSpeech2Stream`].

    Raises:
        UserError: the model has no live graph, or the decoder is of another alphabet.
    """

    def __init__(
        self,
        model: ExportedModel,
        decoder: Decoder | None = None,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
    ):
        if model.config.live_states is None:
            raise UserError(f"{model.folder} has no graph for streams: export a unidirectional model with --live.")
        recognition = Recognition(model.tokenizer, model.config, decoder, end_of_utterance, longest_utterance, hotwords)
        self.utterances = recognition.stream()
        self.acoustics: Acoustics | None = Acoustics(model)
        self.ended: list[str] = []  # texts of the utterances that are over

    @property
    def text(self) -> LiveText:
        """The text since the beginning: a stable part, which only grows, and a tentative part behind it."""
        return self.utterances.text_after(self.ended)

    def feed(self, samples: np.ndarray) -> list[Hypothesis]:
        """Feeds samples in [-1, 1]; returns the utterances that ended, with times from the stream's beginning."""
        return self._decode(mono(samples), last=False)

    def finish(self) -> list[Hypothesis]:
        """Ends the stream; returns the utterances that had not ended yet."""
        ended = self._decode(np.zeros(0, np.float32), last=True)
        self.acoustics = None
        return ended

    def _decode(self, samples: np.ndarray, last: bool) -> list[Hypothesis]:
        if self.acoustics is None:
            raise UserError("This stream is finished: make another one for what comes.")
        ended = self.utterances.feed(self.acoustics.feed(samples, last))
        if last:
            ended += self.utterances.finish()
        self.ended += [utterance.text for utterance in ended]
        return ended
