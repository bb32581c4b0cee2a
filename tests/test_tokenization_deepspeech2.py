"""The text rules, one line each; the symbols; what CTC frames decode to; and what survives saving."""

import json
import logging
import lzma
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer, numerals
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.script import usual_word_boundaries
from modeling_deepspeech2.text_rules import apply_text_rules


TOKENIZERS = Path(__file__).parent.parent / "tokenizer"
ENGLISH = DeepSpeech2CTCTokenizer.from_pretrained(TOKENIZERS / "english")
ENGLISH_BIGRAM = DeepSpeech2CTCTokenizer.from_pretrained(TOKENIZERS / "english_bigram")
MANDARIN = DeepSpeech2CTCTokenizer.from_pretrained(TOKENIZERS / "mandarin")
TOKENIZER_OF = {"english": ENGLISH, "english_bigram": ENGLISH_BIGRAM, "mandarin": MANDARIN}


def build(texts="", **kwargs):
    """A tokenizer of the letters a–z, the apostrophe and the characters of `texts`."""
    return DeepSpeech2CTCTokenizer.from_texts([texts, "'abcdefghijklmnopqrstuvwxyz"], **kwargs)


# One rule a line: input -> expected, with \n, \r, \t and \uXXXX for what cannot be seen.
TEXT_RULES = {
    ("en", "keep"): r"""
        The Cat SAT                              -> the cat sat
        Hello, world! (Yes; really?)             -> hello world yes really
          two  spaces\tand a tab                 -> two spaces and a tab
        line one\r\nline two\r\n                 -> line one line two
        \ufefffirst line                         -> first line
        zero\u200bwidth\u2060 soft\u00adhyphen   -> zerowidth softhyphen
        no-break\u00a0space                      -> no break space
        ＡＢＣ　ｄｅｆ                            -> abc def
        ﬁne ﬂour                                 -> fine flour
        It’s o‘clock, don`t, dog´s               -> it's o'clock don't dog's
        o'clock 'tis the dogs' bone              -> o'clock 'tis the dogs' bone
        rock 'n' roll, give 'em hell             -> rock 'n' roll give 'em hell
        He said 'yes' and 'no, never'.           -> he said yes and no never
        'Excuse me,' said the dogs' owner        -> excuse me said the dogs' owner
        one 's' and ‘possessed’ is               -> one s and possessed is
        'im doin' it                             -> 'im doin' it
        ''freedom'' and ``freedom``              -> freedom and freedom
        a ' b                                    -> a b
        café naïve Ångström façade               -> cafe naive angstrom facade
        Æsop's œuvre, smørrebrød, straße         -> aesop's oeuvre smorrebrod strasse
        well-known twenty–one yes—no             -> well known twenty one yes no
        and/or e.g. U.S.A. snake_case            -> and or e g u s a snake case
        $5 + 50% & a@b #1                        -> $5 + 50% and a @ b #1
        742                                      -> 742
        !?…                                      ->
    """,
    ("en", "spell"): r"""
        742                                      -> seven hundred and forty two
        1,000 and 1,000,007                      -> one thousand and one million and seven
        3.14 2.50 0.5                            -> three point one four two point five zero zero point five
        1st 2nd 3rd 22ND                         -> first second third twenty second
        in 1984.                                 -> in nineteen eighty four
        the '80s and 6s                          -> the eighties and sixes
        mp3 b2b                                  -> mp three b two b
        －5 -7 10-12                             -> minus five minus seven ten twelve
        agent 007                                -> agent zero zero seven
        １２                                     -> twelve
        $5                                       -> five dollars
        1234567890123                            -> one two three four five six seven eight nine zero one two three
    """,
    ("zh", "keep"): r"""
        你好，世界。                              -> 你好世界
        “你好”《世界》、再见！                     -> 你好世界再见
        我 爱\t你\r\n                             -> 我爱你
        \ufeff我爱\u200b你                        -> 我爱你
        我 用 Google 搜索                         -> 我用google搜索
        打开 the App Store 下载                   -> 打开the app store下载
        ＡＢＣ公司                                -> abc公司
        ‘你好’他说                                -> 你好他说
        他说don’t                                 -> 他说don't
        让·雅克·卢梭                              -> 让雅克卢梭
        二〇二四年                                -> 二〇二四年
        2024年                                   -> 2024年
    """,
    ("zh", "spell"): r"""
        742                                      -> 七百四十二
        我有３个                                  -> 我有三个
        2024年1月5日                              -> 二零二四年一月五日
        3.14                                     -> 三点一四
        1,000元                                  -> 一千元
        50%的人                                  -> 百分之五十的人
        3-5个                                    -> 三到五个
        25℃                                      -> 二十五摄氏度
        010-12345678                             -> 零一零一千二百三十四万五千六百七十八
    """,
    ("ru", "keep"): r"""
        Ёлка — ЙОД!                              -> ёлка йод
        «Что?»  21                               -> что 21
    """,
    ("ru", "spell"): r"""
        21 год                                   -> двадцать один год
    """,
    ("de", "spell"): r"""
        1.000 Straßen, 3,5 Äpfel                 -> eintausend straßen drei komma fünf äpfel
    """,
    (None, "keep"): r"""
        П’ять ‘зірок’                            -> п'ять зірок
        हिन्दी, भाषा।                                 -> हिन्दी भाषा
    """,
}
RULES = [
    (language, numerals, *(side.strip(" ") for side in line.split("->")))
    for (language, numerals), table in TEXT_RULES.items()
    for line in table.strip("\n").rstrip(" ").splitlines()
    if line
]


