"""Counts the bytes that an epoch reads, and the processor time that its utterances take until they are a batch.

    python -m benchmarks.readers ../shared/data/speech-en amazon_queen/train librispeech_clean5/train
    python -m benchmarks.readers recipes/english.yaml --dataset ../shared/data/speech-en

The first form reads splits of a data set of parquet files, the second those of a recipe, with its augmentation. Bytes are
those that the system hands to this process (`rchar` of Linux), which plays one reader after the other.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import psutil
import torch
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2FeatureExtractor, DeepSpeech2Processor
from modeling_deepspeech2.data.augmentation import Augmentation
from modeling_deepspeech2.data.batching import Batching
from modeling_deepspeech2.data.loader import Batches, Collator
from modeling_deepspeech2.data.parquet_tables import ParquetTables
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.data.utterance_file import UtteranceFile, is_worth_a_copy, write_utterances
from modeling_deepspeech2.training.arguments import Settings, parse_arguments
from modeling_deepspeech2.training.default_tokenizer import default_tokenizer


READERS = (1, 2, 8, 32)
DECODED_SECONDS = 600.0  # of speech, from which the speed of decoding is taken


def bytes_so_far() -> int:
    return psutil.Process().io_counters().read_chars


def bytes_of_files(data: SpeechData) -> int:
    """
    Raises:
        SystemExit: the data set is no local parquet files.
    """
    files = [file for source in data.sources if isinstance(source.rows, ParquetTables) for file in source.rows.files]
    if not files or not all(os.path.exists(file) for file in files):
        raise SystemExit(f"benchmarks.readers: {data.path}: expected parquet files of this machine.")
    return sum(os.path.getsize(file) for file in files)


def bytes_of_an_epoch(data: SpeechData, batching: Batching, epoch: int) -> tuple[int, int]:
    """What all readers together read, one for each part of a step: of the data itself, and of a copy of it."""
    plan = batching.plan(data.index, epoch)
    with tempfile.TemporaryDirectory() as folder:
        is_copied = batching.is_sorted(epoch) and is_worth_a_copy(plan, batching.parts)
        before, copy = bytes_so_far(), Path(folder, "copy")
        if is_copied:
            write_utterances(data, copy)
        between = bytes_so_far()
        for reader in range(batching.parts):
            source = UtteranceFile(data.index, copy) if is_copied else data
            for _ in Batches(source, plan, rank=reader, world_size=batching.parts):
                pass
        read = bytes_so_far() - between
    return (between - before, read) if is_copied else (read, 0)


def decoding_speed(data: SpeechData, batching: Batching, augmentation: Augmentation) -> float:
    """Seconds of speech for a second of processor time, on one core: decoded, changed, and turned into features."""
    extractor = DeepSpeech2FeatureExtractor(mean=[0.0] * 161, deviation=[1.0] * 161)
    processor = DeepSpeech2Processor(extractor, AutoTokenizer.from_pretrained(default_tokenizer()))
    collate = Collator(processor, DeepSpeech2Config(), augmentation=augmentation)
    torch.set_num_threads(1)
    seconds = taken = 0.0
    for count, batch in enumerate(Batches(data, batching.plan(data.index, 1))):
        start = time.process_time()
        found = collate(batch)["seconds"]
        if count:  # the first one loads libraries
            seconds, taken = seconds + found, taken + time.process_time() - start
        if seconds > DECODED_SECONDS:
            break
    return seconds / taken


def settings(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    if arguments.place.endswith((".yaml", ".yml")):
        return parse_arguments([arguments.place, *rest], "")
    return parse_arguments(["--dataset", arguments.place, "--train", *arguments.splits, *rest], "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", help="a recipe, or a data set; after it, fields of run_ctc.py")
    parser.add_argument("splits", nargs="*", help="of the data set")
    parser.add_argument("--readers", type=int, nargs="+", default=READERS, help="numbers of readers")
    parser.add_argument("--decode", action="store_true", help="only the speed of decoding")
    arguments, rest = parser.parse_known_args()
    run = settings(arguments, rest)
    data = SpeechData(run.data.dataset, run.data.train, show_progress=False)
    if not arguments.decode:
        whole = bytes_of_files(data)
        print(f"{len(data.index):,} utterances, {data.index.hours:.1f} h, {whole / 1e6:,.0f} MB\n")
        print("| readers | first epoch (SortaGrad): data | first epoch: temporary copy | later epoch | later epoch, MB |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        for readers in arguments.readers:
            batching = Batching.from_arguments(run.run, readers)
            (first, copied), (later, _) = (bytes_of_an_epoch(data, batching, epoch) for epoch in (0, 1))
            of_copy = f"{copied / whole:.2f}×" if copied else "–"
            print(
                f"| {readers} | {first / whole:.2f}× | {of_copy} | {later / whole:.2f}× | {later / 1e6:,.0f} |", flush=True
            )
        print()
    plain = Augmentation(seed=run.run.seed)
    own = Augmentation.from_arguments(run.run, [])
    kinds = {"without augmentation": plain, "with the recipe's augmentation": dataclasses.replace(own, epoch=1)}
    for name, augmentation in kinds.items():
        speed = decoding_speed(data, Batching.from_arguments(run.run, 1), augmentation)
        print(f"decoding {name}: {speed:.0f} × real time, processor time of one core", flush=True)


if __name__ == "__main__":
    main()
