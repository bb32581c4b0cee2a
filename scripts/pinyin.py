"""Easier alphabets on the way to Mandarin's characters: pinyin in letters, one sign for each syllable, then with its tone.

    pip install pypinyin==0.55.0
    python scripts/pinyin.py write letters ../shared/data/speech-zh runs/zh_letters      # 请打开 -> qing da kai
    python scripts/pinyin.py write syllables ../shared/data/speech-zh runs/zh_syllables  # 请打开 -> one sign for each sound
    python scripts/pinyin.py write tones ../shared/data/speech-zh runs/zh_tones          # the same, with its tone
    python scripts/pinyin.py spread syllables runs/mandarin_letters runs/mandarin_syllables_start
    python scripts/pinyin.py spread tones runs/mandarin_syllables runs/mandarin_tones_start
    python scripts/pinyin.py spread characters runs/mandarin_tones runs/mandarin_start

With a few hours of speech, a network that starts with 5,000 characters outputs only blanks for a long time, but it learns 26
letters in one epoch. Every syllable then starts with the output weights of its first letter, each of its tones with those of
the syllable, and every character with those of its syllable and tone, so that only the choice among them remains to be
learned. `recipes/mandarin.yaml` says how the steps are trained. Test splits are not copied.
"""

import argparse
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
import yaml
from pypinyin import Style, lazy_pinyin
from torch import nn
from tqdm import tqdm
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor


STYLES = {"letters": Style.NORMAL, "syllables": Style.NORMAL, "tones": Style.TONE3}
BEFORE = {"syllables": "letters", "tones": "syllables", "characters": "tones"}


def sound_of(symbol: str, alphabet: str) -> str:
    """How a character is read; what is not one, such as a special token, is returned."""
    return lazy_pinyin(symbol, STYLES[alphabet])[0]


def first_of_each_sound(tokenizer, alphabet: str) -> dict[str, str]:
    """Syllable -> the first character of the alphabet that is read so."""
    first: dict[str, str] = {}
    for symbol in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))):
        sound = sound_of(symbol, alphabet)
        if sound != symbol:
            first.setdefault(sound, symbol)
    return first


def write(source: Path, target: Path, alphabet: str) -> None:
    """A copy of all splits but the test splits, in another alphabet."""
    first = first_of_each_sound(AutoTokenizer.from_pretrained("tokenizer/mandarin"), alphabet)
    shards = [file for file in sorted(source.glob("*/*.parquet")) if not file.name.startswith("test")]
    for shard in tqdm(shards, alphabet, unit=" shards"):
        table, texts = pyarrow.parquet.read_table(shard), []
        for text in table["text"].to_pylist():
            syllables = lazy_pinyin(text, STYLES[alphabet])
            if alphabet == "letters":
                texts.append(" ".join(syllables).replace("ü", "v"))
            else:
                texts.append("".join(first.get(syllable, syllable) for syllable in syllables))
        table = table.set_column(table.schema.get_field_index("text"), "text", pyarrow.array(texts))
        (target / shard.parent.name).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, target / shard.parent.name / shard.name)
    splits = sorted({(shard.parent.name, shard.name.split("-")[0]) for shard in shards})
    configs = [
        {"config_name": name, "data_files": [{"split": s, "path": f"{n}/{s}-*.parquet"} for n, s in splits if n == name]}
        for name in sorted({name for name, _ in splits})
    ]
    (target / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n", encoding="utf-8")


def spread(source: Path, target: Path, alphabet: str) -> None:
    """A copy of a model in which many symbols start with the output weights of one, and share out its probability.

    Syllables start with those of their first letter, tones with those of their syllable, characters with those of their
    syllable in its tone.
    """
    model, old = DeepSpeech2ForCTC.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    new = AutoTokenizer.from_pretrained("tokenizer/mandarin")
    symbols = new.convert_ids_to_tokens(list(range(len(new))))
    sounds = [sound_of(symbol, BEFORE[alphabet]) for symbol in symbols]
    if alphabet == "syllables":
        starts = [sound if sound in new.all_special_tokens else sound[0] for sound in sounds]
    else:
        first = first_of_each_sound(new, BEFORE[alphabet])
        starts = [first.get(sound, sound) for sound in sounds]
    rare = old.convert_tokens_to_ids("'")  # what has no sound starts with what is hardly ever written
    own = torch.tensor([old.get_vocab().get(start, rare) for start in starts])
    head = nn.Linear(model.config.hidden_size, len(new))
    with torch.no_grad():
        head.weight.copy_(model.ctc_head.weight[own])
        head.bias.copy_(model.ctc_head.bias[own] - torch.bincount(own)[own].log())
    model.ctc_head, model.config.vocab_size = head, len(new)
    model.save_pretrained(target)
    DeepSpeech2Processor(DeepSpeech2Processor.from_pretrained(source).feature_extractor, new).save_pretrained(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "spread"])
    parser.add_argument("alphabet", choices=["letters", "syllables", "tones", "characters"])
    parser.add_argument("source", type=Path, help="write: a folder */*.parquet of speech; spread: a model")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    action = {"write": write, "spread": spread}[arguments.action]
    action(arguments.source, arguments.target, arguments.alphabet)
