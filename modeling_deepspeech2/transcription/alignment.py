"""Alignment: finds when each line, word and character of a known text was spoken, from audio or its logits.

It takes the most probable CTC path that spells the text, as section 5 of the paper does before cutting recordings. Memory is
linear in the length of the recording.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..first_letters import PAUSE_SECONDS, behind_pauses, words_without_pause
from ..hypotheses import Span, log_softmax
from ..script import WRITTEN_WORDS, is_unspaced
from ..viterbi import ctc_viterbi
from .recordings import recording_logits


logger = logging.getLogger(__name__)

# Of a second of blank, in nats: a prior against pauses where they are seldom. Letters and short words that a bidirectional
# network gave with little certainty before a pause come behind it; where it is certain, nothing changes. Of 120 lines behind
# pauses of 1 and 2 s, noise at -45 dBFS, 3 to 6 within lines left none off by 0.3 s, 0.5 left two.
COST_WITHIN_WORDS = 6.0
COST_WITHIN_LINES = 3.0


@dataclass
class AlignedLine:
    """A line of the text in time.

    `words` are written as in the text, `characters` as the tokenizer spells them, the spaces between words left out.
    """

    text: str
    start: float  # seconds
    end: float
    words: list[Span]
    characters: list[Span]
    cost: float  # -log p of the path's frames from start to end, natural logarithm

    @property
    def cost_per_second(self) -> float:
        return self.cost / max(self.end - self.start, 1e-9)


@dataclass
class Alignment:
    """A text in time."""

    lines: list[AlignedLine]
    cost: float  # -log p of the whole path, natural logarithm

    @property
    def words(self) -> list[Span]:
        return [word for line in self.lines for word in line.words]

    @property
    def characters(self) -> list[Span]:
        return [character for line in self.lines for character in line.characters]


def align(audio: str | os.PathLike | bytes | np.ndarray, text: str | list[str], model: Any, processor: Any) -> Alignment:
    """Finds when each line, word and character of a known text was spoken.

    Args:
        audio: path or bytes of a file, or samples at the model's rate, shape (samples,).
        text: exactly what is spoken; its lines, or the strings of a list, get times and costs of their own.
        model: a [`DeepSpeech2ForCTC`].
        processor: the [`DeepSpeech2Processor`] beside it.

    Raises:
        ValueError: a text without a character of the vocabulary, or one that is too long for the audio.
        AudioError: audio that cannot be read.
    """
    seconds_per_frame = model.config.inputs_to_logits_ratio / processor.feature_extractor.sampling_rate
    logits = recording_logits(model, processor.feature_extractor, audio)
    return align_logits(logits, text, processor.tokenizer, seconds_per_frame, model.config.bidirectional)


def align_logits(
    logits: Tensor | np.ndarray | Iterable[Tensor],
    text: str | list[str],
    tokenizer: Any,
    seconds_per_frame: float,
    is_bidirectional: bool = False,
) -> Alignment:
    """`align` for logits of shape (frames, vocab_size), whole or in pieces one after the other.

    Args:
        is_bidirectional: the network may give first letters of words before a pause, see `first_letters.py`.
    """
    script = _Script(text.splitlines() if isinstance(text, str) else text, tokenizer)
    pieces = [logits] if isinstance(logits, (Tensor, np.ndarray)) else logits
    # Only the symbols of the text count, and those in half the digits: much of an alphabet like Chinese is not in it.
    symbols, labels = np.unique([tokenizer.pad_token_id, *script.labels], return_inverse=True)
    blank, labels = labels[0], labels[1:]
    emissions = [log_softmax(piece)[:, symbols].astype(np.float32) for piece in pieces if len(piece)]
    emissions = np.concatenate(emissions) if emissions else np.zeros((0, len(symbols)), np.float32)
    costs = script.blank_costs(seconds_per_frame) if is_bidirectional else None
    frames = ctc_viterbi(emissions, labels, int(blank), costs)

    along = emissions[:, blank].astype(np.float64)  # log p of the path, frame by frame
    for label, (start, end) in zip(labels, frames):
        along[start:end] = emissions[start:end, label]
    total = np.concatenate([[0.0], np.cumsum(along)])
    times = frames
    if is_bidirectional:
        times = behind_pauses(frames, script.words_without_pause, PAUSE_SECONDS / seconds_per_frame)

    def span(text: str, places: list[int]) -> Span:
        own = np.concatenate([along[slice(*frames[place])] for place in places])
        start, end = times[places[0], 0], times[places[-1], 1]
        return Span(text, float(start * seconds_per_frame), float(end * seconds_per_frame), float(np.exp(own.mean())))

    lines = []
    for line, written in script.lines:
        words = [span(word, places) for word, places in written]
        places = [place for _, places in written for place in places]
        characters = [span(script.symbols[place], [place]) for place in places if not script.is_delimiter(place)]
        start, end = times[places[0], 0], times[places[-1], 1]
        lines.append(AlignedLine(line, words[0].start, words[-1].end, words, characters, float(total[start] - total[end])))
    return Alignment(lines, float(-total[-1]))


class _Script:
    """The labels of a text, and of which written word and line each is."""

    def __init__(self, lines: Iterable[str], tokenizer: Any):
        self.delimiter = tokenizer.word_delimiter_token
        self.has_spaces = tokenizer.word_boundaries == "spaces"
        self.symbols: list[str] = []
        self.lines: list[tuple[str, list[tuple[str, list[int]]]]] = []  # line, [(written word, places of its labels)]
        for line in map(str.strip, lines):
            written: list[tuple[str, list[int]]] = []
            before = ""  # of the line, unspoken punctuation
            for word, is_apart, symbols in _spoken(line, tokenizer):
                space = " " if is_apart and (written or before) else ""
                if symbols:
                    is_first = self.symbols and not written
                    if (is_first or space) and not _is_unspaced(self.symbols, symbols, tokenizer):
                        self.symbols.append(self.delimiter)
                    places = range(len(self.symbols), len(self.symbols) + len(symbols))
                    self.symbols += symbols
                    written.append((before + space * (before != "") + word, list(places)))
                    before = ""
                elif written:
                    written[-1] = (written[-1][0] + space + word, written[-1][1])
                else:
                    before += space + word
            if written:
                self.lines.append((line, written))
            elif line:
                logger.warning("Left out of the alignment, for no character of it is in the vocabulary: %r", line)
        if not self.symbols:
            raise UserError("text: found no character of the tokenizer's vocabulary, expected what is said in the audio.")
        self.labels = tokenizer.convert_tokens_to_ids(self.symbols)

    def blank_costs(self, seconds_per_frame: float) -> np.ndarray:
        """What a frame of blank costs before each symbol and at the end: pauses are between lines, seldom in words."""
        costs = np.full(len(self.symbols) + 1, COST_WITHIN_WORDS)
        for place, symbol in enumerate(self.symbols):
            if symbol == self.delimiter or not self.has_spaces:
                costs[place : place + 2] = COST_WITHIN_LINES
        for _, written in self.lines:
            first = written[0][1][0]
            costs[max(0, first - 1) : first + 1] = 0.0
        costs[-1] = 0.0
        return costs * seconds_per_frame

    @property
    def words_without_pause(self) -> list[tuple[int, int]]:
        """Symbols that no pause belongs into, first and the one after the last, none across the end of a line.

        Where no spaces tell words apart, the first two of a line: a line begins where its second symbol says.
        """
        words = []
        for _, written in self.lines:
            first, end = written[0][1][0], written[-1][1][-1] + 1
            if not self.has_spaces:
                words += [(first, first + 2)] * (end > first + 1)
                continue
            own = words_without_pause([self.is_delimiter(place) for place in range(first, end)])
            words += [(first + start, first + stop) for start, stop in own]
        return words

    def is_delimiter(self, place: int) -> bool:
        return self.symbols[place] == self.delimiter


def _spoken(line: str, tokenizer: Any) -> list[tuple[str, bool, list[str]]]:
    """Written words of a line, whether a space stands before each, and the symbols that spell it."""
    pattern = WRITTEN_WORDS["spaces" if tokenizer.label_unit == "bigram" else tokenizer.word_boundaries]
    matches = list(pattern.finditer(line))
    spoken = [tokenizer.normalize(match[0]).split() for match in matches]
    whole = tokenizer.normalize(line).split()
    if sum(map(len, spoken)) == len(whole):  # the whole line helps to distinguish apostrophes from quotation marks
        ends = np.cumsum([len(words) for words in spoken])
        spoken = [whole[end - len(words) : end] for words, end in zip(spoken, ends)]
    return [
        (match[0], line[: match.start()][-1:].isspace(), tokenizer.tokenize(" ".join(words)))
        for match, words in zip(matches, spoken)
    ]


def _is_unspaced(before: list[str], after: list[str], tokenizer: Any) -> bool:
    """Whether the script has no space between the symbols, or there are none before."""
    without_spaces = tokenizer.word_boundaries == "characters"
    return not before or (without_spaces and any(map(is_unspaced, (before[-1][-1], after[0][0]))))