@pytest.mark.parametrize("language, numerals, text, expected", RULES)
def test_text_rule(language, numerals, text, expected):
    for code in ("\\r", "\\n", "\\t", "\\ufeff", "\\u200b", "\\u2060", "\\u00ad", "\\u00a0"):
        text = text.replace(code, code.encode().decode("unicode_escape"))
    assert build(language=language, numerals=numerals).normalize(text) == expected


@pytest.mark.parametrize("language", ["en", "zh", None])
@settings(max_examples=150)
@given(text=st.text() | st.text(alphabet="'’ -,.asn你好é\u0301", max_size=20))
def test_text_rules_change_a_text_once(language, text):
    rules = language, "keep", usual_word_boundaries(language)
    normalized = apply_text_rules(text, *rules)
    assert apply_text_rules(normalized, *rules) == normalized


@pytest.mark.parametrize(
    "language, package, text", [("en", "num2words", "room 7"), ("ru", "num2words", "7"), ("zh", "cn2an", "7个")]
)
def test_missing_number_reader_is_named(monkeypatch, language, package, text):
    monkeypatch.setattr(numerals, "_package", lambda name: None)
    tokenizer = build(language=language, numerals="spell")
    assert tokenizer.normalize("no digits") == "no digits"
    with pytest.raises(ImportError, match=f"pip install {package}"):
        tokenizer.normalize(text)


# Symbols


def test_vocabulary_sizes():
    assert (len(ENGLISH), len(ENGLISH_BIGRAM)) == (29, 29 + 27**2)
    assert 4000 < len(MANDARIN) < 6000
    for tokenizer in TOKENIZER_OF.values():
        assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab())
        assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
        assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.word_delimiter_token_id) == ("<pad>", 0, 1)
        assert (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token) == (None, None, None)
    assert ENGLISH.convert_ids_to_tokens(range(29)) == ["<pad>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"]


def test_mandarin_vocabulary_holds_letters_only():
    assert set("的一是了我abcxyz'") <= set(MANDARIN.get_vocab())
    assert not set("0123456789$%~，。") & set(MANDARIN.get_vocab())


def test_mandarin_vocabulary_covers_its_texts():
    path = TOKENIZERS.parent.parent / "shared" / "data" / "text" / "mandarin.txt.xz"
    if not path.exists():
        pytest.skip("../shared/data/text/mandarin.txt.xz is absent")
    with lzma.open(path, "rt", encoding="utf-8-sig") as lines:
        unknown = sum((MANDARIN.unknown_characters(next(lines)) for _ in range(2000)), Counter())
    assert set(unknown) <= set("─~")  # symbols, which are no part of a vocabulary


@pytest.mark.parametrize(
    "text, symbols",
    [
        ("the cat sat", "th e | ca t | sa t"),  # the example of the paper's section 3.6
        ("a", "a"),
        ("it's", "it 's"),
        ("mississippi", "mi ss is si pp i"),
        ("  Two,  words ", "tw o | wo rd s"),
    ],
)
def test_bigrams(text, symbols):
    assert ENGLISH_BIGRAM.tokenize(text) == symbols.split()
    assert ENGLISH_BIGRAM.decode(ENGLISH_BIGRAM(text).input_ids, group_tokens=False) == ENGLISH.normalize(text)


