"""Trains, measures and publishes a Deep Speech 2 recogniser.

    accelerate launch run_ctc.py recipes/digits.yaml                              # train, measure, write the model
    accelerate launch run_ctc.py recipes/digits.yaml --hidden_size=256            # change any field
    accelerate launch run_ctc.py recipes/digits.yaml --resume                     # go on after an interruption
    accelerate launch run_ctc.py recipes/digits.yaml --eval_only --model=FOLDER   # measure a saved model
    accelerate launch run_ctc.py recipes/digits.yaml --push_to_hub --hub_model_id=me/digits

The folder `output_dir` ends up as a Hub repository: `pipeline("automatic-speech-recognition", model=output_dir)` loads it.
"""

import json
import math
import os
import platform
import shutil
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object, set_seed
from tqdm.auto import tqdm
from transformers import AutoTokenizer, get_scheduler

from modeling_deepspeech2 import (
    DeepSpeech2Config,
    DeepSpeech2FeatureExtractor,
    DeepSpeech2ForCTC,
    DeepSpeech2Processor,
)
from modeling_deepspeech2.data.augmentation import Augmentation, noise_recordings
from modeling_deepspeech2.data.batching import Batching
from modeling_deepspeech2.data.loader import Batches, Collator, make_loader
from modeling_deepspeech2.data.sources import DataError, SpeechData
from modeling_deepspeech2.decoding_deepspeech2 import DECODER_CONFIG, CTCBeamSearchDecoder, has_decoder
from modeling_deepspeech2.training.arguments import command_line, parse_arguments
from modeling_deepspeech2.training.checkpoints import check_shared, last_checkpoint, save_checkpoint, set_aside
from modeling_deepspeech2.training.default_tokenizer import default_tokenizer
from modeling_deepspeech2.training.evaluation import Evaluation, evaluate
from modeling_deepspeech2.training.hardware import keep_freed_memory
from modeling_deepspeech2.training.model_card import CURVE, draw_curve, write_model_card
from modeling_deepspeech2.training.model_parallel import PAIR, split_model
from modeling_deepspeech2.training.publishing import push_repository, save_repository


BAD_STEPS = 3  # so many without a finite gradient, one after the other, end the run
BAD_SCALES = 20  # in fp16, where the first of them only find the scale of the loss
PATIENCE_FOR_OTHERS = timedelta(hours=3)  # one process measures the durations of a large data set while all wait


@dataclass
class Progress:
    """Where the training stands; saved and restored with every checkpoint."""

    start: str = "scratch"  # what the weights were at first
    parts: int = 1  # batches that make a step, on all processes together
    plan: str = ""  # fingerprint of the order of the data
    epoch: int = 0
    epoch_step: int = 0  # of the epoch's plan
    step: int = 0
    saved_step: int = -1  # of the last checkpoint
    train_seconds: float = 0.0
    best_cer: float = math.inf
    stale: int = 0  # validations since the best one
    bad_steps: int = 0  # steps without a finite gradient since the last good one
    history: list[dict] = field(default_factory=list)
    validations: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # utterance -> reason, of all processes
    unknown: Counter = field(default_factory=Counter)  # character -> how often dropped in the first epoch
    steps_left_out: dict[int, list[str]] = field(default_factory=dict)  # those without a finite gradient -> utterances

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def emulates_bf16(capability: str) -> bool:
    """Whether a processor of this capability, as torch calls it, is x86 without AVX-512: bf16 is 50 times slower there."""
    return platform.machine() in ("x86_64", "AMD64") and capability in ("DEFAULT", "AVX2")


