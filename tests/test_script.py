"""What a word is: between spaces, or a character as readers see it where the script has no spaces between words."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer
from modeling_deepspeech2.script import drop_spaces, split_words, usual_word_boundaries, whole_words
from modeling_deepspeech2.training.metrics import ErrorRates


REPOSITORY = Path(__file__).parent.parent
ALPHABETS = "今日は々〇ーァabc ", "กำน้ัไนดีabc ", "ລາວໜຳນ້abc ", "ខ្ញុំកមabc ", "မြန်္ကabc ", "가나abc "
UNSPACED_TEXT = st.one_of(*(st.text(alphabet=alphabet, max_size=12) for alphabet in ALPHABETS))


@pytest.mark.parametrize(
    "text, words",
    [
        ("二〇〇八年", "二 〇 〇 八 年"),
        ("時々佐々木", "時 々 佐 々 木"),
        ("今日はスーパー", "今 日 は ス ー パ ー"),
        ("用app下载a b", "用 app 下 载 a b"),
        ("สวัสดีน้ำใจ", "ส วั ส ดี น้ำ ใ จ"),  # vowel signs and tone marks stay with their consonant
        ("ສະບາຍດີນ້ຳ", "ສ ະ ບ າ ຍ ດີ ນ້ຳ"),
        ("កម្ពុជាខ្ញុំ", "ក ម្ពុ ជា ខ្ញុំ"),  # and consonants below it
        ("မြန်မာသတ္တဝါ", "မြ န် မ ာ သ တ္တ ဝ ါ"),
        ("한국어 좋아", "한국어 좋아"),  # Korean has spaces
    ],
)
def test_words_of_scripts_without_spaces(text, words):
    assert split_words(text, "characters") == words.split()
    assert split_words(text, "spaces") == text.split()


@settings(max_examples=200)
@given(text=UNSPACED_TEXT)
def test_words_are_the_text(text):
    """No character is lost or doubled, and spaces beside characters change nothing."""
    words = split_words(text, "characters")
    assert "".join(words) == text.replace(" ", "")
    joined = drop_spaces(" ".join(text.split()))
    assert drop_spaces(joined) == joined


@settings(max_examples=200)
@given(text=UNSPACED_TEXT, word_boundaries=st.sampled_from(["spaces", "characters"]))
def test_whole_words_do_not_change(text, word_boundaries):
    """What a live transcript calls stable: the words at the beginning of a text, whatever comes after."""
    words = split_words(text, word_boundaries)
    for length in range(len(text)):
        stable = split_words(whole_words(text[:length], word_boundaries), word_boundaries)
        assert stable == words[: len(stable)]


@pytest.mark.parametrize(
    "language, word_boundaries, unit, metric, separator",
    [
        ("en", "spaces", "word", "wer", " "),
        ("ko", "spaces", "word", "wer", " "),
        (None, "spaces", "word", "wer", " "),
        ("zh", "characters", "character", "cer", ""),
        ("ja", "characters", "character", "cer", ""),
        ("th", "characters", "character", "cer", " "),
        ("lo", "characters", "character", "cer", " "),
        ("km", "characters", "character", "cer", " "),
        ("my", "characters", "character", "cer", " "),
    ],
)
def test_the_tokenizer_says_what_a_word_is(tmp_path, language, word_boundaries, unit, metric, separator):
    """By language, or as it is told; saved, so that whoever loads it counts the same words."""
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["a"], language=language)
    found = tokenizer.word_boundaries, tokenizer.language_model_unit, tokenizer.error_metric, tokenizer.utterance_separator
    assert found == (word_boundaries, unit, metric, separator)
    other = {"spaces": "characters", "characters": "spaces"}[word_boundaries]
    DeepSpeech2CTCTokenizer.from_texts(["a"], language=language, word_boundaries=other).save_pretrained(tmp_path)
    assert DeepSpeech2CTCTokenizer.from_pretrained(tmp_path).word_boundaries == other


def test_tokenizers_of_before_load(tmp_path):
    """Their configuration says nothing of words; the language does."""
    shutil.copytree(REPOSITORY / "tokenizer" / "mandarin", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["word_boundaries"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert DeepSpeech2CTCTokenizer.from_pretrained(tmp_path).word_boundaries == "characters"


def test_segmented_texts_of_a_script_without_spaces():
    """With `word_boundaries="spaces"` Khmer with U+200B between words is read by word."""
    text = "ភាសា\u200bខ្មែរ"
    assert DeepSpeech2CTCTokenizer.from_texts([text], language="km").normalize(text) == "ភាសាខ្មែរ"
    tokenizer = DeepSpeech2CTCTokenizer.from_texts([text], language="km", word_boundaries="spaces")
    assert tokenizer.normalize(text) == "ភាសា ខ្មែរ"


def test_word_offsets_of_clusters():
    """A Thai syllable's marks are within the time of their consonant."""
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["น้ำใจดี"], language="th")
    ids = tokenizer("น้ำใจดี").input_ids
    offsets = tokenizer.decode(ids, output_word_offsets=True).word_offsets
    assert [(one["word"], one["start_offset"], one["end_offset"]) for one in offsets] == [
        ("น้ำ", 0, 3), ("ใ", 3, 4), ("จ", 4, 5), ("ดี", 5, 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word_boundaries, reference, prediction, wer, cer",
    [
        ("characters", "二〇〇八年", "二〇〇九年", 1 / 5, 1 / 5),
        ("characters", "我爱 google", "我 爱google", 0, 0),
        ("characters", "น้ำใจ", "นำใจ", 1 / 3, 1 / 5),  # one of three clusters; one of five code points
        ("characters", "the cat", "the hat", 1 / 2, 1 / 7),
        ("spaces", "the cat", "the hat", 1 / 2, 1 / 7),
        ("spaces", "ไทย ดี", "ไทยดี", 1, 1 / 6),
    ],
)
def test_error_rates(word_boundaries, reference, prediction, wer, cer):
    rates = ErrorRates(word_boundaries).compute(predictions=[prediction], references=[reference])
    assert rates == pytest.approx({"wer": wer, "cer": cer})


def test_usual_word_boundaries_follow_three_letter_codes():
    assert {usual_word_boundaries(code) for code in ("yue", "jpn", "tha", "mya")} == {"characters"}
