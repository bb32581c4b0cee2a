"""Logits of an endless stream, in pieces -> utterances: text, words and times, and what is heard so far of the next one.

An utterance ends at a pause, a run of frames without a symbol. Where it ends depends on the logits alone, not on the pieces
in which they come: a live stream and a long file are cut at the same frames, and give the same text. Within an utterance the
decoder carries its state, so that its text is what the decoder finds in the whole utterance.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..decoding_deepspeech2 import GreedyDecoder, Hypothesis, Span
from ..script import whole_words


LONGEST_UTTERANCE = 30.0  # seconds


class LiveText(NamedTuple):
    """What is heard so far: `stable` only grows, `tentative` goes on from it and may change."""

    stable: str
    tentative: str

    def __str__(self) -> str:
        return self.stable + self.tentative


class UtteranceDecoder:
    """Finds the utterances in a stream of logits.

    Args:
        decoder: a [`GreedyDecoder`] or a [`CTCBeamSearchDecoder`].
        seconds_per_frame: of the logits.
        end_of_utterance: seconds without a symbol that end an utterance.
        longest_utterance: seconds, so that work and memory stay bounded: in its second half ever shorter pauses between
            two words end an utterance.
        hotwords: see [`CTCBeamSearchDecoder.decode`].

    Raises:
        ValueError: a time that is not positive, or hot words without a beam search.
    """

    def __init__(
        self,
        decoder: Any,
        seconds_per_frame: float,
        end_of_utterance: float = 0.8,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
    ):
        if not 0 < end_of_utterance < longest_utterance:
            raise ValueError(
                "end_of_utterance and longest_utterance are seconds, the first above 0 and less than the second, but are "
                f"{end_of_utterance} and {longest_utterance}."
            )
        if hotwords and isinstance(decoder, GreedyDecoder):
            raise ValueError("hotwords need a beam search: use a CTCBeamSearchDecoder.")
        self.decoder, self.hotwords = decoder, hotwords
        self.seconds_per_frame = seconds_per_frame
        self.pause = max(1, round(end_of_utterance / seconds_per_frame))  # frames
        self.longest = max(self.pause + 1, round(longest_utterance / seconds_per_frame))
        tokenizer = decoder.tokenizer
        self.blank, self.delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        self.between = tokenizer.utterance_separator
        self.word_boundaries = tokenizer.word_boundaries
        self._begin(0)

    def _begin(self, first_frame: int) -> None:
        """A new utterance."""
        self.first_frame = first_frame  # of the utterance, in the stream
        self.pieces: list[Tensor] = []  # its logits
        self.symbols: list[int] = []  # the best one of each frame
        self.length = 0  # frames, of which at most a pause's length before the first symbol
        self.silence = 0  # frames without a symbol at its end
        self.is_between_words = False  # some of these say that a word is over
        self.is_spoken = False  # some frame has a symbol
        self.beam: Any = None

    def feed(self, logits: Tensor | np.ndarray) -> list[Hypothesis]:
        """Logits of shape (frames, vocab_size), any number of frames -> the utterances that end in them.

        Times count from the stream's beginning.
        """
        logits = torch.as_tensor(logits)
        symbols = logits.argmax(1).tolist()
        ended, taken = [], 0
        while (end := self._find_end(symbols[taken:])) is not None:
            self._take(logits[taken : taken + end], symbols[taken : taken + end])
            taken += end
            ended += self._end()
        self._take(logits[taken:], symbols[taken:])
        return ended

    def finish(self) -> list[Hypothesis]:
        """No frame comes after -> the utterance under way, if there is one; the next frame begins a new stream."""
        ended = self._end()
        self._begin(0)
        return ended

    @property
    def text(self) -> LiveText:
        """What is heard so far of the utterance under way; what is stable ends with a whole word."""
        if not self.is_spoken:
            return LiveText("", "")
        if self.beam is not None:
            stable, best = self.decoder.stable_labels(self.beam), self.decoder.best_labels(self.beam)
        else:
            symbols = self.symbols
            best = [one for one, before in zip(symbols, [None, *symbols]) if one != before and one != self.blank]
            stable = best  # a best path only grows
        text = self._spell(best)
        stable_text = whole_words(self._spell(stable), self.word_boundaries).rstrip()
        return LiveText(stable_text, text[len(stable_text) :].rstrip())

    def _find_end(self, symbols: list[int]) -> int | None:
        """Counts on, up to the frame that ends the utterance; how many frames that are, or None if it goes on."""
        for index, symbol in enumerate(symbols):
            is_silent = symbol in (self.blank, self.delimiter)
            self.silence = self.silence + 1 if is_silent else 0
            ends_word = symbol == self.delimiter or self.word_boundaries == "characters"
            self.is_between_words = is_silent and (self.is_between_words or ends_word)
            self.is_spoken = self.is_spoken or not is_silent
            self.length = self.length + 1 if self.is_spoken else min(self.length + 1, self.pause)
            if self.is_spoken and self._is_over():
                return index + 1
        return None

    def _is_over(self) -> bool:
        if self.silence == self.pause or self.length == self.longest:
            return True
        # Never back to an earlier pause: a text that was called stable then might not be the best one any more.
        enough = 2 * (1 - self.length / self.longest) * self.pause  # less than a pause in the second half
        return self.is_between_words and self.silence >= enough

    def _take(self, logits: Tensor, symbols: list[int]) -> None:
        """Frames that are counted already."""
        self.pieces.append(logits)
        self.symbols += symbols
        silent = len(self.symbols) - self.length
        if silent:
            self.pieces, self.symbols = [torch.cat(self.pieces)[silent:]], self.symbols[silent:]
            self.first_frame += silent
        if self.is_spoken and not isinstance(self.decoder, GreedyDecoder):
            if self.beam is None:
                self.beam, logits = self.decoder.start(self.hotwords), torch.cat(self.pieces)
            self.decoder.step(self.beam, logits)

    def _end(self) -> list[Hypothesis]:
        found = []
        if self.beam is not None:
            found = self.decoder.hypotheses(self.beam, self.seconds_per_frame)
        elif self.is_spoken:
            found = self.decoder.decode(torch.cat(self.pieces), self.seconds_per_frame)
        found = [shifted(one, self.first_frame * self.seconds_per_frame) for one in found if one.text]
        self._begin(self.first_frame + self.length)
        return found

    def _spell(self, labels: list[int]) -> str:
        """As [`spell`](decoding_deepspeech2.py) writes them, with the space behind the last word."""
        space = self.decoder.tokenizer.replace_word_delimiter_char
        text = ""
        for label in labels:
            if label != self.delimiter:
                text += self.decoder.tokenizer.convert_ids_to_tokens(label)
            elif text and not text.endswith(space):
                text += space
        return text


def shifted(hypothesis: Hypothesis, seconds: float) -> Hypothesis:
    """The same, so much later."""

    def later(spans: list[Span]) -> list[Span]:
        return [dataclasses.replace(span, start=span.start + seconds, end=span.end + seconds) for span in spans]

    return dataclasses.replace(hypothesis, words=later(hypothesis.words), characters=later(hypothesis.characters))
