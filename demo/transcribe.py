"""Transcribes test clips of the bundled speech with the model of `make demo`, and prints when each word was said."""

import argparse

from datasets import load_dataset
from transformers import pipeline

import modeling_deepspeech2  # noqa: F401  (makes `pipeline` know the model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("language", choices=["english", "mandarin"])
    parser.add_argument("--model", help="folder or Hub name; the demo's own if not given")
    parser.add_argument("--clips", type=int, default=4)
    arguments = parser.parse_args()

    recognizer = pipeline("automatic-speech-recognition", model=arguments.model or f"runs/demo_{arguments.language}")
    files = f"demo/speech/{arguments.language}/test-*.parquet"
    clips = load_dataset("parquet", data_files=files, split="train", streaming=True)
    for clip in clips.take(arguments.clips):
        result = recognizer(clip["audio"]["bytes"], return_timestamps="word")
        print(f"\n{clip['id']} ({clip['speaker_id']}), said: {clip['text']}\n  recognized: {result['text']}")
        for word in result["chunks"]:
            start, end = word["timestamp"]
            print(f"  {start:6.2f} s – {end:5.2f} s  {word['text']}")


if __name__ == "__main__":
    main()
