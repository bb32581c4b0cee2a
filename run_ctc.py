"""Trains, measures and publishes a Deep Speech 2 recogniser.

    accelerate launch run_ctc.py recipes/demo_english.yaml                        # train, measure, write the model
    accelerate launch run_ctc.py recipes/demo_english.yaml --hidden_size=256      # change any field
    accelerate launch run_ctc.py recipes/demo_english.yaml --resume               # continue after an interruption
    accelerate launch run_ctc.py recipes/demo_english.yaml --eval_only --model=runs/demo_english   # measure a saved model
    accelerate launch run_ctc.py recipes/demo_english.yaml --push_to_hub --hub_model_id=me/demo

The folder `output_dir` becomes a Hub repository: `pipeline("automatic-speech-recognition", model=output_dir)` loads it.
"""

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import psutil
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from modeling_deepspeech2 import CTCBeamSearchDecoder
from modeling_deepspeech2.data.loader import Batches, Collator, make_loader
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.decoding_deepspeech2 import has_decoder
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.packed_frames import on_device
from modeling_deepspeech2.training.arguments import Settings, how_to_continue, parse_arguments
from modeling_deepspeech2.training.checkpoints import load_checkpoint, save_best, save_checkpoint
from modeling_deepspeech2.training.evaluation import Evaluation, evaluate, evaluate_splits
from modeling_deepspeech2.training.finish import best_model, push, write_model, write_results
from modeling_deepspeech2.training.hardware import is_lost_process, return_freed_memory, spare_exchanges, start_accelerator
from modeling_deepspeech2.training.interruption import Interrupted, Interruption
from modeling_deepspeech2.training.optimization import learning_rate, make_optimizer
from modeling_deepspeech2.training.output_folder import on_main_process
from modeling_deepspeech2.training.run import Run
from modeling_deepspeech2.training.start import load, open_tests, prepare
from modeling_deepspeech2.training.tracking import start_tracking, stop_tracking, track


BAD_STEPS = 3  # so many without a finite gradient, one after the other, end the run
BAD_SCALES = 20  # in fp16, where the first of them only find the scale of the loss


def main(argv: list[str]) -> None:
    settings = parse_arguments(argv, (__doc__ or "").partition("\n")[0])
    with Interruption() as interruption:
        try:
            accelerator = start_accelerator(settings.run)
            if settings.run.eval_only:
                measure_saved(settings, accelerator)
            else:
                run = prepare(settings, accelerator, interruption)
                train(run)
                finish(run)
        except UserError as error:
            raise SystemExit(f"run_ctc.py: {error}") from error
        except Interrupted as stop:
            print(f"run_ctc.py: interrupted{how_to_continue(settings)}", file=sys.stderr)
            raise SystemExit(128 + stop.number) from stop
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise SystemExit(
                f"run_ctc.py: Another process of this run is gone ({str(error).splitlines()[0]}); its own log says why"
                f"{how_to_continue(settings)} (also on another number of processes)"
            ) from error


