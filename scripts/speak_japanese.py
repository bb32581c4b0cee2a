"""Makes a folder of recordings in a script without spaces to try "your own language in five commands": Japanese, synthetic.

    pip install espeakng-loader==0.2.4
    python scripts/speak_japanese.py my_recordings

eSpeak NG speaks short sentences about people, places and hours, with many voices; the output is wav files and a metadata.csv
with the columns file_name, text and speaker_id. It reads kana only, so each word is listed as written and as read. The
voices are rough; this shows the steps, not the accuracy to expect.
"""

import argparse
import csv
import random
from pathlib import Path

import soundfile
from speak_greek import VARIANTS, Speaker


# As written, and as read.
WHO = [
    ("田中さんは", "たなかさんわ"), ("山田さんは", "やまださんわ"), ("先生は", "せんせいわ"), ("母は", "ははわ"),
    ("友達は", "ともだちわ"), ("子供は", "こどもわ"), ("マリアさんは", "マリアさんわ"), ("医者は", "いしゃわ"),
]  # fmt: skip
WHEN = [
    ("今日", "きょう"), ("明日", "あした"), ("毎日", "まいにち"), ("月曜日に", "げつようびに"), ("火曜日に", "かようびに"),
    ("水曜日に", "すいようびに"), ("木曜日に", "もくようびに"), ("金曜日に", "きんようびに"), ("日曜日に", "にちようびに"),
]  # fmt: skip
HOUR = [
    ("一時に", "いちじに"), ("二時に", "にじに"), ("三時に", "さんじに"), ("四時に", "よじに"), ("五時に", "ごじに"),
    ("六時に", "ろくじに"), ("七時に", "しちじに"), ("八時に", "はちじに"), ("九時に", "くじに"), ("十時に", "じゅうじに"),
]  # fmt: skip
WHERE = [
    ("学校へ", "がっこうえ"), ("駅へ", "えきえ"), ("公園へ", "こうえんえ"), ("病院へ", "びょういんえ"), ("海へ", "うみえ"),
    ("山へ", "やまえ"), ("東京へ", "とうきょうえ"), ("京都へ", "きょうとえ"), ("レストランへ", "レストランえ"),
]  # fmt: skip
DOES = [
    ("行きます", "いきます"), ("来ます", "きます"), ("帰ります", "かえります"), ("走ります", "はしります"),
    ("歩きます", "あるきます"),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="made if need be")
    parser.add_argument("--clips", type=int, default=1_500, help="(default 1500, about an hour)")
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    draw, speaker = random.Random(0), Speaker()
    with open(settings.folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text", "speaker_id"])
        for number in range(settings.clips):
            # Whole sentences, and some without their beginning or end.
            parts = [draw.choice(words) for words in (WHO, WHEN, HOUR, WHERE, DOES)]
            written, read = map("".join, zip(*(parts[1:], parts[:-1], parts, parts)[number % 4]))
            voice = "ja+" + draw.choice(VARIANTS)
            samples = speaker.speak(read, voice, draw.randint(130, 190), draw.randint(30, 70))
            name = f"{number:05d}.wav"
            soundfile.write(settings.folder / name, samples, speaker.sampling_rate)
            table.writerow([name, written + "。", voice])


if __name__ == "__main__":
    main()
