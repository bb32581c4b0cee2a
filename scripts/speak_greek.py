"""Makes a folder of recordings in another script to try "your own language in five commands" with: Greek, synthetic.

    pip install espeakng-loader==0.2.4
    python scripts/speak_greek.py my_recordings

eSpeak NG speaks short sentences about people, places and hours, with many voices; the output is wav files and a metadata.csv
with the columns file_name, text and speaker_id. The voices are rough; this shows the steps, not the accuracy to expect.
"""

import argparse
import csv
import ctypes
import random
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile


WHO = ["Η Μαρία", "Ο Γιώργος", "Η Ελένη", "Ο Νίκος", "Η γιαγιά", "Ο δάσκαλος", "Η γειτόνισσα", "Ο ξάδερφος"]
DOES = ["πηγαίνει", "έρχεται", "φεύγει", "γυρίζει", "τρέχει", "περπατάει"]
WHERE = [
    "στην αγορά",
    "στο σχολείο",
    "στη θάλασσα",
    "στο βουνό",
    "στην πόλη",
    "στο χωριό",
    "στον κήπο",
    "στο ψαράδικο",
    "στη γέφυρα",
    "στο εξοχικό",
]
WHEN = [
    "στη μία",
    "στις δύο",
    "στις τρεις",
    "στις τέσσερις",
    "στις πέντε",
    "στις έξι",
    "στις επτά",
    "στις οκτώ",
    "στις εννέα",
    "στις δέκα",
    "στις έντεκα",
    "στις δώδεκα",
]
DAY = [
    "τη Δευτέρα",
    "την Τρίτη",
    "την Τετάρτη",
    "την Πέμπτη",
    "την Παρασκευή",
    "το Σάββατο",
    "την Κυριακή",
    "σήμερα",
    "αύριο",
    "κάθε μέρα",
]

VARIANTS = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Andrea",
    "Annie",
    "Denis",
    "Gene",
    "Jacky",
    "Lee",
    "Mario",
    "Michael",
    "Mike",
    "belinda",
    "ed",
    "linda",
    "max",
    "steph",
    "victor",
]
# Constants of espeak-ng's speak_lib.h
SYNCHRONOUS, UTF8, RATE, PITCH = 2, 1, 1, 3


class Speaker:
    """eSpeak NG's library: text in, samples out."""

    def __init__(self):
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.sampling_rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        self.pieces: list[np.ndarray] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = callback(self._take)  # kept, for the library holds only its address
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples, number: int, _events) -> int:
        if samples and number:
            self.pieces.append(np.ctypeslib.as_array(samples, (number,)).copy())
        return 0

    def speak(self, text: str, voice: str, words_a_minute: int, pitch: int) -> np.ndarray:
        """16-bit samples, shape (samples,)"""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"eSpeak NG has no voice {voice}.")
        self.library.espeak_SetParameter(RATE, words_a_minute, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.pieces.clear()
        content = text.encode()
        self.library.espeak_Synth(content, len(content) + 1, 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.pieces)


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
            parts = [draw.choice(words) for words in (WHO, DOES, WHERE, WHEN, DAY)]
            text = " ".join((parts[1:], parts[:-1], parts, parts)[number % 4]) + "."
            voice = "el+" + draw.choice(VARIANTS)
            samples = speaker.speak(text, voice, draw.randint(130, 190), draw.randint(30, 70))
            name = f"{number:05d}.wav"
            soundfile.write(settings.folder / name, samples, speaker.sampling_rate)
            table.writerow([name, text, voice])


if __name__ == "__main__":
    main()