def train(run: Run) -> None:
    arguments, progress, accelerator = run.settings.run, run.progress, run.accelerator
    if arguments.freeze_batch_norm:
        run.model.freeze_batch_norm()
    optimizer = make_optimizer(run.model, arguments)
    model, optimizer = accelerator.prepare(run.model, optimizer)
    spare_exchanges(model)
    start_tracking(accelerator, run.record["settings"])
    if run.checkpoint is not None:
        load_checkpoint(run.checkpoint, model, optimizer.optimizer, accelerator)
    else:
        torch.manual_seed(arguments.seed + run.reader)  # each reader has a dropout of its own
    model.train()
    total_steps = run.total_steps
    if accelerator.is_main_process:
        print(run)
    bar = tqdm(
        total=total_steps, initial=progress.step, desc="training", unit=" steps", disable=not accelerator.is_main_process
    )
    collate = Collator(run.processor, run.model.config, max_seconds=arguments.max_seconds, augmentation=run.augmentation)
    empty, window = collate([]), Counter()
    with run.interruption.deferred():
        pause(run, model, optimizer)  # a run that ended before its validation begins with it
        while not run.is_over:
            plan = run.batching.plan(run.train_data.index, progress.epoch)
            batches = Batches(run.epoch_data(plan), plan, progress.epoch_step, run.reader, run.readers)
            run.augmentation.epoch = progress.epoch
            if arguments.dataloader_num_workers:
                return_freed_memory()
            loader = iter(make_loader(batches, collate, arguments.dataloader_num_workers, accelerator.device))
            steps = one_ahead(run, loader, len(batches.parts), plan.steps - progress.epoch_step)
            while progress.epoch_step < plan.steps and not run.is_over:
                started = time.perf_counter()
                # Every process takes part in every backward pass, if need be with nothing.
                micro_batches = next(steps) + [empty] * (math.ceil(plan.parts / run.readers) - len(batches.parts))
                waited = time.perf_counter() - started
                progress.epoch_step += 1
                run.omissions.note(progress, micro_batches)
                taken = take_step(run, model, optimizer, micro_batches, total_steps)
                if taken is not None:
                    loss, norm = taken
                    elapsed = time.perf_counter() - started
                    progress.train_seconds += elapsed
                    note(window, norm, loss, elapsed, waited, micro_batches)
                    bar.update()
                    if progress.step % arguments.logging_steps == 0 or progress.step == 1:
                        log(run, window, optimizer, norm, bar)
                if progress.epoch_step < plan.steps and not run.is_over:
                    pause(run, model, optimizer)
            if progress.epoch_step == plan.steps:
                progress.epoch, progress.epoch_step = progress.epoch + 1, 0
            pause(run, model, optimizer)
    bar.close()
    if accelerator.is_main_process and arguments.patience and progress.stale >= arguments.patience:
        print(f"Stopped at step {progress.step}: no better for {progress.stale} validations (patience).")


def one_ahead(run: Run, loader: Iterator[dict], parts: int, steps: int) -> Iterator[list[dict]]:
    """This process's batches of each step, read before the step ahead of it is taken.

    If they cannot be read, all processes learn so at the end of that step, and save it. (The first step of an epoch needs
    nothing of the kind: what precedes it has been saved.)
    """
    ahead = [next(loader) for _ in range(parts)]
    for _ in range(steps - 1):
        micro_batches = ahead
        try:
            ahead = [next(loader) for _ in range(parts)]
        except Exception as error:  # the data are gone or damaged, or a worker was killed
            run.interruption.error = error
        yield micro_batches
    yield ahead


def take_step(
    run: Run, model: torch.nn.Module, optimizer: AcceleratedOptimizer, micro_batches: list[dict], total_steps: int
) -> tuple[float, float] | None:
    """Gives this process's share of the loss, and the norm of the gradient before it is clipped; None without utterances."""
    arguments, progress, accelerator = run.settings.run, run.progress, run.accelerator
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(arguments, progress.step, progress.epoch, total_steps)
    counts = count_all(run, sum(len(batch["names"]) for batch in micro_batches))
    loss = gradient(run, model, micro_batches, counts[0])
    norm = torch.as_tensor(accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm))
    # The one place in a step at which the CPU waits for a GPU.
    loss, norm, utterances, signals = torch.stack([loss.double(), norm.double(), *counts]).tolist()
    run.interruption.is_agreed = signals > 0
    if utterances == 0:
        optimizer.zero_grad()
        return None
    if math.isfinite(norm) or accelerator.scaler is not None:  # the scaler leaves the step out by itself
        optimizer.step()
    watch(run, norm, micro_batches)
    optimizer.zero_grad()
    progress.step += 1
    return loss, norm


def count_all(run: Run, utterances: int) -> torch.Tensor:
    """The utterances of a step on all processes, and how many of these want the run to end after it, shape (2,)."""
    own = torch.tensor([utterances, int(run.interruption.is_requested)], dtype=torch.float64)
    return run.accelerator.reduce(on_device(own, run.accelerator.device))


