"""When was it said? Audio, or its logits, and the text that is known -> start and end of each line, word and character.

The most probable CTC path that spells the text, found exactly (Viterbi), however long the recording: the forward pass keeps
its state only now and then, and the way back is computed again between two such checkpoints, where it can only pass
through a window of the text. So memory is linear in the length; an hour of English speech takes some hundred megabytes.
Section 5 of the paper aligns its recordings so, before it cuts them.
"""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .decoding_deepspeech2 import Span, log_softmax
from .recordings_deepspeech2 import recording_logits
from .tokenization_deepspeech2 import _CJK


logger = logging.getLogger(__name__)

CHECKPOINT_FRAMES = 1024

# What carries times: an ideograph with the punctuation behind it, or whatever else stands between spaces.
_WRITTEN_WORD = re.compile(rf"[{_CJK}][^\w\s]*|[^\s{_CJK}]+")
_IDEOGRAPH = re.compile(rf"[{_CJK}]")


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
    """Finds when each line, word and character of a known text was said.

    Args:
        audio: path or bytes of a file, or samples at the model's rate, shape (samples,).
        text: all that is said and nothing else; its lines, or the strings of a list, get times and costs of their own.
        model: a [`DeepSpeech2ForCTC`].
        processor: the [`DeepSpeech2Processor`] beside it.

    Raises:
        ValueError: a text without a character of the vocabulary, or one that is too long for the audio.
        AudioError: audio that cannot be read.
    """
    seconds_per_frame = model.config.inputs_to_logits_ratio / processor.feature_extractor.sampling_rate
    logits = recording_logits(model, processor.feature_extractor, audio)
    return align_logits(logits, text, processor.tokenizer, seconds_per_frame)


def align_logits(
    logits: Tensor | np.ndarray | Iterable[Tensor], text: str | list[str], tokenizer: Any, seconds_per_frame: float
) -> Alignment:
    """`align` for logits of shape (frames, vocab_size), whole or in pieces one after the other."""
    script = _Script(text.splitlines() if isinstance(text, str) else text, tokenizer)
    pieces = [logits] if isinstance(logits, (Tensor, np.ndarray)) else logits
    # Only the symbols of the text count, and those in half the digits: much of an alphabet like Chinese is not in it.
    symbols, labels = np.unique([tokenizer.pad_token_id, *script.labels], return_inverse=True)
    blank, labels = labels[0], labels[1:]
    emissions = [log_softmax(piece)[:, symbols].astype(np.float32) for piece in pieces if len(piece)]
    emissions = np.concatenate(emissions) if emissions else np.zeros((0, len(symbols)), np.float32)
    frames = ctc_viterbi(emissions, labels, int(blank))

    along = emissions[:, blank].astype(np.float64)  # log p of the path, frame by frame
    for label, (start, end) in zip(labels, frames):
        along[start:end] = emissions[start:end, label]
    total = np.concatenate([[0.0], np.cumsum(along)])

    def span(text: str, places: list[int]) -> Span:
        own = np.concatenate([along[slice(*frames[place])] for place in places])
        start, end = frames[places[0]][0], frames[places[-1]][1]
        return Span(text, float(start * seconds_per_frame), float(end * seconds_per_frame), float(np.exp(own.mean())))

    lines = []
    for line, written in script.lines:
        words = [span(word, places) for word, places in written]
        places = [place for _, places in written for place in places]
        characters = [span(script.symbols[place], [place]) for place in places if not script.is_delimiter(place)]
        start, end = frames[places[0]][0], frames[places[-1]][1]
        lines.append(AlignedLine(line, words[0].start, words[-1].end, words, characters, float(total[start] - total[end])))
    return Alignment(lines, float(-total[-1]))


class _Script:
    """The labels of a text, and of which written word and line each is."""

    def __init__(self, lines: Iterable[str], tokenizer: Any):
        self.delimiter = tokenizer.word_delimiter_token
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
            raise ValueError("text: found no character of the tokenizer's vocabulary, expected what is said in the audio.")
        self.labels = tokenizer.convert_tokens_to_ids(self.symbols)

    def is_delimiter(self, place: int) -> bool:
        return self.symbols[place] == self.delimiter


def _spoken(line: str, tokenizer: Any) -> list[tuple[str, bool, list[str]]]:
    """Written words of a line, whether a space stands before each, and the symbols that spell it."""
    pattern = re.compile(r"\S+") if tokenizer.label_unit == "bigram" else _WRITTEN_WORD
    matches = list(pattern.finditer(line))
    spoken = [tokenizer.normalize(match[0]).split() for match in matches]
    whole = tokenizer.normalize(line).split()
    if sum(map(len, spoken)) == len(whole):  # apostrophes are best told from quotation marks in the whole line
        ends = np.cumsum([len(words) for words in spoken])
        spoken = [whole[end - len(words) : end] for words, end in zip(spoken, ends)]
    return [
        (match[0], line[: match.start()].endswith((" ", "\t", "\u3000")), tokenizer.tokenize(" ".join(words)))
        for match, words in zip(matches, spoken)
    ]


def _is_unspaced(before: list[str], after: list[str], tokenizer: Any) -> bool:
    """Whether Mandarin has no space between the symbols, or there are none before."""
    return not before or (tokenizer.language == "zh" and any(map(_IDEOGRAPH.match, (before[-1][-1], after[0][0]))))


