"""The alphabet of a model in the formats that other programs read."""

from typing import Any

from ..errors import UserError


def symbols_of(tokenizer: Any) -> list[str]:
    """The symbols by their ids.

    Raises:
        UserError: an alphabet that other programs would spell otherwise.
    """
    symbols = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    blank, delimiter = tokenizer.pad_token, tokenizer.word_delimiter_token
    if tokenizer.replace_word_delimiter_char != " ":
        raise UserError(
            f"replace_word_delimiter_char: found {tokenizer.replace_word_delimiter_char!r}, expected ' ', the only space "
            "between words that other programs know."
        )
    for symbol in symbols:
        if any(character.isspace() for character in symbol) or (symbol not in (blank, delimiter) and delimiter in symbol):
            raise UserError(
                f"vocab.json: found the symbol {symbol!r}, which other programs cannot tell from the space between words, "
                f"{delimiter!r}; train with an alphabet without it."
            )
    return symbols


def tokenizer_json(symbols: list[str], blank: str, delimiter: str) -> dict:
    """`tokenizer.json`: a vocabulary, and a decoder that joins repeats, drops blanks and writes spaces.

    No added token is special: transformers.js drops special tokens before it joins repeats, so that of "office" remained
    "ofice".
    """
    added = [
        {
            **{"id": symbols.index(symbol), "content": symbol, "special": False, "normalized": False},
            **{"single_word": False, "lstrip": False, "rstrip": False},
        }
        for symbol in (blank, delimiter)
    ]
    decoders = [
        {"type": "CTC", "pad_token": blank, "word_delimiter_token": delimiter, "cleanup": True},
        {"type": "Fuse"},
        {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
        {"type": "Strip", "content": " ", "start": 1, "stop": 1},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: number for number, symbol in enumerate(symbols)},
            "unk_token": blank,
        },
    }


def tokens_txt(symbols: list[str], delimiter: str) -> str:
    """`tokens.txt` of sherpa-onnx: a symbol and its id in each line, ▁ for the space."""
    lines = (f"{'▁' if symbol == delimiter else symbol} {number}" for number, symbol in enumerate(symbols))
    return "\n".join(lines) + "\n"
