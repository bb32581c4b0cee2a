"""Divides the logits of an endless stream into utterances with word times, and gives the text so far of the current one.

An utterance ends at a pause, a run of frames without a symbol. Its end depends only on the logits, not on the pieces in
which they arrive: a live stream and a long file are cut at the same frames and give the same text. Within an utterance the
decoder carries its state, so that the text is what the decoder finds in the whole utterance.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import UserError
from .first_letters import LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, behind_pauses, words_without_pause
from .hypotheses import Decoder, Hypothesis, Span, as_array, words_of
from .script import whole_words


if TYPE_CHECKING:
    from torch import Tensor


END_OF_UTTERANCE = 0.8  # seconds
LONGEST_UTTERANCE = 30.0


class LiveText(NamedTuple):
    """The text so far: `stable` only grows, `tentative` follows it and may change."""

    stable: str
    tentative: str

    def __str__(self) -> str:
        return self.stable + self.tentative


class UtteranceDecoder:
    """Finds the utterances in a stream of logits.

    Args:
        decoder: see [`Decoder`].
        seconds_per_frame: of the logits.
        end_of_utterance: seconds without a symbol that end an utterance.
        longest_utterance: seconds, so that work and memory stay bounded: in its second half ever shorter pauses between
            two words end an utterance.
        hotwords: see [`CTCBeamSearchDecoder.decode`].
        n_best: how many hypotheses of each utterance.
        is_bidirectional: the network may give first letters of words before a pause, see `first_letters.py`; then no
            utterance ends between such a letter and its word.

    Raises:
        UserError: a time that is not positive, or hot words without a beam search.
    """

    def __init__(
        self,
        decoder: Decoder,
        seconds_per_frame: float,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
        n_best: int = 1,
        is_bidirectional: bool = False,
    ):
        if not 0 < end_of_utterance < longest_utterance:
            raise UserError(
                "end_of_utterance and longest_utterance are seconds, the first above 0 and less than the second, but are "
                f"{end_of_utterance} and {longest_utterance}."
            )
        decoder.start(hotwords)  # hot words that cannot be used end it here
        self.decoder, self.hotwords, self.n_best = decoder, hotwords, n_best
        self.is_bidirectional = is_bidirectional
        self.seconds_per_frame = seconds_per_frame
        self.pause = max(1, round(end_of_utterance / seconds_per_frame))  # frames
        self.longest = max(self.pause + 1, round(longest_utterance / seconds_per_frame))
        self.longest_pause = max(self.pause + 1, round(LONGEST_PAUSE_SECONDS / seconds_per_frame))
        tokenizer = decoder.tokenizer
        self.blank, self.delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        self.between = tokenizer.utterance_separator
        self.word_boundaries = tokenizer.word_boundaries
        self.has_spaces = self.word_boundaries == "spaces"
        self._begin(0)

    def _begin(self, first_frame: int) -> None:
        """A new utterance."""
        self.first_frame = first_frame  # of the utterance, in the stream
        self.length = 0  # frames, of which at most a pause's length before the first symbol
        self.counted = 0  # of these, the frames that count for the longest utterance
        self.silence = 0  # frames without a symbol at its end
        self.is_between_words = False  # some of these say that a word is over
        self.is_spoken = False  # some frame has a symbol
        self.last = self.blank  # best symbol of the last frame
        # Where no spaces tell words apart, only the first symbol of a stream is known to begin one.
        self.begins_with_word = first_frame == 0 or self.has_spaces
        self.begins_word = self.begins_with_word  # the next symbol does
        self.letter: int | None = None  # frame of a first letter that no other symbol has followed yet
        self.is_after_word = False  # something was said before it
        self.is_in_doubt = False  # the utterance would have ended behind it
        self.unsearched = np.zeros((0, len(self.decoder.tokenizer)), np.float32)  # last frames, that the decoder waits for
        self.state: Any = None  # the decoder's
        self.spelled = 0, ""  # how many stable labels, and their text

    def feed(self, logits: Tensor | np.ndarray) -> list[Hypothesis]:
        """Logits of shape (frames, vocab_size), any number of frames -> the utterances that end in them.

        Times count from the stream's beginning.
        """
        return [found[0] for found in self.feed_n_best(logits)]

    def finish(self) -> list[Hypothesis]:
        """Ends the stream; returns the current utterance, if there is one. The next frame begins a new stream."""
        return [found[0] for found in self.finish_n_best()]

    def feed_n_best(self, logits: Tensor | np.ndarray) -> list[list[Hypothesis]]:
        """`feed`, with the `n_best` hypotheses of each utterance, best first."""
        ended, waiting = [], [as_array(logits)]
        while waiting:
            piece = waiting.pop()
            taken, end = self._find_end(piece.argmax(1).tolist())
            self._take(piece[:taken])
            if end is None:
                continue
            waiting.append(piece[taken:])
            if end < self.length:  # a first letter and the pause behind it are looked at again, as the next utterance
                waiting.append(self.unsearched)
                self.unsearched = self.unsearched[:0]
            ended += self._end(end)
        return ended

    def finish_n_best(self) -> list[list[Hypothesis]]:
        """`finish`, with the `n_best` hypotheses of the utterance."""
        ended = self._end(self.length)
        self._begin(0)
        return ended

    @property
    def text(self) -> LiveText:
        """The text so far of the utterance under way; what is stable ends with a whole word."""
        if self.state is None:
            return LiveText("", "")
        stable, best = self.decoder.stable_labels(self.state), self.decoder.best_labels(self.state)
        number, spelled = self.spelled
        spelled = self._spell(stable[number:], spelled)
        self.spelled = len(stable), spelled  # they only grow: each is spelled once
        text = self._spell(best[len(stable) :], spelled)
        stable_text = whole_words(spelled, self.word_boundaries).rstrip()
        return LiveText(stable_text, text[len(stable_text) :].rstrip())

    @property
    def start(self) -> float:
        """Seconds at which the utterance under way begins, at most a pause before its first symbol."""
        return self.first_frame * self.seconds_per_frame

    def text_after(self, ended: list[str]) -> LiveText:
        """`text` behind the texts of the utterances that have ended."""
        before, current = self.between.join(ended), self.text
        if before and str(current):
            before += self.between
        return LiveText(before + current.stable, current.tentative)

    def _find_end(self, symbols: list[int]) -> tuple[int, int | None]:
        """Counts frames up to the utterance's end -> how many of these there are, and which frame of it is that end."""
        for index, symbol in enumerate(symbols):
            if self.is_in_doubt and symbol != self.blank:
                if self.is_after_word:
                    return index, self.letter
                self.is_in_doubt, self.counted = False, min(self.counted, self.pause)
            self._count(symbol)
            if self.is_spoken and self._is_over():
                return index + 1, self.length
        return len(symbols), None

    def _count(self, symbol: int) -> None:
        is_silent = symbol in (self.blank, self.delimiter)
        if symbol == self.delimiter:
            self.begins_word, self.letter = True, None
        elif not is_silent and symbol != self.last:
            self.letter = self.length if self.begins_word and self.is_bidirectional else None
            self.begins_word, self.is_after_word = False, self.is_spoken
        self.last = symbol
        self.silence = self.silence + 1 if is_silent else 0
        self.is_between_words = is_silent and (self.is_between_words or symbol == self.delimiter or not self.has_spaces)
        self.is_spoken = self.is_spoken or not is_silent
        self.length = self.length + 1 if self.is_spoken else min(self.length + 1, self.pause)
        self.counted = self.counted + (not self.is_in_doubt) if self.is_spoken else self.length

    def _is_over(self) -> bool:
        if self.counted == self.longest or self.silence == self.longest_pause:
            return True
        # Never back to an earlier pause: a text that was called stable then might not be the best one any more.
        enough = 2 * (1 - self.counted / self.longest) * self.pause  # less than a pause in the second half
        is_over = self.silence == self.pause or (self.is_between_words and self.silence >= enough)
        self.is_in_doubt = self.is_in_doubt or (is_over and self.letter is not None)
        return is_over and not self.is_in_doubt

    def _take(self, logits: np.ndarray) -> None:
        """Takes frames that are already counted."""
        self.unsearched = np.concatenate([self.unsearched, logits])
        if self.state is None:
            silent = len(self.unsearched) - self.length
            self.unsearched = self.unsearched[silent:]
            self.first_frame += silent
        if self.is_spoken:
            waiting = 0 if self.letter is None else self.length - self.letter
            self._search(len(self.unsearched) - waiting)

    def _search(self, frames: int) -> None:
        """Gives the decoder that many more frames."""
        if frames > 0:
            self.state = self.decoder.start(self.hotwords) if self.state is None else self.state
            self.decoder.step(self.state, self.unsearched[:frames])
            self.unsearched = self.unsearched[frames:]

    def _end(self, end: int) -> list[list[Hypothesis]]:
        """Ends the utterance; the next one begins with its frame `end`."""
        if self.is_spoken:
            self._search(len(self.unsearched))
        found = []
        if self.state is not None:
            found = self.decoder.hypotheses(self.state, self.seconds_per_frame, self.n_best)
        if self.is_bidirectional:
            found = [self._with_late_letters(one) for one in found]
        found = [shifted(one, self.first_frame * self.seconds_per_frame) for one in found]
        self._begin(self.first_frame + end)
        return [found] if found and found[0].text else []

    def _with_late_letters(self, hypothesis: Hypothesis) -> Hypothesis:
        """The same text, with first letters behind the pauses that they were given before."""
        tokenizer, spans = self.decoder.tokenizer, hypothesis.characters
        space = tokenizer.replace_word_delimiter_char
        words = words_without_pause([span.text == space for span in spans])
        if not self.has_spaces:  # where no spaces tell words apart, the first symbol of a stream may come too early
            words = [(0, 2)] if self.begins_with_word and len(spans) > 1 else []
        pause = (round(PAUSE_SECONDS / self.seconds_per_frame) + 0.5) * self.seconds_per_frame
        times = behind_pauses(np.array([[span.start, span.end] for span in spans]).reshape(-1, 2), words, pause)
        characters = [dataclasses.replace(span, start=s, end=e) for span, (s, e) in zip(spans, times.tolist())]
        return dataclasses.replace(hypothesis, characters=characters, words=words_of(self.decoder, characters))

    def _spell(self, labels: list[int], text: str) -> str:
        """`text` and labels behind it, as [`spell`](hypotheses.py) writes them, with the space behind the last word."""
        space = self.decoder.tokenizer.replace_word_delimiter_char
        for label, symbol in zip(labels, self.decoder.tokenizer.convert_ids_to_tokens(labels)):
            if label != self.delimiter:
                text += symbol
            elif text and not text.endswith(space):
                text += space
        return text


def shifted(hypothesis: Hypothesis, seconds: float) -> Hypothesis:
    """The same, so much later."""

    def later(spans: list[Span]) -> list[Span]:
        return [dataclasses.replace(span, start=span.start + seconds, end=span.end + seconds) for span in spans]

    return dataclasses.replace(hypothesis, words=later(hypothesis.words), characters=later(hypothesis.characters))
