"""Chooses alpha and beta of the beam search on a development split, and saves the decoder with the model.

Q = log p_ctc + alpha · log p_lm + beta · words (characters where a script has no spaces). The lowest word error rate
wins, or character error rate there. Then the confidences of words are calibrated on the same split. Measure a test split
only afterwards, with `deepspeech2 evaluate`.
"""

import argparse
import json
from pathlib import Path

from .options import add_columns, add_dataset, add_model, add_processes, check_output_folder


EPILOG = """example:
  deepspeech2 tune --model runs/mine --language_model lm.safetensors --dataset my_speech --split validation"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--language_model", required=True, type=Path, metavar="FILE", help=".safetensors, or ARPA, plain, .gz or .xz"
    )
    add_dataset(parser, "the splits to tune on, each [DATASET::][CONFIGURATION/]SPLIT; never what you test on")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for the decoder (default: the model's)")
    parser.add_argument("--max_utterances", type=int, default=400, metavar="N", help="draw this many; 0: all (%(default)s)")
    parser.add_argument("--max_alpha", type=float, default=2.0, help="largest alpha of the first grid (%(default)s)")
    parser.add_argument("--max_beta", type=float, default=3.0, help="largest beta of the first grid (%(default)s)")
    parser.add_argument(
        "--beam_width", type=int, default=100, metavar="N", help="prefixes kept, here and in the decoder (%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="utterances in a batch (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the drawing (%(default)s)")
    add_columns(parser, "audio", "text")
    add_processes(parser)


def check(settings: argparse.Namespace) -> None:
    """Raises a UserError for a setting that would fail later, or spoil the result."""
    from ..decoder_settings import check_setting
    from ..errors import UserError

    if not settings.split:
        raise UserError("--split: needed, such as --split validation.")
    for split in settings.split:
        if split.rpartition("::")[2].rpartition("/")[2].startswith("test"):
            raise UserError(f"--split: found the test split {split}; weights tuned on it make its figures worthless.")
    if settings.output is None and not Path(settings.model).is_dir():
        raise UserError(f"--output: needed, because the model {settings.model} is not a folder.")
    for name, least in (("batch_size", 1), ("processes", 1), ("max_utterances", 0)):
        if getattr(settings, name) < least:
            raise UserError(f"--{name}: found {getattr(settings, name)}, expected at least {least}.")
    for name in ("alpha", "beta"):
        if not getattr(settings, f"max_{name}") > 0:
            raise UserError(f"--max_{name} must be above 0, but is {getattr(settings, f'max_{name}')}.")
        check_setting(name, getattr(settings, f"max_{name}"))
    check_output_folder(settings.output or Path(settings.model))


def run(settings: argparse.Namespace) -> int:
    from transformers.utils import CONFIG_NAME

    from ..data.sources import SpeechData
    from ..decoding_deepspeech2 import CTCBeamSearchDecoder
    from ..language_models.confidence import RELIABILITY, calibrate, draw_reliability
    from ..language_models.tuning import SURFACE, collect, draw_surface, tune
    from ..modeling_deepspeech2 import DeepSpeech2ForCTC
    from ..processing_deepspeech2 import DeepSpeech2Processor
    from ..recognition import Recognition
    from ..settings_files import replacing

    check(settings)
    output = settings.output or Path(settings.model)
    processor = DeepSpeech2Processor.from_pretrained(settings.model)
    decoder = CTCBeamSearchDecoder(processor.tokenizer, settings.language_model, beam_width=settings.beam_width)
    model = DeepSpeech2ForCTC.from_pretrained(settings.model).eval()
    data = SpeechData(settings.dataset, settings.split, settings.audio_column, settings.text_column)
    logits, references, skipped, seconds = collect(
        model, processor, data, settings.max_utterances, settings.batch_size, settings.seed
    )
    measured_on = f"{' '.join(settings.split)} of {settings.dataset}"
    print(f"Tuning on {measured_on}: {len(references):,} utterances, {seconds / 3600:.2f} h.")
    for name, reason in skipped:
        print(f"  left out: {name}: {reason}")
    recognition = Recognition(processor.tokenizer, model.config, decoder)
    tuning = tune(recognition, logits, references, settings.max_alpha, settings.max_beta, settings.processes)
    confidences = calibrate(recognition, logits, references)
    decoder.save_pretrained(output)
    if (output / CONFIG_NAME).is_file():  # where all else stays, such as the names of its code
        config = json.loads((output / CONFIG_NAME).read_text(encoding="utf-8")) | {
            "word_confidence": model.config.word_confidence
        }
        with replacing(output / CONFIG_NAME) as new:
            new.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    table = {
        "splits": settings.split,
        "utterances": len(references),
        "left_out": len(skipped),
        "metric": tuning.metric,
        "best_path": tuning.greedy,
        "calibration_error": {name: round(words.error, 4) for name, words in confidences.items()},
        "word_confidence": {"best path": model.config.word_confidence, "beam search": decoder.calibration},
        "rates": [{"alpha": alpha, "beta": beta, "rate": rate} for (alpha, beta), rate in sorted(tuning.rates.items())],
    }
    (output / f"{SURFACE}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    title = f"{len(references):,} utterances of {' '.join(settings.split)}"
    draw_surface(tuning, title, output / f"{SURFACE}.png")
    draw_reliability(confidences, title, output / RELIABILITY)
    print(f"{tuning}; saved in {output}.")
    for name, value, limit in (("alpha", tuning.best[0], settings.max_alpha), ("beta", tuning.best[1], settings.max_beta)):
        if value >= limit:
            print(f"The best {name} is at the edge of the grid: a higher --max_{name} may do better.")
    return 0
