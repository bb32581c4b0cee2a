"""Hot words: names and terms that a search is to prefer, each with a weight of its own.

In come words with weights, out goes an automaton over the symbols of the alphabet for [`CTCBeamSearchDecoder`] to walk.
"""

from numbers import Real
from typing import Any

import numpy as np


class Hotwords:
    """Hot words as an automaton over symbols (Aho-Corasick): a weight is given bit by bit, and taken back on a mismatch.

    `bonus[state, symbol]` is what the next symbol is worth, `next[state, symbol]` the state after it. Words of an alphabet
    with spaces match from delimiter to delimiter, a Mandarin word anywhere.
    """

    def __init__(self, tokenizer: Any, hotwords: dict[str, float], whole_words: bool):
        if not isinstance(hotwords, dict):
            raise ValueError(f"hotwords: found a {type(hotwords).__name__}, expected a dict of words and their weights.")
        num_symbols, delimiter = len(tokenizer), tokenizer.word_delimiter_token_id
        children: list[dict[int, int]] = [{}]
        patterns = []
        for text, weight in hotwords.items():
            if not isinstance(weight, Real) or not 0 <= weight < np.inf:
                raise ValueError(f"hotwords: found the weight {weight!r} of {text!r}, expected a number of at least 0.")
            unknown = "".join(tokenizer.unknown_characters(text)) if hasattr(tokenizer, "unknown_characters") else ""
            labels = [] if unknown else tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
            if not labels:
                raise ValueError(f"hotwords: the model has no symbols for {unknown or text!r}, expected its own alphabet.")
            patterns.append(([delimiter, *labels, delimiter] if whole_words else labels, float(weight)))
        depth, potential, final = [0], [0.0], [0.0]
        for labels, weight in patterns:
            node = 0
            for position, label in enumerate(labels, 1):
                if label not in children[node]:
                    children[node][label] = len(children)
                    children.append({})
                    depth.append(depth[node] + 1)
                    potential.append(0.0)
                    final.append(0.0)
                node = children[node][label]
                # The delimiter before a word says nothing yet.
                share = (position - whole_words) / (len(labels) - whole_words)
                if position < len(labels):
                    potential[node] = max(potential[node], weight * share)
            final[node] = max(final[node], weight)
        self.next = np.zeros((len(children), num_symbols), np.int64)
        failure, total = [0] * len(children), list(final)
        order = [0]
        for node in order:
            order += children[node].values()
        for node in order:
            if node:
                self.next[node] = self.next[failure[node]]
                total[node] += total[failure[node]]
                potential[node] = max(potential[node], potential[failure[node]])
            for label, child in children[node].items():
                failure[child] = int(self.next[failure[node], label]) if node else 0
                self.next[node, label] = child
        potentials = np.array(potential)
        self.bonus = np.array(total)[self.next] + potentials[self.next] - potentials[:, None]
        self.start = int(self.next[0, delimiter]) if whole_words else 0
        # At the end: the last word closes, and what is not complete is taken back.
        closing = self.next[:, delimiter] if whole_words else np.arange(len(children))
        completed = np.array(total)[closing] if whole_words else 0.0
        self.final_bonus = completed - potentials