def test_bigram_outside_the_vocabulary_falls_back_to_characters():
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["the cat the"], label_unit="bigram", minimum_count=2)
    assert list(tokenizer.get_vocab()) == ["<pad>", "|", "e", "h", "t", "th"]
    assert tokenizer.tokenize("the tete") == ["th", "e", "|", "t", "e", "t", "e"]


def test_encoding():
    assert ENGLISH("Ab, a'b!").input_ids == [3, 4, 1, 3, 2, 4]
    batch = ENGLISH(["a", "abc"], padding=True, return_tensors="pt")
    assert batch.input_ids.tolist() == [[3, 0, 0], [3, 4, 5]]
    assert batch.attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert ENGLISH("").input_ids == ENGLISH(" …").input_ids == []


@pytest.mark.parametrize("tokenizer", TOKENIZER_OF.values(), ids=TOKENIZER_OF)
def test_no_text_yields_a_blank_or_a_stray_space(tokenizer):
    ids = tokenizer("<pad> a|b | <pad>").input_ids
    assert tokenizer.decode(ids, group_tokens=False) == "pad a b pad"
    assert 0 not in ids and ids.count(1) == 3


def test_unknown_characters_are_counted():
    tokenizer = build(language="en")
    assert tokenizer.unknown_characters("It costs $742, $2 more: 你") == Counter({"$": 2, "2": 2, "7": 1, "4": 1, "你": 1})
    assert tokenizer.unknown_characters("nothing, unknown!") == Counter()
    assert ENGLISH.unknown_characters("50% of 7 | ~") == Counter({"|": 1, "~": 1})


def test_unknown_characters_are_dropped_and_named_once(caplog):
    tokenizer = build(language="en")
    with caplog.at_level(logging.WARNING, logger=DeepSpeech2CTCTokenizer.__module__):
        ids = tokenizer("it costs 77 €, €7 more").input_ids
        tokenizer("another 7")
    assert tokenizer.decode(ids, group_tokens=False) == "it costs more"
    assert [record.getMessage().split(" is not")[0] for record in caplog.records] == [
        "Character '7' (U+0037, DIGIT SEVEN)",
        "Character '€' (U+20AC, EURO SIGN)",
    ]


# Decoding


def ctc_frames(ids: list[int], seed: int) -> list[int]:
    """Frames whose CTC collapse is `ids`: every id held for a while, blanks between, always between equal ids."""
    choose = random.Random(seed)
    frames = [0] * choose.randrange(3)
    for i, label in enumerate(ids):
        frames += [label] * choose.randint(1, 3)
        equal_next = i + 1 < len(ids) and ids[i + 1] == label
        frames += [0] * choose.randint(int(equal_next), 2)
    return frames


LATIN = st.text(alphabet="aabcdefghijklmnopqrstuvwxyz''  ", max_size=40)
MIXED = st.text(alphabet="的一是不了在人有我他这上们来google' ，。", max_size=40)
ANY = st.text(max_size=20)


@pytest.mark.parametrize("tokenizer", TOKENIZER_OF.values(), ids=TOKENIZER_OF)
@settings(max_examples=100)
@given(text=LATIN | MIXED | ANY, seed=st.integers(0, 2**32))
def test_round_trip_through_ctc_frames(tokenizer, text, seed):
    unknown = tokenizer.unknown_characters(text)
    known = "".join(character for character in tokenizer.normalize(text) if character not in unknown)
    expected = " ".join(known.split())

    ids = tokenizer(text).input_ids
    frames = ctc_frames(ids, seed)

    assert tokenizer.decode(frames) == expected
    assert tokenizer.decode(ids, group_tokens=False) == expected
    words = tokenizer.decode(frames, output_word_offsets=True).word_offsets
    assert "".join(word["word"] for word in words) == expected.replace(" ", "")
    if tokenizer is not MANDARIN:
        assert " ".join(word["word"] for word in words) == expected


def test_batch_decode_of_a_tensor():
    assert ENGLISH.batch_decode(torch.tensor([[3, 3, 0, 3, 4], [1, 5, 1, 5, 0]])) == ["aab", "c c"]
    assert ENGLISH.batch_decode([[3, 3], []]) == ["a", ""]


