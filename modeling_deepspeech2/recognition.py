"""The single code path from logits to text, with times for words, that everything that transcribes takes.

    logits in pieces -> utterances, which end at pauses -> the decoder's hypotheses -> first letters corrected -> transcript

The pipeline, the command, live streams, evaluation, tuning and benchmarks therefore give the same text for the same logits,
for single clips and in long recordings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .forked_processes import run_forked
from .greedy_decoder import GreedyDecoder
from .hypotheses import Calibration, Decoder, Hypothesis, Span, as_array, check_alphabet, check_n_best
from .utterances import END_OF_UTTERANCE, LONGEST_UTTERANCE, UtteranceDecoder


if TYPE_CHECKING:
    from torch import Tensor


class Recognition:
    """Turns the logits of one model into hypotheses.

    Args:
        tokenizer: of the model.
        config: the model's [`DeepSpeech2Config`].
        decoder: see [`Decoder`]; None: the best path.
        end_of_utterance: seconds without a symbol that end an utterance.
        longest_utterance: seconds; in its second half ever shorter pauses between two words end an utterance.
        hotwords: word or phrase -> weight, see [`CTCBeamSearchDecoder.decode`].
        n_best: how many hypotheses.

    Raises:
        UserError: a decoder of another alphabet, hot words that cannot be used, or a number or time out of its range.
    """

    def __init__(
        self,
        tokenizer: Any,
        config: Any,
        decoder: Decoder | None = None,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
        n_best: int = 1,
    ):
        check_alphabet(decoder, config.vocab_size, tokenizer)
        check_n_best(n_best)
        self.tokenizer, self.config = tokenizer, config
        self.decoder: Decoder = decoder or GreedyDecoder(tokenizer, Calibration(*config.word_confidence))
        self.seconds_per_frame = config.inputs_to_logits_ratio / config.sampling_rate
        self.n_best = n_best
        self._settings = (end_of_utterance, longest_utterance, hotwords, n_best, config.bidirectional)
        self.between = self.stream().between  # two utterances

    def stream(self) -> UtteranceDecoder:
        """The state of a stream of logits before its first frame."""
        return UtteranceDecoder(self.decoder, self.seconds_per_frame, *self._settings)

    def with_best_path(self) -> Recognition:
        """The same recognition with the best path, for comparison."""
        return Recognition(self.tokenizer, self.config)

    def utterances(self, pieces: Iterable[Tensor | np.ndarray]) -> Iterator[Hypothesis]:
        """Logits in pieces, shape (frames, vocab_size) -> each utterance, as soon as it ends."""
        for found in self._n_best_lists(pieces):
            yield found[0]

    def _n_best_lists(self, pieces: Iterable[Tensor | np.ndarray]) -> Iterator[list[Hypothesis]]:
        stream = self.stream()
        for logits in pieces:
            yield from stream.feed_n_best(logits)
        yield from stream.finish_n_best()

    def transcript(self, pieces: Iterable[Tensor | np.ndarray]) -> list[Hypothesis]:
        """The utterances of a recording put together: its `n_best` best hypotheses, best first.

        A recording without speech has one hypothesis with an empty text.
        """
        best = [Hypothesis("", [], [], 0.0, 0.0, 0.0)]
        for found in self._n_best_lists(pieces):
            pairs = sorted(itertools.product(best, found), key=lambda pair: -(pair[0].score + pair[1].score))
            joined: dict[str, Hypothesis] = {}
            for before, after in pairs[: self.n_best]:
                whole = self._joined(before, after)
                joined.setdefault(whole.text, whole)
            best = list(joined.values())
        return best

    def transcripts(self, logits: list[Tensor | np.ndarray], num_processes: int | None = 1) -> list[list[Hypothesis]]:
        """`transcript` of each clip of a list, on so many cores; None: all. Only Linux has more than one."""
        return run_forked(self.transcript, [([as_array(one)],) for one in logits], num_processes)

    def _joined(self, before: Hypothesis, after: Hypothesis) -> Hypothesis:
        between = []
        if self.between and before.text and after.text:
            between = [Span(self.between, before.characters[-1].end, after.characters[0].start, 1.0)]
        return Hypothesis(
            text=before.text + "".join(span.text for span in between) + after.text,
            words=before.words + after.words,
            characters=before.characters + between + after.characters,
            acoustic_score=before.acoustic_score + after.acoustic_score,
            lm_score=before.lm_score + after.lm_score,
            score=before.score + after.score,
        )
