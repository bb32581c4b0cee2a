"""Prefix beam search over the symbols of CTC (section 3.8): in every frame the best prefixes stay or grow by one symbol.

This is our own implementation, in NumPy. The packages that can be installed are exact only without a language model, have no
weights for single hot words, and cannot continue a live stream (measured: `python -m benchmarks decoding`).

Prefixes, and the words in them, are identified by 64-bit rolling hashes, so the search is exact up to hash collisions: two
different prefixes of one beam are confused with a probability of about 10^-16 per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .hotwords import Hotwords
from .hypotheses import Calibration, Hypothesis, check_n_best, log_softmax, spell
from .lm_scoring import Limits, Scoring, Table
from .viterbi import ctc_viterbi


if TYPE_CHECKING:
    from torch import Tensor


_IMPOSSIBLE = np.finfo(float).min  # what is below it is minus infinity
_PREFIX_BASE = 6364136223846793005  # of the rolling hash of a prefix, modulo 2^64


@dataclass
class Prefixes(Table):
    """The prefixes of a beam, one row for each."""

    blank: np.ndarray  # log p of the paths that end with a blank
    nonblank: np.ndarray  # log p of the others
    identity: np.ndarray  # hash of the symbols
    parent: np.ndarray  # hash without the last symbol
    last: np.ndarray  # last symbol, -1 for none
    node: np.ndarray  # where the prefix ends in the tree of all prefixes
    language: Any  # the scoring's own table
    hot: np.ndarray  # state of the hot words' automaton
    bonus: np.ndarray  # what hot words have added


class Beam:
    """The state of a search within an utterance; [`BeamSearch`] creates and advances it."""

    def __init__(self, hotwords: Hotwords | None, language: Table):
        self.hotwords = hotwords
        self.log_probs: list[np.ndarray] = []  # of the frames so far
        zero, hot = np.zeros(1, np.int64), 0 if hotwords is None else hotwords.start
        self.prefixes = Prefixes(
            blank=np.zeros(1),
            nonblank=np.full(1, -np.inf),
            identity=zero + 1,
            parent=zero,
            last=zero - 1,
            node=zero,
            language=language,
            hot=zero + hot,
            bonus=np.zeros(1),
        )
        # The tree of prefixes: node 0 is the empty one, and each comes after its parent.
        self.parents, self.symbols, self.size = np.zeros(1024, np.int64), np.zeros(1024, np.int64), 1
        # As of the last `settle`: where all prefixes part, and which of their last nodes are on one branch of it.
        self.stable_node, self.stable_labels = 0, []
        self.is_on_branch, self.last_settled = np.zeros(1024, bool), 0

    def add_nodes(self, parents: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """New nodes of the tree."""
        new = np.arange(self.size, self.size + len(parents))
        self.size += len(parents)
        if self.size > len(self.parents):
            tree = self.parents, self.symbols, self.is_on_branch
            self.parents, self.symbols, self.is_on_branch = (np.resize(part, 2 * self.size) for part in tree)
        self.parents[new], self.symbols[new] = parents, symbols
        return new

    def labels(self, node: int) -> list[int]:
        """The prefix of the beam that ends in a node."""
        found = []
        while node > self.stable_node:
            found.append(self.symbols.item(node))
            node = self.parents.item(node)
        return self.stable_labels + found[::-1]

    def settle(self) -> None:
        """Finds the node where the prefixes of the beam part; later prefixes descend from it, too.

        While some of them are on one branch of it and some are not, it is still the same one.
        """
        nodes = self.prefixes.node
        is_on_branch = self.is_on_branch[self._ancestors(nodes, self.last_settled)]
        if is_on_branch.all() or not is_on_branch.any():
            common = nodes
            while (oldest := int(common.min())) < common.max():
                common = self._ancestors(common, oldest)
            self.stable_labels, self.stable_node = self.labels(oldest), oldest
            branch = int(nodes.max())
            while self.parents.item(branch) > oldest:
                branch = self.parents.item(branch)
            is_on_branch = self._ancestors(nodes, branch) == branch
        self.is_on_branch[nodes], self.last_settled = is_on_branch, self.size - 1

    def _ancestors(self, nodes: np.ndarray, latest: int) -> np.ndarray:
        """The nodes themselves, or of each the first ancestor that does not come after `latest`."""
        while (is_later := nodes > latest).any():
            nodes = np.where(is_later, self.parents[nodes], nodes)
        return nodes


class BeamSearch:
    """Searches the labelling with the best score.

    Args:
        tokenizer: of the acoustic model.
        scoring: what a language model adds to the acoustic score.
        limits: what is kept after each frame.
        cutoff_probability, cutoff_top_n: of each frame, the fewest symbols whose cumulative probability reaches the first,
            and no more than the second, are looked at.
    """

    calibration = Calibration()  # of the confidences of words

    def __init__(self, tokenizer: Any, scoring: Scoring, limits: Limits, cutoff_probability: float, cutoff_top_n: int):
        self.tokenizer, self.scoring, self.limits = tokenizer, scoring, limits
        self.cutoff_probability, self.cutoff_top_n = cutoff_probability, cutoff_top_n
        self.blank = tokenizer.pad_token_id

    def start(self, hotwords: Hotwords | None = None) -> Beam:
        """The state before the first frame."""
        return Beam(hotwords, self.scoring.start())

    def step(self, beam: Beam, logits: Tensor | np.ndarray) -> Beam:
        """Advances by the frames of `logits`, shape (frames, vocab_size), any number of them; changes and returns `beam`."""
        log_probs = log_softmax(logits)
        if log_probs.shape[1] != len(self.tokenizer):
            raise UserError(
                f"logits: found {log_probs.shape[1]} symbols, expected the {len(self.tokenizer)} of the tokenizer."
            )
        if len(log_probs):
            beam.log_probs.append(log_probs)
        for frame, symbols in zip(log_probs, self.kept_symbols(log_probs)):
            self._advance(beam, frame, symbols)
        return beam

    def kept_symbols(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """For each frame the symbols that may extend a prefix, without the blank."""
        enough = self.cutoff_probability if self.cutoff_probability < 1 else np.inf
        best = log_probs.argmax(1)
        kept = [best[frame : frame + 1] for frame in range(len(best))]
        unsure = np.flatnonzero(np.exp(log_probs[np.arange(len(best)), best]) < enough)
        if len(unsure):
            rows, number = log_probs[unsure], min(self.cutoff_top_n, log_probs.shape[1])
            top = np.argpartition(-rows, number - 1, axis=1)[:, :number]
            values = np.take_along_axis(rows, top, 1)
            order = np.argsort(-values, axis=1, kind="stable")
            top, values = np.take_along_axis(top, order, 1), np.exp(np.take_along_axis(values, order, 1))
            counts = (np.cumsum(values, axis=1) - values < enough).sum(1)
            for frame, symbols, count in zip(unsure.tolist(), top, counts):
                kept[frame] = symbols[:count]
        return [symbols[symbols != self.blank] for symbols in kept]

    def _advance(self, beam: Beam, log_probs: np.ndarray, symbols: np.ndarray) -> None:
        """One frame: every prefix stays or grows by a symbol, and the best go on."""
        prefixes = beam.prefixes
        total = np.logaddexp(prefixes.blank, prefixes.nonblank)
        new_blank = total + log_probs[self.blank]
        # Without a blank between, the last symbol again is the same symbol.
        repeated = prefixes.nonblank + np.where(prefixes.last >= 0, log_probs[prefixes.last], -np.inf)
        if not len(symbols):
            prefixes.blank, prefixes.nonblank = new_blank, repeated
            return
        grown = _grow_and_join(prefixes, total, repeated, log_probs, symbols)
        earned = self.scoring.standing(prefixes.language) + prefixes.bonus
        staying = np.logaddexp(new_blank, repeated) + earned
        scores = grown + earned[:, None]
        if beam.hotwords is not None:
            bonus, hot = beam.hotwords.extend(prefixes.hot, symbols)
            scores += bonus
        extension = self.scoring.extend(prefixes.language, symbols, staying, scores, self.limits)

        chosen = self._choose(np.concatenate([staying, scores.ravel()]))
        width = len(staying)
        stays, grows = chosen[chosen < width], chosen[chosen >= width] - width
        rows, columns = np.divmod(grows, len(symbols))
        prefixes.blank, prefixes.nonblank = new_blank, repeated
        beam.prefixes = prefixes.take(np.concatenate([stays, rows]))
        if len(grows):
            longer, added = beam.prefixes[len(stays) :], symbols[columns]
            self._lengthen(beam, longer, added, grown[rows, columns])
            if beam.hotwords is not None:
                longer.bonus += bonus[rows, columns]
                longer.hot[:] = hot[rows, columns]
            self.scoring.grow(longer.language, added, extension, rows, columns)

    def _choose(self, scores: np.ndarray) -> np.ndarray:
        """Indices of the scores that are within the limits."""
        bound = max(scores.max() - self.limits.threshold, _IMPOSSIBLE)
        chosen = np.flatnonzero(scores >= bound)
        if len(chosen) > self.limits.width:
            chosen = chosen[np.argpartition(-scores[chosen], self.limits.width - 1)[: self.limits.width]]
        return chosen

    def _lengthen(self, beam: Beam, prefixes: Prefixes, symbols: np.ndarray, acoustic: np.ndarray) -> None:
        """Turns copies of prefixes into those that are one symbol longer; the arrays are views into the beam."""
        prefixes.blank[:], prefixes.nonblank[:] = -np.inf, acoustic
        prefixes.parent[:] = prefixes.identity
        prefixes.identity[:] = prefixes.identity * _PREFIX_BASE + (symbols + 1)
        prefixes.last[:] = symbols
        prefixes.node[:] = beam.add_nodes(prefixes.node, symbols)

    def _scores(self, beam: Beam, is_final: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Acoustic score, log p_lm and Q of the prefixes of the beam."""
        prefixes = beam.prefixes
        acoustic = np.logaddexp(prefixes.blank, prefixes.nonblank)
        log_prob, length = self.scoring.finish(prefixes.language, is_final)
        bonus = prefixes.bonus
        if is_final and beam.hotwords is not None:
            bonus = bonus + beam.hotwords.final_bonus[prefixes.hot]
        score = acoustic + self.scoring.alpha * log_prob + self.scoring.beta * length + bonus
        return acoustic, np.broadcast_to(log_prob, acoustic.shape), score

    def hypotheses(self, beam: Beam, seconds_per_frame: float, n_best: int = 1, is_final: bool = True) -> list[Hypothesis]:
        """The best hypotheses so far, best first; `is_final`: the last word and the end of the sentence count, too."""
        check_n_best(n_best)
        log_probs = np.concatenate(beam.log_probs or [np.zeros((0, len(self.tokenizer)))])
        acoustic, log_prob, score = self._scores(beam, is_final)
        found: dict[str, Hypothesis] = {}
        for row in np.argsort(-score, kind="stable"):
            labels = beam.labels(int(beam.prefixes.node[row]))
            frames = ctc_viterbi(log_probs, np.array(labels), self.blank).tolist() if labels else []
            spelled = spell(self, labels, frames, log_probs, seconds_per_frame)
            scores = float(acoustic[row]), float(log_prob[row]), float(score[row])
            found.setdefault(spelled[0], Hypothesis(*spelled, *scores))
            if len(found) == n_best:
                break
        return list(found.values())

    def best_labels(self, beam: Beam, is_final: bool = False) -> list[int]:
        """The labels of the best hypothesis alone, without times."""
        *_, score = self._scores(beam, is_final)
        return beam.labels(int(beam.prefixes.node[score.argmax()]))

    def stable_labels(self, beam: Beam) -> list[int]:
        """The labels shared by all prefixes of the beam, which later frames cannot change."""
        beam.settle()
        return beam.stable_labels