def ctc_viterbi(emissions: np.ndarray, labels: np.ndarray, blank: int) -> np.ndarray:
    """First frame and the one after the last of each label on the most probable path.

    Args:
        emissions: log-probabilities, shape (frames, symbols).
        labels: columns of `emissions`, shape (labels,); one at least.
        blank: the blank's column.

    Returns:
        shape (labels, 2).

    Raises:
        ValueError: fewer frames than the labels need.
    """
    labels = np.asarray(labels, dtype=np.intp)
    num_frames, num_labels = len(emissions), len(labels)
    repeats = np.flatnonzero(labels[1:] == labels[:-1]) + 1  # a blank must stand before these
    if num_frames < num_labels + len(repeats):
        raise ValueError(
            f"text: found {num_labels} labels, which need {num_labels + len(repeats)} frames, but the audio has "
            f"{num_frames}: the text is too long for it."
        )
    search = _Trellis(emissions, labels, blank, repeats)
    starts = list(range(0, num_frames, CHECKPOINT_FRAMES))
    states = [search.start()]
    for first, end in zip(starts, starts[1:]):
        states.append(search.forward(states[-1], first, end))

    spans = np.full((num_labels, 2), -1)
    label, on_label = num_labels, False  # the state after the last frame: the last blank, or the last label
    for first in reversed(starts):
        label, on_label = search.backward(
            states.pop(), first, min(first + CHECKPOINT_FRAMES, num_frames), label, on_label, spans
        )
    return spans


class _Trellis:
    """Scores of the best partial paths: on label i, and on the blank before label i (the last one stands behind all)."""

    def __init__(self, emissions: np.ndarray, labels: np.ndarray, blank: int, repeats: np.ndarray):
        self.emissions, self.labels, self.blank = emissions, labels, blank
        self.not_after = np.zeros(
            len(labels)
        )  # added to the step from the label before: none past the first, none to a repeat
        self.not_after[0] = -np.inf
        self.not_after[repeats] = -np.inf

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Before the first frame: as if on the first blank."""
        on_label, on_blank = np.full(len(self.labels), -np.inf), np.full(len(self.labels) + 1, -np.inf)
        on_blank[0] = 0.0
        return on_label, on_blank

    def forward(self, state: tuple[np.ndarray, np.ndarray], first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The state after frames `first` to `end` - 1, without a way back."""
        on_label, on_blank = state[0].copy(), state[1].copy()
        num_frames, num_labels = len(self.emissions), len(self.labels)
        best, from_label, own = np.empty(num_labels), np.empty(num_labels), np.empty(num_labels)
        for frame in range(first, end):
            row = self.emissions[frame].astype(np.float64)
            # Labels that can have been reached, and from which the end can still be: others are as they were, and wrong.
            low, high = max(0, num_labels - num_frames + frame), min(num_labels, frame + 1)
            label, blank = on_label[low:high], on_blank[low : high + 1]
            size = high - low
            top, shifted = best[:size], from_label[:size]
            np.maximum(label, blank[:-1], out=top)
            shifted[0] = on_label[low - 1] if low else -np.inf
            shifted[1:] = label[:-1]
            shifted += self.not_after[low:high]
            np.maximum(top, shifted, out=top)
            np.maximum(blank[1:], label, out=blank[1:])
            blank += row[self.blank]
            np.take(row, self.labels[low:high], out=own[:size], mode="clip")
            np.add(top, own[:size], out=label)
        return on_label, on_blank

    def backward(
        self,
        state: tuple[np.ndarray, np.ndarray],
        first: int,
        end: int,
        label: int,
        on_label: bool,
        spans: np.ndarray,
    ) -> tuple[int, bool]:
        """The best way to a state after frame `end` - 1 from that before frame `first`, which it returns.

        Args:
            state: the scores before frame `first`.
            label, on_label: the state to be reached: that label, or the blank before it.
            spans: takes the frames of the labels on the way.
        """
        # One frame moves a path by one label at most, so that only a window of the labels matters (one more at the very end,
        # where the path may stop on the last label instead).
        low, high = max(0, label - (end - first) - 1), min(label + 1, len(self.labels))
        labels, not_after = self.labels[low:high], self.not_after[low:high].copy()
        scores, blanks = state[0][low:high], state[1][low : high + 1]
        to_label = np.empty((end - first, high - low), np.int8)  # from: 0 itself, 1 the blank before, 2 the label before
        to_blank = np.empty((end - first, high - low + 1), bool)  # from: itself, or the label before
        for index, frame in enumerate(range(first, end)):
            row = self.emissions[frame].astype(np.float64)
            previous = np.concatenate([[-np.inf], scores])
            best = np.maximum(scores, blanks[:-1])
            shifted = previous[:-1] + not_after
            to_label[index] = np.where(shifted > best, 2, blanks[:-1] > scores)
            to_blank[index] = previous > blanks
            scores = np.maximum(best, shifted) + row[labels]
            blanks = np.maximum(blanks, previous) + row[self.blank]
        if end == len(self.emissions) and scores[-1] > blanks[-1]:
            label, on_label = label - 1, True
        for index in range(end - first - 1, -1, -1):
            if on_label:
                spans[label, 0] = first + index
                spans[label, 1] = max(spans[label, 1], first + index + 1)
                came_from = to_label[index, label - low]
                label, on_label = label - int(came_from == 2), came_from != 1
            elif to_blank[index, label - low]:
                label, on_label = label - 1, True
        return label, on_label
