"""Measures a model on a split: transcripts, word and character error rates."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.batching import Batching
from ..data.loader import Batches, Collator, make_loader
from ..data.sources import SpeechData
from ..errors import UserError
from ..hypotheses import Decoder
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..packed_frames import on_device
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..recognition import Recognition
from .metrics import ErrorRates


@dataclass
class Evaluation:
    """Error rates of a split as shares of the reference, its transcripts, and what could not be measured."""

    wer: float
    cer: float
    seconds: float
    names: list[str]
    predictions: list[str]
    references: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"WER {self.wer:.2%}, CER {self.cer:.2%} on {len(self.references)} utterances, {self.seconds / 3600:.2f} h"
        return text + (f", {len(self.skipped)} skipped" if self.skipped else "")

    def examples(self, number: int = 5) -> str:
        """A few pairs, from the shortest utterances to the longest."""
        pairs = list(zip(self.names, self.references, self.predictions))
        return "\n".join(
            f"  {name}\n    reference  {reference}\n    hypothesis {prediction}"
            for name, reference, prediction in pairs[:: max(1, len(pairs) // number)][:number]
        )


@torch.no_grad()
def emissions(
    model: DeepSpeech2ForCTC,
    processor: DeepSpeech2Processor,
    data: SpeechData,
    accelerator: Accelerator,
    batch_size: int,
    description: str,
) -> Iterator[tuple[dict, list[torch.Tensor]]]:
    """Batches of a split, shared out among the processes, with the logits of each utterance, shape (frames, vocab_size)."""
    world_size = accelerator.num_processes
    plan = Batching(batch_size, parts=world_size, sorta_grad=True).plan(data.index, epoch=0)  # similar lengths: less padding
    batches = Batches(data, plan, rank=accelerator.process_index, world_size=world_size)
    loader = make_loader(batches, Collator(processor, model.config, training=False), device=model.device)
    for batch in tqdm(
        loader, description, plan.steps, unit=" batches", leave=False, disable=not accelerator.is_main_process
    ):
        # A batch with nothing in it goes through the model too: where that is sharded, all processes take part.
        with accelerator.autocast():
            features = on_device(batch["input_features"], model.device)
            logits = model(features, batch["attention_mask"]).logits.float().cpu()
        lengths = -(-batch["attention_mask"].sum(1) // model.config.time_stride)
        yield batch, [own[:length] for own, length in zip(logits, lengths.tolist())]


@torch.no_grad()
def evaluate(
    model: DeepSpeech2ForCTC,
    processor: DeepSpeech2Processor,
    data: SpeechData,
    accelerator: Accelerator,
    batch_size: int = 16,
    description: str = "evaluation",
    decoder: Decoder | None = None,
) -> Evaluation:
    """Transcribes every utterance of a split, shared out among the processes, as the pipeline does.

    Args:
        decoder: None: the best path.

    Raises:
        UserError: not one utterance of the split could be used.
    """
    model.eval()
    recognition = Recognition(processor.tokenizer, model.config, decoder)
    num_processes = 1 if decoder is None else None  # a best path is found sooner than a process starts
    names, predictions, references, skipped, seconds = [], [], [], [], 0.0
    for batch, logits in emissions(model, processor, data, accelerator, batch_size, description):
        skipped += batch["skipped"]
        names += batch["names"]
        references += batch["texts"]
        predictions += [found[0].text for found in recognition.transcripts(logits, num_processes)]
        seconds += batch["seconds"]
    model.train()
    if accelerator.num_processes > 1:
        names, predictions, references, skipped = map(gather_object, (names, predictions, references, skipped))
        seconds = accelerator.reduce(torch.tensor(seconds, device=accelerator.device)).item()
    if not references:
        reasons = Counter(reason for _, reason in skipped).most_common(1)
        raise UserError(
            f"{description}: no utterance could be used{f', most often because: {reasons[0][0]}' * bool(reasons)}"
        )
    rates = ErrorRates(processor.tokenizer.word_boundaries).compute(predictions=predictions, references=references)
    return Evaluation(rates["wer"], rates["cer"], seconds, names, predictions, references, skipped)


def evaluate_splits(
    model: DeepSpeech2ForCTC,
    processor: DeepSpeech2Processor,
    tests: dict[str, SpeechData],
    accelerator: Accelerator,
    batch_size: int,
    decoder: Decoder | None = None,
) -> dict[str, Evaluation]:
    """Error rates of each split, printed with a few transcripts and all that could not be measured."""
    results = {}
    for split, data in tests.items():
        try:
            result = results[split] = evaluate(model, processor, data, accelerator, batch_size, split, decoder)
        except UserError as error:
            accelerator.print(f"{split}: not measured: {error}")
            continue
        accelerator.print(f"{split}: {result}\n{result.examples()}")
        for name, reason in result.skipped:
            accelerator.print(f"  not measured: {name}: {reason}")
    return results
