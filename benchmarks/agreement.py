"""Counts the clips for which the pipeline, the command, the evaluation and a live stream give different texts.

    python -m benchmarks.agreement checkpoints/deepspeech2-english-live
    python -m benchmarks.agreement checkpoints/deepspeech2-english --clips 20 --data demo/speech::english/test

All of them share a single code path from logits to text, so the count should be 0. The last digit of a logit may differ,
which matters only where two symbols are almost equally likely. Each way reads the same files, with and without the model's
decoder. Live streams need a unidirectional model.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import Accelerator
from transformers import pipeline

from benchmarks.live import PIECE
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor, DeepSpeech2Stream, read_audio
from modeling_deepspeech2.cli.main import main as deepspeech2
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.decoding_deepspeech2 import has_decoder
from modeling_deepspeech2.recognition import Recognition
from modeling_deepspeech2.training.evaluation import evaluate


DATA = ("demo/speech::english/test", "../shared/data/speech-en::librispeech_clean5/test")


class Roads:
    """The roads from a folder of clips to their texts, by name.

    Args:
        model: folder of a trained model.
        folder: holds the clips as files, and the same in `data/test-00000-of-00001.parquet` with the names as texts.
        with_decoder: with the decoder in the model's folder, or the best path.
    """

    def __init__(self, model: Path, folder: Path, with_decoder: bool):
        self.name, self.folder, self.with_decoder = str(model), folder, with_decoder
        self.files = sorted(file for file in folder.iterdir() if file.is_file())
        self.model = DeepSpeech2ForCTC.from_pretrained(model).eval()
        self.processor = DeepSpeech2Processor.from_pretrained(model)
        self.decoder = CTCBeamSearchDecoder.from_pretrained(model, self.processor.tokenizer) if with_decoder else None
        self.between = Recognition(self.processor.tokenizer, self.model.config).between

    def all(self) -> dict[str, Callable[[], list[str]]]:
        roads = {"pipeline": self.pipeline, "command": self.command, "evaluation": self.evaluation}
        return roads if self.model.config.bidirectional else roads | {"stream": self.stream}

    def pipeline(self) -> list[str]:
        parts = {"tokenizer": self.processor.tokenizer, "feature_extractor": self.processor.feature_extractor}
        recognizer = pipeline("automatic-speech-recognition", model=self.model, decoder=self.decoder, **parts)
        return [recognizer(str(file))["text"] for file in self.files]

    def command(self) -> list[str]:
        with tempfile.TemporaryDirectory() as output, contextlib.redirect_stderr(io.StringIO()):
            lm = "on" if self.with_decoder else "off"
            settings = ["--model", self.name, "--lm", lm, "--format", "json", "--output", output]
            assert deepspeech2(["transcribe", *map(str, self.files), *settings]) == 0
            found = [json.loads((Path(output) / f"{file.stem}.json").read_text("utf-8")) for file in self.files]
        return [self.between.join(utterance["text"] for utterance in one["utterances"]) for one in found]

    def evaluation(self) -> list[str]:
        data = SpeechData(str(self.folder / "data"), ["test"], show_progress=False)
        found = evaluate(self.model, self.processor, data, Accelerator(cpu=True), batch_size=8, decoder=self.decoder)
        by_name = dict(zip(found.names, found.predictions))
        return [by_name[file.name] for file in self.files]

    def stream(self) -> list[str]:
        texts = []
        for file in self.files:
            waveform = read_audio(file, self.processor.feature_extractor.sampling_rate)
            live = DeepSpeech2Stream(self.model, self.processor, self.decoder)
            for start in range(0, len(waveform), PIECE):
                live.feed(waveform[start : start + PIECE])
            live.finish()
            texts.append(str(live.text))
        return texts


def write_clips(data: str, number: int, folder: Path) -> int:
    """Writes up to `number` clips of a split, DATA SET::[CONFIGURATION/]SPLIT, as [`Roads`] takes them; returns how many."""
    source, _, split = data.rpartition("::")
    speech = SpeechData(source, [split], show_progress=False)
    rows = []
    for place, utterance in sorted(speech.read(np.arange(min(number, len(speech.index)))).items()):
        content = utterance.audio["bytes"]
        name = f"{len(list(folder.iterdir())) + place:05}.{'ogg' if content[:4] == b'OggS' else 'wav'}"
        (folder / name).write_bytes(content)
        rows.append({"audio": {"bytes": content, "path": name}, "text": utterance.text})
    (folder / "data").mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "test-00000-of-00001.parquet")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=150, help="of each split (%(default)s)")
    parser.add_argument("--data", nargs="+", default=DATA, metavar="DATA::SPLIT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | decoder | data | clips | road | texts that differ from the pipeline's |")
    print("| --- | --- | --- | ---: | --- | ---: |")
    for data in arguments.data:
        if data.startswith("..") and not Path(data.partition("::")[0]).is_dir():
            print(f"Left out: there is no {data}.")
            continue
        with tempfile.TemporaryDirectory() as folder:
            clips = write_clips(data, arguments.clips, Path(folder))
            for model in arguments.models:
                for with_decoder in (False, True)[: 1 + has_decoder(model)]:
                    roads = Roads(model, Path(folder), with_decoder).all()
                    expected = roads.pop("pipeline")()
                    for name, road in roads.items():
                        differ = sum(one != other for one, other in zip(road(), expected, strict=True))
                        decoder = "its decoder" if with_decoder else "best path"
                        print(f"| {model} | {decoder} | {data} | {clips} | {name} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