def set_threads(num_workers: int) -> None:
    """Threads of this process: what OMP_NUM_THREADS says, else its share of the cores but for those of the workers.

    `accelerate launch` sets OMP_NUM_THREADS to 1 when nobody has set it, so that under it only other numbers count.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    if threads > 1 or (threads == 1 and "ACCELERATE_MIXED_PRECISION" not in os.environ):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - num_workers))


def main(argv: list[str]) -> None:
    network, data, training, given, _ = parse_arguments(argv, (__doc__ or "").partition("\n")[0])
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision,
        log_with="tensorboard",
        project_dir=training.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE_FOR_OTHERS)],
    )
    set_seed(training.seed)
    keep_freed_memory()
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "bf16" and emulates_bf16(torch.backends.cpu.get_cpu_capability()):
            raise SystemExit(
                "mixed_precision: found bf16, but this processor would be tens of times slower with it; "
                "use --mixed_precision=no."
            )
        set_threads(training.dataloader_num_workers)
    torch.set_float32_matmul_precision(training.float32_precision)
    output = Path(training.output_dir)
    source = output / "checkpoints" / "start" if training.resume else training.model or None
    if training.resume and last_checkpoint(output) is None:
        raise SystemExit(f"There is no checkpoint to resume from in {output / 'checkpoints'}.")

    try:
        tests = {split: speech(data, [split], accelerator) for split in data.test}
        if training.eval_only:
            model, processor = load(training.model)
            model.to(accelerator.device)
            decoder = None
            if has_decoder(training.model):
                decoder = CTCBeamSearchDecoder.from_pretrained(training.model, processor.tokenizer)
            report(measure(model, processor, tests, accelerator, training.per_device_eval_batch_size), accelerator)
            if decoder is not None:
                accelerator.print("With the model's decoder:")
                report(
                    measure(model, processor, tests, accelerator, training.per_device_eval_batch_size, decoder), accelerator
                )
            return
        kept = data.validation_share if not data.validation else 0.0
        train_data = speech(data, data.train, accelerator, kept, "kept")
        if data.validation:
            validation = speech(data, data.validation, accelerator)
        else:
            validation = speech(data, data.train, accelerator, kept, "held_out")
        if len(train_data.index) == 0:
            raise DataError(f"The splits {data.train} of {data.dataset} hold no utterance to train on.")
        if len(validation.index) == 0:
            raise DataError("There is no utterance to validate on: name a validation split, or raise validation_share.")
        check_shared(output, accelerator)
        model, processor, start = build(network, given, data, source, train_data, accelerator)
        if training.model_parallel:
            split_model(model, accelerator.process_index, accelerator.num_processes)
        augmentation = make_augmentation(training, accelerator)
        batching, progress = make_batching(train_data, training, accelerator)
    except (DataError, OSError, ValueError) as error:
        raise SystemExit(f"run_ctc.py: {error}") from error

    if accelerator.is_main_process and not training.resume:
        aside = set_aside(output)
        if aside is not None:
            print(f"The checkpoints of an earlier run are now in {aside}; --resume would have gone on from them.")
        if (output / DECODER_CONFIG).exists():  # its alpha and beta were tuned for the weights that go
            aside = (output / DECODER_CONFIG).rename(output / "decoder_config.before.json")
            print(f"The decoder of the earlier model is now {aside}: tune one for the new model.")
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        model.save_pretrained(output / "checkpoints" / "start")
        processor.save_pretrained(output / "checkpoints" / "start")
    if not training.resume:
        progress.start = start
    accelerator.wait_for_everyone()
    try:
        train(model, processor, train_data, validation, batching, progress, augmentation, training, accelerator)
    except RuntimeError as error:
        # Gloo has no error of its own class.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise SystemExit(
            f"run_ctc.py: Another process of this run is gone ({str(error).splitlines()[0]}); its own log says why. The run "
            f"goes on from its last checkpoint with --resume, also on another number of processes."
        ) from error

    accelerator.wait_for_everyone()
    model = DeepSpeech2ForCTC.from_pretrained(output / "checkpoints" / "best").to(accelerator.device)
    results = measure(model, processor, tests, accelerator, training.per_device_eval_batch_size)
    report(results, accelerator)
    if accelerator.is_main_process:
        save_repository(output, model, processor)
        draw_curve(progress.history, output / CURVE)
        rates = {split: {"wer": result.wer, "cer": result.cer} for split, result in results.items()}
        (output / "results.json").write_text(json.dumps(rates, indent=1))
        (output / "history.json").write_text(json.dumps(progress.history, indent=1))
        omitted = {"utterances": progress.skipped, "steps": progress.steps_left_out}
        (output / "skipped.json").write_text(json.dumps(omitted, indent=1, ensure_ascii=False))
        write_model_card(
            output,
            training.hub_model_id or str(output),
            processor.tokenizer.language,
            data.dataset,
            results,
            facts={
                "command": command_line(),
                "hours": train_data.index.hours,
                "utterances": len(train_data.index),
                "parameters": model.num_parameters(),
                "minutes": progress.train_seconds / 60,
                "device": f"{accelerator.num_processes} × {accelerator.device.type}",
                "start": progress.start,
                "note": f"; the best of {progress.validations} validations by CER",
                "left_out": left_out(progress),
                "unknown": ", ".join(f"{c!r} ({n})" for c, n in progress.unknown.most_common()) or "none",
            },
            settings={name: getattr(model.config, name) for name in DeepSpeech2Config.own_fields()},
        )
        print(f"The model is in {output}.")
        if training.push_to_hub:
            print("Published:", push_repository(output, training.hub_model_id, training.hub_private_repo or None))
    accelerator.end_training()


def speech(data, splits: list[str], accelerator: Accelerator, held_out: float = 0.0, part: str = "all") -> SpeechData:
    """Opens splits; one process of each machine measures the durations, the others find them measured."""
    columns = (data.audio_column, data.text_column, data.duration_column)
    found = SpeechData(data.dataset, splits, *columns, held_out, part, accelerator.is_local_main_process)
    with accelerator.local_main_process_first():
        found.index  # noqa: B018
    return found


def load(path: str | Path) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    return DeepSpeech2ForCTC.from_pretrained(path), DeepSpeech2Processor.from_pretrained(path)


def build(
    network: dict, given: frozenset[str], data, source: str | Path | None, train_data: SpeechData, accelerator: Accelerator
) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor, str]:
    """A saved model to go on from, or a new one with feature statistics of the training data."""
    if source is not None:
        model, processor = load(source)
        if model.config.vocab_size != len(processor.tokenizer):
            raise ValueError(
                f"The model {source} has {model.config.vocab_size} output symbols, but its tokenizer has "
                f"{len(processor.tokenizer)}: they do not belong together."
            )
        saved = processor.feature_extractor.normalization
        if "normalization" in given and data.normalization != saved:
            raise ValueError(
                f"normalization: found {data.normalization}, but {source} has learned from features normalised by {saved}. "
                f"Leave it out, or train from scratch."
            )
        tokenizer = AutoTokenizer.from_pretrained(data.tokenizer) if data.tokenizer else processor.tokenizer
        same_alphabet = tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        symbols = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        settings = {name: getattr(model.config, name) for name in DeepSpeech2Config.own_fields()}
        changed = DeepSpeech2ForCTC(DeepSpeech2Config(**settings | network | symbols))
        take_weights(changed, model, source, same_alphabet)
        start = f"the model `{source}`"
        if not same_alphabet:
            accelerator.print(
                f"The alphabet of {data.tokenizer} is not that of {source}: a new output layer of {len(tokenizer)} symbols "
                f"takes the place of the old one."
            )
            start += " with a new output layer"
        return changed, DeepSpeech2Processor(processor.feature_extractor, tokenizer), start
    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer or default_tokenizer())
    extractor = DeepSpeech2FeatureExtractor(normalization=data.normalization)
    if data.normalization == "training_set":
        if accelerator.is_main_process:
            stream = train_data.waveforms(extractor.sampling_rate, data.statistics_utterances)
            extractor.fit(tqdm(stream, "feature statistics", unit=" utterances", leave=False))
        (extractor,) = broadcast_object_list([extractor])
    config = DeepSpeech2Config(
        **network,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_frequency_bins=extractor.feature_size,
        sampling_rate=extractor.sampling_rate,
        hop_length=extractor.hop_length,
    )
    return DeepSpeech2ForCTC(config), DeepSpeech2Processor(extractor, tokenizer), "scratch"


@torch.no_grad()
def take_weights(model: DeepSpeech2ForCTC, saved: DeepSpeech2ForCTC, source: str | Path, with_output_layer: bool) -> None:
    """Copies what the saved model has learned. A model of one direction takes the forward one of two.

    Raises:
        ValueError: settings of the model that the saved weights do not fit; a row convolution may be new, or fall away.
    """
    weights = saved.state_dict()
    dropped = [name for name in weights.keys() - model.state_dict().keys() if "row_convolution" not in name]
    if dropped:
        raise ValueError(
            f"The settings of this model have no place for weights of {source}: {', '.join(sorted(dropped)[:3])}, … "
            f"Leave out the settings, or train from scratch."
        )
    for name, own in model.state_dict().items():
        if name.startswith("ctc_head") and not with_output_layer:
            continue
        if name not in weights and "row_convolution" in name:  # it starts as the identity
            continue
        weight = weights.get(name, torch.empty(0))
        if name.endswith(("weight_hh", "weight_ih")):
            weight = weight[: len(own)]
        if weight.shape != own.shape:
            raise ValueError(
                f"The weights of {source} do not fit the settings of this model: {name} has shape {tuple(weight.shape)} "
                f"there, and {tuple(own.shape)} is needed. Leave out the settings, or train from scratch."
            )
        own.copy_(weight)


def make_augmentation(training, accelerator: Accelerator) -> Augmentation:
    noise, unreadable = noise_recordings(training.noise) if training.noise else ([], [])
    if unreadable:
        accelerator.print(f"{len(unreadable)} recordings of noise cannot be read: {', '.join(unreadable)}")
    return Augmentation(
        training.speed_perturbation,
        training.gain,
        training.noise_share,
        noise,
        training.codec_share,
        training.silence_share,
        training.spec_augment,
        training.seed,
    )


def make_batching(train_data: SpeechData, training, accelerator: Accelerator) -> tuple[Batching, Progress]:
    """How utterances become steps, the same on all processes, and where a resumed run stands in them.

    Raises:
        DataError: the processes do not see the same data, or those that a run is resumed on in mid-epoch are others.
    """
    parts = accelerator.num_processes // copies(training) * training.gradient_accumulation_steps
    checkpoint = last_checkpoint(Path(training.output_dir)) if training.resume else None
    saved = json.loads((checkpoint / "progress.json").read_text()) if checkpoint else {}
    # A step stays what it was, also where the run goes on with another number of processes.
    parts = saved.get("parts", parts)
    memory = training.shuffle_memory * 2**20
    batching = Batching(
        training.per_device_train_batch_size, training.batch_seconds, parts, training.sorta_grad, training.seed, memory
    )
    plan = batching.fingerprint(train_data.index)
    if len(set(gather_object([plan]))) > 1:
        raise DataError(f"The processes see different versions of {train_data.path}; here {len(train_data.index)} rows.")
    if saved and saved["plan"] != plan and saved["epoch_step"]:
        raise DataError(
            f"{checkpoint} stands amid an epoch of other data, or of another batch_size, batch_seconds, sorta_grad, seed or "
            f"shuffle_memory: resume with what it was begun with, or begin anew with --model={checkpoint.parent / 'best'}."
        )
    return batching, Progress(parts=parts, plan=plan)


def copies(training) -> int:
    """Processes that share a model out, and so read the same batches."""
    return PAIR if training.model_parallel else 1


def train(
    model,
    processor,
    train_data: SpeechData,
    validation: SpeechData,
    batching: Batching,
    progress: Progress,
    augmentation: Augmentation,
    training,
    accelerator: Accelerator,
) -> None:
    output, plan_now = Path(training.output_dir), progress.plan
    is_main = accelerator.is_main_process
    checkpoint = last_checkpoint(output) if training.resume else None
    readers, reader = accelerator.num_processes // copies(training), accelerator.process_index // copies(training)
    first, later = (batching.plan(train_data.index, epoch) for epoch in (0, 1))
    last_step = training.max_steps or math.inf
    total_steps = min(first.steps + later.steps * (training.num_train_epochs - 1), last_step)
    if is_main:
        print(
            f"{len(train_data.index):,} utterances, {train_data.index.hours:.2f} h; {model.num_parameters():,} parameters; "
            f"{training.num_train_epochs} epochs of {later.steps} steps on "
            f"{accelerator.num_processes} × {accelerator.device}"
        )
        windows, loaders = len(first.window_ends), readers * max(1, training.dataloader_num_workers)
        if windows > 1 and training.sorta_grad:
            print(
                f"The first epoch, from short to long, reads the data {windows} times, because {training.shuffle_memory} MB "
                f"of it are held (shuffle_memory), and each of {loaders} reading processes does so."
            )

    optimizer = make_optimizer(model, training)
    scheduler = make_scheduler(optimizer, training, progress, total_steps)
    config = model.config
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(progress, scheduler)
    accelerator.init_trackers("run_ctc")
    if checkpoint is not None:
        accelerator.load_state(checkpoint)
        progress.plan = plan_now
    else:
        torch.manual_seed(training.seed + reader)  # dropout of each reader its own, that of a pair the same
    model.train()

    bar = tqdm(total=total_steps, initial=progress.step, desc="training", unit=" steps", disable=not is_main)
    window = Counter()
    omissions = Omissions()
    collate = Collator(processor, config, max_seconds=training.max_seconds, augmentation=augmentation)
    empty = collate([])

    def is_over() -> bool:
        if training.patience and progress.stale >= training.patience:
            return True
        return progress.epoch >= training.num_train_epochs or progress.step >= last_step

    while not is_over():
        plan = batching.plan(train_data.index, progress.epoch)
        batches = Batches(train_data, plan, progress.epoch_step, reader, readers)
        augmentation.epoch = progress.epoch
        loader = iter(make_loader(batches, collate, training.dataloader_num_workers))
        while progress.epoch_step < plan.steps and not is_over():
            started = time.perf_counter()
            micro_batches = [next(loader) for _ in batches.parts]
            # Every process takes part in every backward pass, if need be with nothing.
            micro_batches += [empty] * (math.ceil(plan.parts / readers) - len(micro_batches))
            waited = time.perf_counter() - started
            progress.epoch_step += 1
            omissions.note(progress, micro_batches)
            count = torch.tensor(sum(len(batch["names"]) for batch in micro_batches), device=accelerator.device)
            utterances = int(accelerator.reduce(count))
            if utterances == 0:
                continue
            loss = gradient(model, micro_batches, utterances, readers, config, accelerator)
            norm = float(accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm))
            if math.isfinite(norm) or accelerator.scaler is not None:  # the scaler leaves the step out by itself
                optimizer.step()
            watch(progress, norm, micro_batches, accelerator)
            optimizer.zero_grad()
            scheduler.step()
            progress.step += 1
            elapsed = time.perf_counter() - started
            progress.train_seconds += elapsed
            window.update(
                steps=int(math.isfinite(norm)),
                loss=loss if math.isfinite(norm) else 0.0,
                seconds=elapsed,
                waited=waited,
                audio=sum(batch["seconds"] for batch in micro_batches),
                frames=sum(batch["attention_mask"].numel() for batch in micro_batches),
                valid_frames=sum(int(batch["attention_mask"].sum()) for batch in micro_batches),
            )
            bar.update()
            if progress.step % training.logging_steps == 0 or progress.step == 1:
                log(progress, window, scheduler, norm, bar, readers, accelerator)
            if training.eval_steps and progress.step % training.eval_steps == 0:
                validate(model, processor, validation, progress, training, accelerator)
            # What ends an epoch or the run is saved below, with its validation.
            if progress.step % training.save_steps == 0 and progress.epoch_step < plan.steps and not is_over():
                omissions.gather(progress)
                save_checkpoint(output, accelerator, progress, training.save_total_limit)
        is_finished = progress.epoch_step == plan.steps
        if is_finished:
            progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        if is_over() or (is_finished and not training.eval_steps and progress.epoch % training.eval_epochs == 0):
            validate(model, processor, validation, progress, training, accelerator)
        omissions.gather(progress)
        save_checkpoint(output, accelerator, progress, training.save_total_limit)
        if progress.step == 0:
            raise SystemExit(f"run_ctc.py: no utterance could be used; {left_out(progress)}: {some(progress.skipped)}")
    bar.close()
    if is_main and training.patience and progress.stale >= training.patience:
        print(f"Stopped at step {progress.step}: no better for {progress.stale} validations (patience).")


def watch(progress: Progress, norm: float, micro_batches: list[dict], accelerator: Accelerator) -> None:
    """Names the utterances of a step without a finite gradient; several such steps, one after the other, end the run."""
    if math.isfinite(norm):
        progress.bad_steps = 0
        return
    progress.bad_steps += 1
    names = gather_object([name for batch in micro_batches for name in batch["names"]])
    if accelerator.is_main_process:
        tqdm.write(f"step {progress.step}: gradient norm {norm}, step left out; utterances: {', '.join(names)}")
    progress.steps_left_out[progress.step] = names
    if progress.bad_steps == (BAD_STEPS if accelerator.scaler is None else BAD_SCALES):
        raise SystemExit(
            f"run_ctc.py: {progress.bad_steps} steps one after the other had no finite gradient, the last with the "
            f"utterances {', '.join(names)}. Try a lower learning_rate or max_grad_norm, or look at these recordings."
        )


def make_optimizer(model, training) -> torch.optim.Optimizer:
    if training.optim == "sgd":
        return torch.optim.SGD(model.parameters(), training.learning_rate, momentum=training.momentum, nesterov=True)
    return torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)


def make_scheduler(optimizer, training, progress: Progress, total_steps: int):
    """A warm-up, then the learning rate divided by `anneal` after each epoch, or one of the library's schedules."""
    if training.lr_scheduler_type == "anneal":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / max(training.warmup_steps, 1)) / training.anneal**progress.epoch,
        )
    name = "constant_with_warmup" if training.lr_scheduler_type == "constant" else training.lr_scheduler_type
    return get_scheduler(name, optimizer, num_warmup_steps=training.warmup_steps, num_training_steps=total_steps)


