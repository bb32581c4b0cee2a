"""The easier alphabets on the way to Mandarin's characters: what is written in them, and what a new alphabet starts from."""

import runpy
import sys
from unittest.mock import patch

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from pypinyin import Style, lazy_pinyin
from transformers import AutoTokenizer

from modeling_deepspeech2 import (
    DeepSpeech2Config,
    DeepSpeech2FeatureExtractor,
    DeepSpeech2ForCTC,
    DeepSpeech2Processor,
)
from modeling_deepspeech2.data.sources import SpeechData


def pinyin(*arguments) -> None:
    """The script as it is started, in this process: another would import torch once more."""
    with patch.object(sys, "argv", ["pinyin.py", *map(str, arguments)]):
        runpy.run_path("scripts/pinyin.py", run_name="__main__")


@pytest.mark.parametrize("alphabet", ["letters", "syllables", "tones"])
def test_transcripts_in_an_easier_alphabet(alphabet, tmp_path):
    """Characters that sound the same are written the same; test splits are left behind."""
    for split, texts in {"train": ["绿色", "请他打她", "买卖"], "test": ["请"]}.items():
        rows = [{"id": text, "audio": {"bytes": b"", "path": None}, "text": text, "duration": 1.0} for text in texts]
        (tmp_path / "zh" / "some").mkdir(parents=True, exist_ok=True)
        file = tmp_path / "zh" / "some" / f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    pinyin("write", alphabet, tmp_path / "zh", tmp_path / "new")
    data = SpeechData(str(tmp_path / "new"), ["train"], show_progress=False)
    texts = [utterance.text for _, utterance in sorted(data.read(np.arange(3)).items())]
    if alphabet == "letters":
        assert texts == ["lv se", "qing ta da ta", "mai mai"]
    else:
        assert [lazy_pinyin(text) for text in texts] == [["lv", "se"], ["qing", "ta", "da", "ta"], ["mai", "mai"]]
        assert texts[1][1] == texts[1][3] and len(texts[1]) == 4
        assert (texts[2][0] == texts[2][1]) == (alphabet == "syllables")
    assert not list((tmp_path / "new").rglob("test*"))


def test_a_new_alphabet_shares_out_the_probability_of_the_old_one(tmp_path):
    """All characters of a sound together get the mass, before the softmax, that its sign had."""
    torch.manual_seed(0)
    old = AutoTokenizer.from_pretrained("tokenizer/mandarin")
    shape = {"conv_channels": [2], "conv_kernel_sizes": [[11, 5]], "conv_strides": [[4, 3]]}
    model = DeepSpeech2ForCTC(DeepSpeech2Config(**shape, num_hidden_layers=1, hidden_size=8, vocab_size=len(old))).eval()
    model.save_pretrained(tmp_path / "old")
    DeepSpeech2Processor(DeepSpeech2FeatureExtractor(), old).save_pretrained(tmp_path / "old")
    pinyin("spread", "characters", tmp_path / "old", tmp_path / "new")
    spread = DeepSpeech2ForCTC.from_pretrained(tmp_path / "new").eval()
    features = torch.randn(1, 30, 161)
    symbols = old.convert_ids_to_tokens(list(range(len(old))))
    sounds = [lazy_pinyin(symbol, Style.TONE3)[0] for symbol in symbols]
    with torch.inference_mode():
        before, after = (one(features).logits.double().exp()[0].sum(0) for one in (model, spread))
    for sound in ("qing1", "ma3", "shi4"):
        members = [number for number, own in enumerate(sounds) if own == sound]
        assert len(members) > 2
        assert float(after[members].sum()) == pytest.approx(float(before[members[0]]), rel=1e-4)
