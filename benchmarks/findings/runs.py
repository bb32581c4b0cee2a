"""Runs the small trainings, as many in parallel as there are cores, and logs their results."""

import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import time
from math import prod
from pathlib import Path

import numpy as np
import soundfile
from accelerate import Accelerator
from safetensors import safe_open

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.corpus.shards import write_shards
from modeling_deepspeech2.data.augmentation import Augmentation
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.training.evaluation import evaluate

from .variants import FINDINGS, MEAN, NOISY, TEST, WITH_LM


RECIPE = Path("recipes/findings.yaml")
# A small model gains little from a second core.
ON_ONE_CORE = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


class RunError(RuntimeError):
    """A training that ended with an error."""


def key(settings: dict, seed: int) -> str:
    return json.dumps([settings, seed], sort_keys=True)


def read_log(file: Path) -> dict[str, dict]:
    """What was measured of each run; a line that was cut off counts for nothing."""
    runs = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            run = json.loads(line)
            runs[key(run["settings"], run["seed"])] = run
        except ValueError:
            continue
    return runs


def append(file: Path, run: dict) -> None:
    """Adds a run to the log, on a line of its own even after one that was cut off."""
    is_cut_off = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a", encoding="utf-8") as log:
        log.write("\n" * is_cut_off + json.dumps(run) + "\n")


def make_noisy(folder: Path) -> None:
    """The test clips with noise at 0 to 30 dB, as training adds it, but other noise."""
    if folder.exists():
        return
    noise, rate = Augmentation(noise_share=1.0, seed=1_000), 16_000
    data = SpeechData("demo/speech", [TEST], show_progress=False)
    new = folder.with_name("noisy.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    rows = []
    for _, utterance in sorted(data.read(np.arange(len(data.index))).items()):
        waveform = read_waveform(utterance.audio, rate, utterance.name)
        waveform = noise.change(waveform, rate, noise.generator(utterance.name))
        file = new / "clip.flac"
        soundfile.write(file, waveform / max(1.0, np.abs(waveform).max()), rate)
        audio = {"bytes": file.read_bytes(), "path": None}
        file.unlink()
        facts = {"speaker_id": None, "source": None, "duration": len(waveform) / rate}
        rows.append({"id": utterance.name, "audio": audio, "text": utterance.text} | facts)
    write_shards(rows, new, "test", 2**30)
    new.rename(folder)


def make_language_model(file: Path) -> None:
    if not file.exists():
        command = [sys.executable, "deepspeech2_command.py", "language-model", "--dataset", "demo/speech"]
        command += ["--split", "english/train", "--tokenizer", "tokenizer/english", "--output", str(file)]
        file.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True)


def arguments_of(settings: dict) -> tuple[list[str], list[str]]:
    """-> the program, as Python's arguments, and what follows: the recipe and the fields that are others"""
    fields = dict(settings)
    program, recipe = fields.pop("program", None), fields.pop("recipe", str(RECIPE))
    arguments = [recipe]
    for name, value in fields.items():
        arguments += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return ["-m", program] if program else ["run_ctc.py"], arguments


def count_parameters(file: Path) -> int:
    """Of a network's file of weights, without the running averages of BatchNorm."""
    with safe_open(str(file), "pt") as weights:
        names = [name for name in weights.keys() if ".running_" not in name and "num_batches" not in name]  # noqa: SIM118
        return sum(prod(weights.get_slice(name).get_shape()) for name in names)


def train(settings: dict, seed: int, more: list[str], measured: set[str], work: Path, cores: "queue.Queue[int]") -> dict:
    """One run on one core -> its line of the log."""
    core = cores.get()
    try:
        return _train(settings, seed, more, measured, work, core)
    finally:
        cores.put(core)


def _train(settings: dict, seed: int, more: list[str], measured: set[str], work: Path, core: int) -> dict:
    output = work / f"run-{core}"
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    fields = settings | {"seed": seed, "output_dir": str(output)}
    if NOISY in measured:
        fields["test"] = [*fields.get("test", [TEST]), f"{work / 'noisy'}::test"]
    program, arguments = arguments_of(fields)
    command = [sys.executable, "-c", ON_ONE_CORE, str(core), *program, *arguments, *more]
    started = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env=os.environ | {"ACCELERATE_USE_CPU": "true"})
    seconds = time.perf_counter() - started
    if done.returncode:
        kept = output.with_name(f"failed-{time.time_ns()}.txt")  # the core's next run writes over it
        shutil.copyfile(log, kept)
        raise RunError(f"The run {settings} with seed {seed} failed; {kept} says why.")
    results = json.loads((output / "results.json").read_text())
    results = {NOISY if name.endswith("::test") else name: rates for name, rates in results.items()}
    if MEAN in measured:
        results[MEAN] = {rate: statistics.mean(found[rate] for found in results.values()) for rate in ("wer", "cer")}
    if WITH_LM in measured:
        model = DeepSpeech2ForCTC.from_pretrained(output)
        processor = DeepSpeech2Processor.from_pretrained(output)
        decoder = CTCBeamSearchDecoder(processor.tokenizer, work / "lm.safetensors")
        data = SpeechData("demo/speech", [TEST], show_progress=False)
        found = evaluate(model, processor, data, Accelerator(cpu=True), decoder=decoder)
        results[WITH_LM] = {"wer": found.wer, "cer": found.cer}
    parameters = count_parameters(output / "model.safetensors")
    facts = {"parameters": parameters, "seconds": round(seconds), "results": results}
    return {"settings": settings, "seed": seed} | facts


def missing(names: list[str], seeds: int, runs: dict[str, dict]) -> list[tuple[dict, int, set[str]]]:
    """Runs to be made, all with the first seed before any with the second: settings, seed, and what is to be measured."""
    needed: dict[str, tuple[dict, int, set[str]]] = {}
    for seed in range(seeds):
        for name in names:
            if seed >= FINDINGS[name].seeds:
                continue
            for settings in FINDINGS[name].variants.values():
                needed.setdefault(key(settings, seed), (settings, seed, set()))[2].update(FINDINGS[name].measured)
    return [run for name, run in needed.items() if name not in runs or not run[2] <= runs[name]["results"].keys()]