def gradient(model, micro_batches: list[dict], all_utterances: int, readers: int, config, accelerator) -> float:
    """Adds up the gradient of the mean (or sum) over the utterances of all processes; gives this one's share of the loss.

    `all_utterances` counts those of every process, and `readers` are those that read others: a pair that shares a model out
    reads the same.
    """
    total = 0.0
    for index, batch in enumerate(micro_batches):
        # Accelerate divides the sum over processes by their number; the weight makes that the mean over utterances.
        weight = readers
        if config.ctc_loss_reduction == "mean":
            weight = accelerator.num_processes * len(batch["names"]) / all_utterances
        inputs = {name: batch[name].to(accelerator.device) for name in ("input_features", "attention_mask", "labels")}
        is_last = index == len(micro_batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(**inputs).loss * weight
            accelerator.backward(loss)
        total += loss.item()
    return total


@dataclass
class Omissions:
    """What this process has left out since all last told each other."""

    skipped: dict[str, str] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)

    def note(self, progress: Progress, micro_batches: list[dict]) -> None:
        """Names what was left out, once for each utterance, and counts it for the run's report."""
        for batch in micro_batches:
            for name, reason in batch["skipped"]:
                if name not in progress.skipped and name not in self.skipped:
                    tqdm.write(f"left out: {name}: {reason}")
                self.skipped[name] = reason
            if progress.epoch == 0:
                self.unknown.update(batch["unknown_characters"])

    def gather(self, progress: Progress) -> None:
        """Adds what all processes have left out to the run's progress."""
        for skipped, unknown in gather_object([(self.skipped, self.unknown)]):
            progress.skipped.update(skipped)
            progress.unknown.update(unknown)
        self.skipped, self.unknown = {}, Counter()


