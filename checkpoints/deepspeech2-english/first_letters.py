"""Puts the first letter of a word behind the pause before it, where a network that reads both ways gave it too early.

The backward half hears the next word across a pause, and CTC does not mind when a letter comes: trained networks give it at
the end of the word before, or at the beginning of the recording, and then nothing until the word is said. Its times would be
wrong, and the pause would end an utterance within a word. So these frames change places with those of the pause.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


PAUSE_SECONDS = 0.3  # longer than anything between two letters of a word that is spoken without a pause
LONGEST_PAUSE_SECONDS = 30.0  # so that memory stays bounded


def first_letters_after_pauses(pieces: Iterable[Tensor], tokenizer: Any, config: Any) -> Iterator[Tensor]:
    """Logits in pieces of shape (frames, vocab_size) -> the same frames, of which some of first letters come later.

    `config` is the model's: where that reads one way, the pieces stay as they are.

    A first letter is a symbol at the beginning or behind a space. Where only blanks follow it for `PAUSE_SECONDS`, it moves
    up to the next symbol, if one comes within `LONGEST_PAUSE_SECONDS`. A word of one letter moves, too: nothing tells
    "i" before a pause from "i" behind it, and more sentences begin with it than end.
    """
    if not config.bidirectional:
        yield from pieces
        return
    blank, delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
    seconds_per_frame = config.inputs_to_logits_ratio / config.sampling_rate
    shortest, longest = (round(seconds / seconds_per_frame) for seconds in (PAUSE_SECONDS, LONGEST_PAUSE_SECONDS))
    letter: list[Tensor] = []  # the frames of a first letter
    blanks: list[Tensor] = []  # those behind it
    symbol = delimiter  # the last one that was no blank
    for piece in pieces:
        done: list[Tensor] = []
        for frame, best in zip(piece, piece.argmax(1).tolist()):
            if letter and best == blank and len(blanks) < longest:
                blanks.append(frame)
            elif letter and best == symbol and not blanks:
                letter.append(frame)
            else:
                is_pause = best != blank and len(blanks) > shortest
                # One blank stays behind the letter, for the next may be the same.
                done += blanks[:-1] + letter + blanks[-1:] if is_pause else letter + blanks
                letter, blanks = [], []
                begins_word = symbol == delimiter and best not in (blank, delimiter)
                (letter if begins_word else done).append(frame)
                symbol = symbol if best == blank else best
        if done:
            yield torch.stack(done)
    if letter:
        yield torch.stack(letter + blanks)
