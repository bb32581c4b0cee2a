"""Ends a run: writes the model, its error rates, the card and the curve, each completely or not at all."""

import json
from typing import Any

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..decoding_deepspeech2 import DECODER_CONFIG
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from .checkpoints import folder_of
from .evaluation import Evaluation
from .model_card import CURVE, draw_curve, write_model_card
from .output_folder import file_hash, free_name, new_files, write_text
from .publishing import push_repository, save_repository
from .run import Run
from .run_record import now, portable, write_record


_CARD_BYTES = 500_000  # about what card, curve and code take
_WITHOUT_SPACES = """
A character counts as a word in the word error rate; spaces beside such characters do not count in the character error rate.
"""


def best_model(run: Run) -> DeepSpeech2ForCTC:
    """The best by validation; the newest where none could be written."""
    if run.progress.best_step is None:
        return run.model
    best = DeepSpeech2ForCTC.from_pretrained(folder_of(run.output, "best", run.progress.best_step))
    return best.to(run.accelerator.device)


def write_model(run: Run, model: DeepSpeech2ForCTC) -> None:
    """Puts the model into the output folder, over that of an earlier run, whose decoder is kept aside.

    Raises:
        UserError: it cannot be written; what was there stays.
    """
    output = run.output
    needed = _CARD_BYTES + sum(tensor.nbytes for tensor in model.state_dict().values())
    decoder = output / DECODER_CONFIG
    with new_files(output, needed) as new:
        save_repository(new, model, run.processor)
        weights = [folder / "model.safetensors" for folder in (output, new)]
        if decoder.exists() and weights[0].exists() and len({file_hash(file) for file in weights}) > 1:
            aside = decoder.rename(free_name(decoder))  # its alpha and beta were tuned for other weights
            print(f"The decoder of the earlier model is now {aside}: tune one for the new model.")
    print(f"The model is in {output}.")


def write_results(run: Run, model: DeepSpeech2ForCTC, results: dict[str, Evaluation]) -> None:
    """Error rates, history, what was left out, the curve, the run's record and the card.

    Raises:
        UserError: they cannot be written; the model is already there.
    """
    output, progress = run.output, run.progress
    run.record["ended"] = now()
    history = {"training": progress.losses, "validation": progress.validations}
    omitted = {"utterances": progress.skipped, "steps": progress.steps_left_out}
    rates = {split: {"wer": result.wer, "cer": result.cer} for split, result in results.items()}
    for name, content in (("results", rates), ("history", history), ("skipped", omitted)):
        write_text(output / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False))
    write_record(run.record, output)
    with new_files(output, _CARD_BYTES) as new:
        draw_curve(progress.losses, progress.validations, new / CURVE)
        write_model_card(
            new,
            run.settings.run.hub_model_id or run.output.name,
            run.processor.tokenizer.language,
            run.settings.data.dataset,
            results,
            facts=_facts(run, model),
            settings={name: getattr(model.config, name) for name in DeepSpeech2Config.own_fields()},
            record=run.record,
        )


def _facts(run: Run, model: DeepSpeech2ForCTC) -> dict[str, Any]:
    progress, index = run.progress, run.train_data.index
    hardware = run.record["hardware"]
    return {
        "command": portable(run.record["command"]),
        "hours": index.hours,
        "utterances": len(index),
        "parameters": model.num_parameters(),
        "minutes": progress.train_seconds / 60,
        "device": f"{hardware['processes']} × {hardware['device']} ({hardware['name']})",
        "start": portable(progress.start),
        "note": f"; the best of {len(progress.validations)} validations by CER",
        "left_out": progress.left_out(),
        "words": _WITHOUT_SPACES if run.processor.tokenizer.word_boundaries == "characters" else "",
        "unknown": ", ".join(f"{c!r} ({n})" for c, n in progress.unknown.most_common()) or "none",
    }


def push(run: Run) -> None:
    """
    Raises:
        UserError: the Hub cannot be reached, or refuses; the model is in the output folder.
    """
    arguments = run.settings.run
    try:
        address = push_repository(run.output, str(arguments.hub_model_id), arguments.hub_private_repo or None)
    except (UserError, OSError) as error:  # OSError: no connection
        raise UserError(f"The model is in {run.output}, but could not be published: {str(error).splitlines()[0]}") from error
    print("Published:", address)