def _grow_and_join(
    prefixes: Prefixes, total: np.ndarray, repeated: np.ndarray, log_probs: np.ndarray, symbols: np.ndarray
) -> np.ndarray:
    """log p_ctc of each prefix extended by a symbol, shape (prefixes, symbols).

    A prefix that would grow into another one of the beam is merged with it: its probability is added to `repeated`.
    """
    width, last = len(total), prefixes.last
    grown = total[:, None] + log_probs[symbols]
    columns = np.full(len(log_probs), -1)
    columns[symbols] = np.arange(len(symbols))
    column = columns[last]  # of the symbol that each prefix ends with; prefix without symbols: of any, to be masked
    column[last < 0] = -1
    same = np.flatnonzero(column >= 0)
    grown[same, column[same]] = prefixes.blank[same] + log_probs[last[same]]  # the symbol twice needs a blank between
    order = np.argsort(prefixes.identity)
    wanted = prefixes.parent[same]
    parent = order[np.minimum(np.searchsorted(prefixes.identity, wanted, sorter=order), width - 1)]
    is_there = prefixes.identity[parent] == wanted
    joined = same[is_there]
    if len(joined):
        spot = (parent[is_there], column[joined])
        repeated[joined] = np.logaddexp(repeated[joined], grown[spot])
        grown[spot] = -np.inf
    return grown