def test_decoding_says_which_ids_do_not_exist():
    with pytest.raises(ValueError, match=r"found \[-1, 29\], expected 0 to 28"):
        ENGLISH.decode([3, 29, -1])


def word_offsets(tokenizer, frames):
    """What the stock speech recognition pipeline does for return_timestamps="word"."""
    offsets = tokenizer.decode(frames, skip_special_tokens=False, output_char_offsets=True)["char_offsets"]
    offsets = tokenizer._get_word_offsets(offsets, tokenizer.replace_word_delimiter_char)
    return [(offset["word"], int(offset["start_offset"]), int(offset["end_offset"])) for offset in offsets]


def test_character_offsets():
    offsets = ENGLISH.decode(torch.tensor([0, 3, 3, 0, 1, 4]), output_char_offsets=True).char_offsets
    assert offsets == [
        {"char": "a", "start_offset": 1, "end_offset": 3},
        {"char": " ", "start_offset": 4, "end_offset": 5},
        {"char": "b", "start_offset": 5, "end_offset": 6},
    ]


@pytest.mark.parametrize("frames", [[], [0, 0], [0, 3, 3, 0, 4, 1, 1, 5], [1, 3, 1, 0, 1, 4, 1], [3, 0, 3, 1]])
def test_english_word_offsets_are_those_of_the_parent(frames):
    offsets = ENGLISH.decode(frames, output_char_offsets=True).char_offsets
    assert ENGLISH._get_word_offsets(offsets, " ") == Wav2Vec2CTCTokenizer._get_word_offsets(offsets, " ")


def test_every_ideograph_is_a_word():
    def frames(text):
        return [0 if symbol == "_" else MANDARIN.convert_tokens_to_ids(symbol) for symbol in text]

    assert word_offsets(MANDARIN, frames("_我我_爱你")) == [("我", 1, 3), ("爱", 4, 5), ("你", 5, 6)]
    assert word_offsets(MANDARIN, frames("用app|s_下")) == [
        ("用", 0, 1), ("ap", 1, 4), ("s", 5, 6), ("下", 7, 8)
    ]  # fmt: skip


def test_word_offsets_of_bigrams():
    ids = ENGLISH_BIGRAM("the cat").input_ids
    assert word_offsets(ENGLISH_BIGRAM, [0, *ids]) == [("the", 1, 3), ("cat", 4, 6)]
    mandarin = DeepSpeech2CTCTokenizer.from_texts(["我爱"], language="zh", label_unit="bigram")
    assert word_offsets(mandarin, mandarin("我爱").input_ids * 2) == [("我", 0, 2), ("爱", 0, 2)]


# Building, saving, settings


@pytest.mark.parametrize("name", TOKENIZER_OF)
def test_auto_tokenizer_loads_it(name):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / name)
    assert type(tokenizer) is DeepSpeech2CTCTokenizer
    assert tokenizer.get_vocab() == TOKENIZER_OF[name].get_vocab()