def left_out(progress: Progress) -> str:
    parts = []
    if progress.skipped:
        parts.append(f"{len(progress.skipped)} utterances, listed with their reasons in `skipped.json`")
    if progress.steps_left_out:
        parts.append(f"{len(progress.steps_left_out)} steps without a finite gradient, in `skipped.json` too")
    return "; ".join(parts) or "nothing"


def some(skipped: dict[str, str], number: int = 3) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:number])


def log(progress: Progress, window: Counter, scheduler, norm: float, bar: tqdm, readers: int, accelerator) -> None:
    """Writes what the steps since the last line were like, on all processes together."""
    names = ("loss", "steps", "seconds", "waited", "audio", "frames", "valid_frames")
    own = torch.tensor([window[name] for name in names], dtype=torch.float64).to(accelerator.device)
    total = dict(zip(names, accelerator.reduce(own, "mean").tolist()))
    row = {
        "loss": total["loss"] / max(total["steps"], 1),
        "learning_rate": scheduler.get_last_lr()[0],
        "gradient_norm": norm if math.isfinite(norm) else None,
        "audio_seconds_per_second": readers * total["audio"] / total["seconds"],
        "data_wait_share": total["waited"] / total["seconds"],
        "padding_share": 1 - total["valid_frames"] / max(total["frames"], 1),
        "memory_gb": psutil.Process().memory_info().rss / 1e9,  # of this process
    }
    accelerator.log({name: value for name, value in row.items() if value is not None}, step=progress.step)
    progress.history.append({"step": progress.step, "epoch": progress.epoch, **row})
    bar.set_postfix(
        epoch=progress.epoch, loss=f"{row['loss']:.3f}", audio=f"{row['audio_seconds_per_second']:.0f}×real time"
    )
    window.clear()


