"""Starts a run: checks everything that the run will need until its end, and makes or loads the model."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..data.augmentation import Augmentation, noise_recordings
from ..data.batching import Batching
from ..data.loader import Collator
from ..data.sources import DataError, SpeechData
from ..errors import UserError
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .arguments import DataArguments, RunArguments, Settings, command_line
from .checkpoints import folder_of, forget_later, last_checkpoint, read_state, set_aside
from .default_tokenizer import default_tokenizer
from .interruption import Interruption
from .model_parallel import split_model
from .output_folder import check_shared, claim, new_folder, on_main_process
from .progress import Progress
from .publishing import open_repository
from .run import Run
from .run_record import make_record, now, read_record, write_record
from .tracking import check_tracker


# What a resumed run cannot change: the best model so far, the optimiser's state or every step would be another's.
_FIXED = {
    "optim", "tokenizer", "normalization", "statistics_utterances", "gradient_accumulation_steps", "validation",
    "validation_share", "model",
}  # fmt: skip
_FREE_OF_NETWORK = {"hidden_dropout", "batch_norm_momentum"}
_NO_SETTINGS = {"resume", "output_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "eval_only"}
_TRIED_AT_ONCE = 8  # utterances that are read to find one that can be used


def prepare(settings: Settings, accelerator: Accelerator, interruption: Interruption) -> Run:
    """Opens the data, takes the output folder, makes the model; writes nothing of the run before all of it has succeeded.

    Raises:
        UserError: whatever would end the run later.
    """
    output = Path(settings.run.output_dir)
    check_tracker(settings.run.report_to)
    lock = on_main_process(accelerator, lambda: claim(output, settings.run.resume))
    check_shared(output, accelerator)
    checkpoint, saved, changed = None, {}, {}
    if settings.run.resume:
        checkpoint = _checkpoint(output, accelerator)
    if checkpoint is not None:
        saved = read_state(checkpoint)
        began_with = DeepSpeech2Config.from_pretrained(folder_of(output, "start"))
        settings, changed = resumed_settings(settings, saved["settings"], began_with)
    train_data, validation, tests = open_data(settings.data, accelerator)
    model, processor, start = build(settings, checkpoint and folder_of(output, "start"), train_data, accelerator)
    parts = {f"test {split}": data for split, data in tests.items()}
    parts = {"train": train_data, "validation": validation} | parts
    on_main_process(accelerator, lambda: check_usable(parts, processor, model.config))
    if settings.run.push_to_hub:
        private = settings.run.hub_private_repo or None
        on_main_process(accelerator, lambda: open_repository(str(settings.run.hub_model_id), private))
    if settings.run.tensor_parallel_size > 1:
        split_model(model, settings.run.tensor_parallel_size, accelerator.num_processes, accelerator.device)
    augmentation = make_augmentation(settings.run, accelerator)
    batching, progress = make_batching(settings, train_data, saved.get("progress"), checkpoint, accelerator)
    record = make_record(settings, model.config, parts, accelerator)
    if checkpoint is None:
        progress.start = start
        on_main_process(accelerator, lambda: _begin(output, model, processor))
    else:
        earlier = read_record(output)
        again = {"step": progress.step, "time": now(), "command": command_line(), "changed": changed}
        record |= {"started": earlier.get("started"), "resumed": [*earlier.get("resumed", []), again]}
        if accelerator.is_main_process:
            forget_later(output, checkpoint)
            for name, (before, after) in changed.items():
                print(f"{name}: {before} until step {progress.step}, {after} from there on.")
    on_main_process(accelerator, lambda: write_record(record, output))
    data = (train_data, validation, tests)
    return Run(
        settings,
        accelerator,
        interruption,
        lock,
        model,
        processor,
        *data,
        batching,
        augmentation,
        progress,
        checkpoint,
        record,
    )


def _checkpoint(output: Path, accelerator: Accelerator) -> Path | None:
    found = [on_main_process(accelerator, lambda: last_checkpoint(output))]
    broadcast_object_list(found)
    if found[0] is None:
        accelerator.print(f"There is no checkpoint in {output} yet: the run starts from its beginning.")
    return found[0]


def _begin(output: Path, model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor) -> None:
    aside = set_aside(output)
    if aside is not None:
        print(f"The checkpoints of an earlier run are now in {aside}; --resume would have continued from them.")
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    with new_folder(folder_of(output, "start"), needed) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)


def resumed_settings(
    settings: Settings, saved: dict[str, Any], network: DeepSpeech2Config
) -> tuple[Settings, dict[str, list[Any]]]:
    """The settings of a run that continues: what is not given now stays as it was.

    Args:
        saved: the resolved settings of the checkpoint.
        network: the configuration that the run began with.

    Returns:
        The settings, and those that have changed, name -> [before, now].

    Raises:
        UserError: a setting that cannot change within a run.
    """
    own = {name: saved[name] for name in saved if name in DeepSpeech2Config.own_fields()}
    before = {name: getattr(network, name) for name in DeepSpeech2Config.own_fields()} | saved
    changed: dict[str, list[Any]] = {}
    for name in sorted(settings.given - _NO_SETTINGS):
        old, new = _plain(before.get(name)), _plain(settings.resolved()[name])
        if old == new:
            continue
        if name in _FIXED or name in DeepSpeech2Config.own_fields() and name not in _FREE_OF_NETWORK:
            raise UserError(
                f"{name}: this run was begun with {old}, and --resume cannot change it to {new}; leave it out, or start "
                f"a new run, from this one's best model with --model."
            )
        changed[name] = [old, new]
    kept = {name: value for name, value in saved.items() if name not in settings.given | _NO_SETTINGS}
    data, run = (
        dataclasses.replace(part, **{f.name: kept[f.name] for f in dataclasses.fields(part) if f.name in kept})
        for part in (settings.data, settings.run)
    )
    return settings._replace(network=own | settings.network, data=data, run=run), changed


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def open_data(data: DataArguments, accelerator: Accelerator) -> tuple[SpeechData, SpeechData, dict[str, SpeechData]]:
    """Opens the training data, the validation data, and each test split by itself.

    Raises:
        DataError: a split cannot be opened, or holds no utterance.
    """
    tests = open_tests(data, accelerator)
    kept = data.validation_share if not data.validation else 0.0
    train_data = _speech(data, data.train, accelerator, kept, "kept")
    if data.validation:
        validation = _speech(data, data.validation, accelerator)
    else:
        validation = _speech(data, data.train, accelerator, kept, "held_out")
    if not train_data.index.weights.any():
        raise DataError(f"The splits {data.train} of {data.dataset} hold no utterance to train on, or all weigh 0.")
    if len(validation.index) == 0:
        raise DataError("There is no utterance to validate on: name a validation split, or raise validation_share.")
    return train_data, validation, tests


def open_tests(data: DataArguments, accelerator: Accelerator) -> dict[str, SpeechData]:
    """Each test split by itself."""
    return {split: _speech(data, [split], accelerator) for split in data.test}


def _speech(
    data: DataArguments, splits: list[str], accelerator: Accelerator, held_out: float = 0.0, part: str = "all"
) -> SpeechData:
    """Opens splits; one process of each machine measures the durations, the others find them measured."""
    columns = (data.audio_column, data.text_column, data.duration_column)
    speech = SpeechData(data.dataset, splits, *columns, held_out, part, accelerator.is_local_main_process)
    with accelerator.local_main_process_first():
        len(speech.index)  # measures
    return speech


def check_usable(parts: dict[str, SpeechData], processor: DeepSpeech2Processor, config: DeepSpeech2Config) -> None:
    """Reads of each part as many utterances as it takes to find one that can be used.

    Raises:
        DataError: there is none.
    """
    collate = Collator(processor, config, training=False)
    for name, data in parts.items():
        reasons: Counter[str] = Counter()
        for numbers in np.array_split(np.arange(len(data.index)), -(-len(data.index) // _TRIED_AT_ONCE) or 1):
            batch = collate(list(data.read(numbers).values()) if len(numbers) else [])
            if batch["names"]:
                break
            reasons.update(reason for _, reason in batch["skipped"])
        else:
            often = f", most often because: {reasons.most_common(1)[0][0]}" if reasons else "; it has no rows"
            raise DataError(f"{name}: no utterance could be used{often}")


def load(path: str | Path) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    """
    Raises:
        UserError: there is no such model, or it is damaged.
    """
    try:
        return DeepSpeech2ForCTC.from_pretrained(path), DeepSpeech2Processor.from_pretrained(path)
    except OSError as error:
        raise UserError(f"model: {path} cannot be opened: {str(error).splitlines()[0]}") from error


def build(
    settings: Settings, start: Path | None, train_data: SpeechData, accelerator: Accelerator
) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor, str]:
    """The start of the resumed run, a saved model to fine-tune, or a new model.

    Raises:
        UserError: there is no such model, or the settings do not fit it.
    """
    if start is not None:
        model, processor = load(start)
        return changed_model(model, start, settings.network, processor.tokenizer, processor.tokenizer), processor, ""
    if settings.run.model:
        return _from_saved(settings, settings.run.model, accelerator)
    data = settings.data
    tokenizer = _tokenizer(data.tokenizer or default_tokenizer())
    extractor = DeepSpeech2FeatureExtractor(normalization=data.normalization)
    if data.normalization == "training_set":
        if accelerator.is_main_process:
            stream = train_data.waveforms(extractor.sampling_rate, data.statistics_utterances)
            extractor.fit(tqdm(stream, "feature statistics", unit=" utterances", leave=False))
        (extractor,) = broadcast_object_list([extractor])
    config = DeepSpeech2Config(
        **settings.network,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_frequency_bins=extractor.feature_size,
        sampling_rate=extractor.sampling_rate,
        hop_length=extractor.hop_length,
    )
    return DeepSpeech2ForCTC(config), DeepSpeech2Processor(extractor, tokenizer), "scratch"


def _from_saved(
    settings: Settings, source: str, accelerator: Accelerator
) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor, str]:
    model, processor = load(source)
    own, data = processor.tokenizer, settings.data
    if model.config.vocab_size != len(own):
        raise UserError(
            f"The model {source} has {model.config.vocab_size} output symbols, but its tokenizer has {len(own)}: they do "
            f"not belong together."
        )
    saved = processor.feature_extractor.normalization
    if "normalization" in settings.given and data.normalization != saved:
        raise UserError(
            f"normalization: found {data.normalization}, but {source} has learned from features normalised by {saved}. "
            f"Leave it out, or train from scratch."
        )
    tokenizer = _tokenizer(data.tokenizer) if data.tokenizer else own
    changed = changed_model(model, source, settings.network, tokenizer, own)
    start = f"the model `{source}`"
    new = len(tokenizer.get_vocab().keys() - own.get_vocab().keys())
    if tokenizer.get_vocab() != own.get_vocab():
        words = f"{len(tokenizer) - new} symbols keep their output weights, {new} are new"
        accelerator.print(f"The alphabet of {data.tokenizer} is not that of {source}: {words}.")
        start += f" with another alphabet ({words})"
    return changed, DeepSpeech2Processor(processor.feature_extractor, tokenizer), start


def _tokenizer(name: str | Path) -> DeepSpeech2CTCTokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:  # ValueError: the configuration of another kind of model
        raise UserError(f"tokenizer: {name} cannot be opened: {str(error).splitlines()[0]}") from error
    if not hasattr(tokenizer, "language_model_unit"):
        raise UserError(f"tokenizer: {name} holds a {type(tokenizer).__name__}, expected one of Deep Speech 2.")
    return tokenizer


def changed_model(
    saved: DeepSpeech2ForCTC,
    source: str | Path,
    network: dict[str, Any],
    tokenizer: DeepSpeech2CTCTokenizer,
    own: DeepSpeech2CTCTokenizer,
) -> DeepSpeech2ForCTC:
    """A saved model with some settings and perhaps the alphabet changed, and with the weights that it has learned."""
    settings = {name: getattr(saved.config, name) for name in DeepSpeech2Config.own_fields()}
    symbols = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    settings.pop("word_confidence")  # was fitted to the weights of before
    model = DeepSpeech2ForCTC(DeepSpeech2Config(**settings | network | symbols))
    before, after = own.get_vocab(), tokenizer.get_vocab()
    take_weights(model, saved, source, {after[symbol]: before[symbol] for symbol in after.keys() & before.keys()})
    return model


@torch.no_grad()
def take_weights(model: DeepSpeech2ForCTC, saved: DeepSpeech2ForCTC, source: str | Path, symbols: dict[int, int]) -> None:
    """Copies what the saved model has learned. A model of one direction takes the forward one of two.

    Args:
        symbols: output symbols of the model -> the same of the saved one; the others keep their new weights.

    Raises:
        UserError: settings of the model that the saved weights do not fit; a row convolution may be new, or fall away.
    """
    weights = saved.state_dict()
    dropped = [name for name in weights.keys() - model.state_dict().keys() if "row_convolution" not in name]
    if dropped:
        raise UserError(
            f"The settings of this model have no place for weights of {source}: {', '.join(sorted(dropped)[:3])}, … "
            f"Leave out the settings, or train from scratch."
        )
    to, fro = (torch.tensor(numbers) for numbers in (list(symbols), list(symbols.values())))
    for name, own in model.state_dict().items():
        if name not in weights and "row_convolution" in name:  # it starts as the identity
            continue
        weight = weights.get(name, torch.empty(0))
        if name.endswith(("weight_hh", "weight_ih")):
            weight = weight[: len(own)]
        if name.startswith("ctc_head") and weight.shape[1:] == own.shape[1:]:
            own[to] = weight[fro]
            continue
        if weight.shape != own.shape:
            raise UserError(
                f"The weights of {source} do not fit the settings of this model: {name} has shape {tuple(weight.shape)} "
                f"there, and {tuple(own.shape)} is needed. Leave out the settings, or train from scratch."
            )
        own.copy_(weight)


def make_augmentation(arguments: RunArguments, accelerator: Accelerator) -> Augmentation:
    noise, unreadable = noise_recordings(arguments.noise) if arguments.noise else ([], [])
    if unreadable:
        accelerator.print(f"{len(unreadable)} recordings of noise cannot be read: {', '.join(unreadable)}")
    return Augmentation.from_arguments(arguments, noise)


def make_batching(
    settings: Settings,
    train_data: SpeechData,
    saved: dict[str, Any] | None,
    checkpoint: Path | None,
    accelerator: Accelerator,
) -> tuple[Batching, Progress]:
    """How utterances become steps, the same on all processes, and where a resumed run stands in them.

    Raises:
        DataError: the processes do not see the same data, or those that a run is resumed on amid an epoch are others.
    """
    progress = Progress.from_state(saved) if saved else Progress()
    # A step stays the same even if the run is resumed with another number of processes.
    parts = accelerator.num_processes // settings.run.tensor_parallel_size * settings.run.gradient_accumulation_steps
    parts = progress.parts if saved else parts
    batching = Batching.from_arguments(settings.run, parts)
    plan = batching.fingerprint(train_data.index)
    if len(set(gather_object([plan]))) > 1:
        raise DataError(f"The processes see different versions of {train_data.path}; here {len(train_data.index)} rows.")
    if saved and progress.plan != plan and progress.epoch_step:
        best = folder_of(Path(settings.run.output_dir), "best", progress.best_step)
        raise DataError(
            f"{checkpoint} stands amid an epoch of other data, or of another per_device_train_batch_size, batch_seconds, "
            f"sorta_grad, seed or shuffle_memory: resume with what it was begun with, or start anew"
            f"{'.' if progress.best_step is None else f' with --model={best}.'}"
        )
    progress.parts, progress.plan = parts, plan
    return batching, progress
