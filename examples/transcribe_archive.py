"""Transcribes an archive of recordings with datatrove: parquet in, parquet or JSON lines with words in time out.

    pip install datatrove
    python examples/transcribe_archive.py --input demo/speech/english --output archive/english \\
        --model checkpoints/deepspeech2-english --tasks 4 --workers 2
    python examples/transcribe_archive.py --input hf://datasets/me/talks --output hf://buckets/me/texts --model me/my-model

Each task takes every n-th file of the input, and each row's `audio` column as `datasets` writes it: a struct of `bytes` and
`path`. A task that is complete leaves a marker under the output's `logs/completions`: the same command again runs only those
that are missing. Each task is a process of its own: if one is killed, the others go on. For Slurm or Ray, take the executor
of that name in datatrove instead; the pipeline stays as it is.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import JsonlWriter, ParquetWriter


def as_document(reader: ParquetReader, row: dict, path: str, number: int) -> dict:
    """A row of a data set -> what datatrove passes on; its text is the name of the recording until it is transcribed."""
    audio = row.pop("audio")
    name = audio.get("path") or f"{path}/{number}"
    facts = {key: value for key, value in row.items() if isinstance(value, (str, int, float, bool))}
    return {"text": name, "id": f"{path}/{number}", "metadata": {**facts, "name": name, "audio": audio["bytes"]}}


class Transcribe(PipelineStep):
    """Audio bytes -> text, utterances and words; what cannot be read is counted, named and left out."""

    name = "Deep Speech 2"
    type = "SPEECH"

    def __init__(self, model: str, lm: bool):
        super().__init__()
        self.model_name, self.lm = model, lm

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterable[Document]:
        import torch

        from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor, transcribe

        torch.set_num_threads(1)
        model = DeepSpeech2ForCTC.from_pretrained(self.model_name).eval().fold_batch_norm()
        processor = DeepSpeech2Processor.from_pretrained(self.model_name)
        decoder = CTCBeamSearchDecoder.from_pretrained(self.model_name, processor.tokenizer) if self.lm else None
        for document in data:
            with self.track_time():
                try:
                    utterances = list(transcribe(model, processor, document.metadata.pop("audio"), decoder))
                except (ValueError, OSError) as error:
                    print(f"task {rank}: {document.metadata['name']} is left out: {error}", flush=True)
                    self.stat_update("unreadable")
                    continue
            document.text = processor.tokenizer.utterance_separator.join(one.text for one in utterances)
            document.metadata["utterances"] = [facts(one) for one in utterances]
            self.stat_update("transcribed")
            yield document


def facts(utterance: Any) -> dict:
    """Text and words with times in seconds, as they are written."""
    words = [asdict(word) for word in utterance.words]
    return {"text": utterance.text, "start": words[0]["start"], "end": words[-1]["end"], "words": words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder with parquet files, local or of any file system of fsspec")
    parser.add_argument("--pattern", default="*.parquet", help="of its files (%(default)s)")
    parser.add_argument("--output", required=True, help="folder for the transcripts and the markers of complete tasks")
    parser.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")
    parser.add_argument("--lm", action="store_true", help="search with the decoder that is saved beside the model")
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="jsonl")
    parser.add_argument("--tasks", type=int, default=4, help="at most the number of files (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="tasks at a time (%(default)s)")
    settings = parser.parse_args()
    executor = make_executor(settings)
    missing = [rank for rank in range(settings.tasks) if not executor.is_rank_completed(rank)]
    print(f"{settings.tasks} tasks, of which {settings.tasks - len(missing)} are complete", flush=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__", "modeling_deepspeech2"])  # imported once, not for each task

    def run(rank: int) -> bool:
        process = processes.Process(target=run_task, args=(settings, rank))
        process.start()
        print(f"task {rank}: process {process.pid}", flush=True)
        process.join()
        return process.exitcode == 0

    with ThreadPoolExecutor(settings.workers) as pool:
        failed = [rank for rank, is_complete in zip(missing, pool.map(run, missing)) if not is_complete]
    if failed:
        raise SystemExit(f"These tasks failed: {failed}. The same command runs them again, and no others.")


def make_executor(settings: argparse.Namespace, task: int | None = None) -> LocalPipelineExecutor:
    """Of one task, or of all."""
    writer = {"jsonl": JsonlWriter, "parquet": ParquetWriter}[settings.format]
    return LocalPipelineExecutor(
        [
            ParquetReader(settings.input, glob_pattern=settings.pattern, adapter=as_document, batch_size=16),
            Transcribe(settings.model, settings.lm),
            writer(f"{settings.output}/{settings.format}"),
        ],
        tasks=settings.tasks,
        workers=1,
        local_rank_offset=task or 0,
        local_tasks=settings.tasks if task is None else 1,
        logging_dir=f"{settings.output}/logs",
    )


def run_task(settings: argparse.Namespace, task: int) -> None:
    """In a process of its own, which may die without harm to the others."""
    make_executor(settings, task).run()


if __name__ == "__main__":
    main()