def gradient(run: Run, model: torch.nn.Module, micro_batches: list[dict], all_utterances: torch.Tensor) -> torch.Tensor:
    """Adds up the gradient of the mean (or sum) over the utterances of all processes; gives this one's share of the loss."""
    accelerator = run.accelerator
    total = torch.zeros((), device=accelerator.device)
    for index, batch in enumerate(micro_batches):
        # Accelerate divides the sum over processes by their number; the weight makes that the mean over utterances.
        weight = torch.as_tensor(run.readers)
        if run.model.config.ctc_loss_reduction == "mean":
            weight = accelerator.num_processes * len(batch["names"]) / all_utterances.clamp(min=1)
        # Lengths and labels are looked at on the CPU, and stay there.
        features = on_device(batch["input_features"], accelerator.device)
        is_last = index == len(micro_batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(features, batch["attention_mask"], batch["labels"]).loss
                loss = loss * weight.to(loss)
            accelerator.backward(loss)
        total += loss.detach()
    return total


def watch(run: Run, norm: float, micro_batches: list[dict]) -> None:
    """Names the utterances of a step without a finite gradient; several such steps, one after the other, end the run."""
    progress, accelerator = run.progress, run.accelerator
    if math.isfinite(norm):
        progress.bad_steps = 0
        return
    progress.bad_steps += 1
    names = gather_object([name for batch in micro_batches for name in batch["names"]])
    if accelerator.is_main_process:
        tqdm.write(f"step {progress.step}: gradient norm {norm}, step left out; utterances: {', '.join(names)}")
    progress.steps_left_out[str(progress.step)] = names
    if progress.bad_steps == (BAD_STEPS if accelerator.scaler is None else BAD_SCALES):
        raise UserError(
            f"{progress.bad_steps} steps one after the other had no finite gradient, the last with the "
            f"utterances {', '.join(names)}. Try a lower learning_rate or max_grad_norm, or look at these recordings."
        )


def note(window: Counter, norm: float, loss: float, elapsed: float, waited: float, micro_batches: list[dict]) -> None:
    """Adds a step to the next line of the curves."""
    window.update(
        steps=int(math.isfinite(norm)),
        loss=loss if math.isfinite(norm) else 0.0,
        seconds=elapsed,
        waited=waited,
        audio=sum(batch["seconds"] for batch in micro_batches),
        frames=sum(batch["attention_mask"].numel() for batch in micro_batches),
        valid_frames=sum(int(batch["attention_mask"].sum()) for batch in micro_batches),
    )


def log(run: Run, window: Counter, optimizer: AcceleratedOptimizer, norm: float, bar: tqdm) -> None:
    """Logs the averages of the steps since the last line, over all processes."""
    progress, accelerator = run.progress, run.accelerator
    names = ("loss", "steps", "seconds", "waited", "audio", "frames", "valid_frames")
    own = torch.tensor([window[name] for name in names], dtype=torch.float64).to(accelerator.device)
    total = dict(zip(names, accelerator.reduce(own, "mean").tolist()))
    row = {
        "loss": total["loss"] / max(total["steps"], 1),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "gradient_norm": norm if math.isfinite(norm) else None,
        "audio_seconds_per_second": run.readers * total["audio"] / total["seconds"],
        "data_wait_share": total["waited"] / total["seconds"],
        "padding_share": 1 - total["valid_frames"] / max(total["frames"], 1),
        "memory_gb": psutil.Process().memory_info().rss / 1e9,  # of this process
    }
    track(accelerator, row, progress.step)
    progress.losses.append({"step": progress.step, "epoch": progress.epoch, **row})
    speed = f"{row['audio_seconds_per_second']:.0f}×real time"
    bar.set_postfix(epoch=progress.epoch, loss=f"{row['loss']:.3f}", audio=speed)
    window.clear()


def pause(run: Run, model: torch.nn.Module, optimizer: AcceleratedOptimizer) -> None:
    """Between two steps: saves, handles a signal, and validates, each if due.

    What is to be validated is saved before: if the run ends meanwhile, it continues with the validation.
    """
    arguments, progress = run.settings.run, run.progress
    must_validate, must_stop = run.validation_is_due, run.must_stop
    is_regular = progress.epoch_step == 0 or progress.step % arguments.save_steps == 0
    if progress.epoch > 0 and progress.step == 0:
        run.omissions.gather(progress)
        raise UserError(f"no utterance could be used; {progress.left_out()}: {progress.reasons()}")
    if progress.step and (must_validate or must_stop or is_regular or run.is_over):
        save(run, model, optimizer)
    if must_stop:
        if run.interruption.error is not None:
            if progress.saved_step == progress.step:
                tqdm.write(f"saved at step {progress.step}{how_to_continue(run.settings)}")
            raise run.interruption.error
        raise Interrupted(run.interruption.number or signal.SIGTERM)  # 0: another process is the reason
    if must_validate:
        with run.interruption.deferred(False):
            validate(run, model)


def save(run: Run, model: torch.nn.Module, optimizer: AcceleratedOptimizer) -> None:
    run.omissions.gather(run.progress)
    keep, settings = run.settings.run.save_total_limit, run.settings.resolved()
    save_checkpoint(run.output, model, optimizer.optimizer, run.progress, settings, run.accelerator, keep)


def validate(run: Run, model: torch.nn.Module) -> None:
    """Measures the validation data, and keeps the model if it is the best so far."""
    arguments, progress, accelerator = run.settings.run, run.progress, run.accelerator
    unwrapped, weights = accelerator.unwrap_model(model), accelerator.get_state_dict(model)
    result = evaluate(
        unwrapped, run.processor, run.validation, accelerator, arguments.per_device_eval_batch_size, "validation"
    )
    rates = {"wer": result.wer, "cer": result.cer}
    track(accelerator, {f"validation_{name}": value for name, value in rates.items()}, progress.step)
    progress.validations.append({"step": progress.step, "epoch": progress.epoch, **rates})
    if accelerator.is_main_process:
        tqdm.write(f"epoch {progress.epoch}, step {progress.step}: validation {result}")
        if progress.epoch == arguments.num_train_epochs:
            tqdm.write(result.examples())
        if progress.step > arguments.warmup_steps and not any(result.predictions):
            tqdm.write(
                "Only blanks so far. This is normal early in CTC training; if it persists for some epochs, try a higher or "
                "lower learning_rate, sorta_grad, fewer layers, or more data."
            )
    if progress.best_cer is not None and result.cer >= progress.best_cer:
        progress.stale += 1
        return
    progress.stale = 0
    if save_best(run.output, unwrapped, run.processor, weights, progress.step, accelerator):
        progress.best_cer, progress.best_step = result.cer, progress.step


def finish(run: Run) -> None:
    """Writes the best model first, then measures it on the test splits."""
    accelerator = run.accelerator
    accelerator.wait_for_everyone()
    model = best_model(run)
    on_main_process(accelerator, lambda: write_model(run, model))
    results = evaluate_splits(model, run.processor, run.tests, accelerator, run.settings.run.per_device_eval_batch_size)
    on_main_process(accelerator, lambda: write_results(run, model, results))
    if run.settings.run.push_to_hub:
        on_main_process(accelerator, lambda: push(run))
    stop_tracking(accelerator)
    check_all_measured(run.tests, results)


def measure_saved(settings: Settings, accelerator: Accelerator) -> None:
    """`--eval_only`: greedily, and with the model's decoder if it has one."""
    tests = open_tests(settings.data, accelerator)
    model, processor = load(str(settings.run.model))
    model.to(accelerator.device)
    batch_size = settings.run.per_device_eval_batch_size
    check_all_measured(tests, evaluate_splits(model, processor, tests, accelerator, batch_size))
    if has_decoder(settings.run.model):
        decoder = CTCBeamSearchDecoder.from_pretrained(settings.run.model, processor.tokenizer)
        accelerator.print("With the model's decoder:")
        evaluate_splits(model, processor, tests, accelerator, batch_size, decoder)


def check_all_measured(tests: dict[str, SpeechData], results: dict[str, Evaluation]) -> None:
    if tests.keys() != results.keys():
        raise UserError(f"not measured: {', '.join(tests.keys() - results.keys())}; the reasons are above.")


if __name__ == "__main__":
    main(sys.argv[1:])