def test_save_and_load_keeps_every_rule(tmp_path):
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(
        ["привет мир"], language="ru", numerals="spell", label_unit="bigram",
        pad_token="[blank]", word_delimiter_token="_", replace_word_delimiter_char="-",
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "once")
    loaded = DeepSpeech2CTCTokenizer.from_pretrained(tmp_path / "once")
    loaded.save_pretrained(tmp_path / "twice")
    for setting in (
        "language", "numerals", "label_unit", "pad_token", "word_delimiter_token", "replace_word_delimiter_char",
        "unk_token", "bos_token", "eos_token",
    ):  # fmt: skip
        assert getattr(loaded, setting) == getattr(tokenizer, setting), setting
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.tokenize("Привет, мир 7") == tokenizer.tokenize("Привет, мир 7")
    assert loaded.decode(loaded("привет мир").input_ids) == "привет-мир"
    for file in ("tokenizer_config.json", "vocab.json"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()


@pytest.mark.parametrize("name", TOKENIZER_OF)
def test_saved_configuration_says_no_more_than_needed(name):
    config = json.loads((TOKENIZERS / name / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert set(config) == {
        "added_tokens_decoder", "backend", "bos_token", "eos_token", "label_unit", "language", "model_max_length",
        "numerals", "pad_token", "replace_word_delimiter_char", "tokenizer_class", "unk_token", "word_boundaries",
        "word_delimiter_token",
    }  # fmt: skip


def test_from_texts():
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(iter(["Да, да!", "нет $"]), extra_characters="ж")
    assert list(tokenizer.get_vocab()) == ["<pad>", "|", "а", "д", "е", "ж", "н", "т"]
    frequent = DeepSpeech2CTCTokenizer.from_texts(["Да, да!", "нет"], minimum_count=2)
    assert list(frequent.get_vocab()) == ["<pad>", "|", "а", "д"]


def test_numbers_that_nothing_spells_are_no_letters():
    """Superscripts and fractions never; digits only where they are kept."""
    texts = ["x² 5½ 7 二〇"]
    assert list(DeepSpeech2CTCTokenizer.from_texts(texts).get_vocab())[2:] == ["5", "7", "x", "〇", "二"]
    spelled = DeepSpeech2CTCTokenizer.from_texts(["x² 5:n"], language="fi", numerals="spell")
    assert list(spelled.get_vocab())[2:] == [":", "n", "x"]
    assert spelled.unknown_characters("x² 5:n") == Counter("²5")


def test_from_texts_names_what_it_leaves_out(caplog):
    with caplog.at_level(logging.WARNING, logger=DeepSpeech2CTCTokenizer.__module__):  # commands turn it off
        DeepSpeech2CTCTokenizer.from_texts(["да да $", "нет"], minimum_count=2)
    assert {record.args[0] for record in caplog.records} == set("$нет")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"numerals": "speak"}, "numerals: found 'speak', expected 'keep' or 'spell'"),
        ({"label_unit": "word"}, "label_unit: found 'word', expected 'character' or 'bigram'"),
        ({"language": "English"}, "language: found 'English', expected 'en', 'zh', another code"),
        ({"numerals": "spell"}, "language: found None with numerals='spell'"),
        ({"extra_characters": "A"}, "extra_characters: found 'A', .* becomes 'a'"),
        ({"extra_characters": ","}, "extra_characters: found ','"),
    ],
)
def test_bad_setting_is_one_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DeepSpeech2CTCTokenizer.from_texts(["text"], **kwargs)


@pytest.mark.parametrize("language, text", [("el", "το 1984 ήταν"), ("hi", "१९८४ में 5"), ("hr", "5 kuna"), ("xx", "5 x")])
def test_digits_that_nothing_reads_are_left_alone_and_named(language, text, caplog):
    """num2words has no Greek, Hindi or Croatian: their digits are unknown characters, and no English words."""
    with caplog.at_level(logging.WARNING):
        tokenizer = DeepSpeech2CTCTokenizer.from_texts([text], language=language, numerals="spell")
    assert f"no numbers in language {language!r}" in caplog.text
    assert tokenizer.normalize(text) == text
    digits = Counter(character for character in text if character.isdigit())
    assert tokenizer.unknown_characters(text) == digits and not set(digits) & set(tokenizer.get_vocab())


def test_vocabulary_command(tmp_path, capsys):
    (tmp_path / "plain.txt").write_text("\ufeffМир, мир 5€\r\n", encoding="utf-8")
    with lzma.open(tmp_path / "packed.txt.xz", "wt", encoding="utf-8") as file:
        file.write("Рим\nщ\n")
    texts = [str(tmp_path / "plain.txt"), str(tmp_path / "packed.txt.xz")]
    main(["vocabulary", *texts, "--language", "ru", "--minimum_count", "2", "--output", str(tmp_path / "russian")])
    tokenizer = DeepSpeech2CTCTokenizer.from_pretrained(tmp_path / "russian")
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["<pad>", "|", *"имр"]
    report = capsys.readouterr().out
    assert "5 symbols" in report
    assert "75.0000% of the characters covered (9 of 12)" in report
    assert "3 characters left out, 3 occurrences" in report
    assert "U+20AC EURO SIGN" in report


def test_vocabulary_command_refuses_bad_input(tmp_path, capsys):
    assert main(["vocabulary", "no_such_file.txt", "--output", str(tmp_path)]) == 2
    assert "found no file no_such_file.txt" in capsys.readouterr().err
    assert main(["vocabulary", "--output", str(tmp_path)]) == 2
    assert "give at least one TEXT" in capsys.readouterr().err
    (tmp_path / "latin1.txt").write_bytes("é\n".encode("latin-1"))
    assert main(["vocabulary", str(tmp_path / "latin1.txt"), "--output", str(tmp_path)]) == 2
    assert "latin1.txt: found bytes that are not UTF-8" in capsys.readouterr().err