def validate(model, processor, validation, progress, training, accelerator: Accelerator) -> None:
    """Measures the validation data, once at a step, and keeps the model if it is the best so far."""
    if progress.history and progress.history[-1]["step"] == progress.step and "cer" in progress.history[-1]:
        return
    unwrapped, weights = accelerator.unwrap_model(model), accelerator.get_state_dict(model)
    result = evaluate(unwrapped, processor, validation, accelerator, training.per_device_eval_batch_size, "validation")
    rates = {"wer": result.wer, "cer": result.cer}
    accelerator.log({f"validation_{name}": value for name, value in rates.items()}, step=progress.step)
    progress.history.append({"step": progress.step, "epoch": progress.epoch, **rates})
    if accelerator.is_main_process:
        tqdm.write(f"epoch {progress.epoch}, step {progress.step}: validation {result}")
        if result.cer < progress.best_cer:
            best = Path(training.output_dir) / "checkpoints" / "best"
            new, old = best.with_name("best.new"), best.with_name("best.old")
            unwrapped.save_pretrained(new, state_dict=weights)
            if best.exists():
                best.rename(old)
            new.rename(best)
            shutil.rmtree(old, ignore_errors=True)
        if progress.epoch == training.num_train_epochs:
            tqdm.write(result.examples())
        if progress.step > training.warmup_steps and not any(result.predictions):
            tqdm.write(
                "The model says nothing but blank so far. CTC begins so; if it lasts for some epochs, try a higher or lower "
                "learning_rate, sorta_grad, fewer layers, or more data."
            )
    progress.validations += 1
    progress.stale = 0 if result.cer < progress.best_cer else progress.stale + 1
    progress.best_cer = min(progress.best_cer, result.cer)


def measure(model, processor, tests, accelerator: Accelerator, batch_size: int, decoder=None) -> dict[str, Evaluation]:
    return {
        split: evaluate(model, processor, data, accelerator, batch_size, split, decoder) for split, data in tests.items()
    }


def report(results: dict[str, Evaluation], accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        for split, result in results.items():
            print(f"{split}: {result}\n{result.examples()}")
            for name, reason in result.skipped:
                print(f"  not measured: {name}: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
