"""The model card: what was trained on what, by which command, how well it reads, and the training curve as a picture."""

import re
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from huggingface_hub import EvalResult, ModelCard, ModelCardData  # noqa: E402


CURVE = "training_curve.png"

_TEMPLATE = """---
{metadata}
---

# {name}

A [Deep Speech 2](https://arxiv.org/abs/1512.02595) character recogniser with {parameters:,} parameters, trained from {start}
on {hours:.2f} hours of speech ({utterances:,} utterances of `{dataset}`) in {minutes:.0f} minutes on {device}.

```python
from transformers import pipeline

recognizer = pipeline("automatic-speech-recognition", model="{model_id}", trust_remote_code=True)
print(recognizer("speech.flac", return_timestamps="word"))
```

Without this package, it needs transformers 5.20 or newer; reading audio files needs `pip install soundfile soxr`.

## Results

Greedy decoding, no language model{note}.

| split | utterances | hours | WER | CER |
| --- | ---: | ---: | ---: | ---: |
{results}

A Chinese character counts as a word in the word error rate; spaces beside Chinese characters do not count in the character
error rate.

## Training

```
{command}
```

![Training curve]({curve})

Left out of training: {left_out}.
Characters outside the alphabet, dropped from the transcripts: {unknown}.

## Network

{network}
"""


def draw_curve(history: list[dict], file: Path) -> None:
    """Training loss over steps, and the validation error rates in the same picture."""
    figure, loss_axis = plt.subplots(figsize=(7, 4))
    losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
    loss_axis.plot(*zip(*losses) if losses else ([], []), color="tab:blue", label="training loss")
    loss_axis.set(xlabel="step", ylabel="CTC loss a character", ylim=(0, None))
    rate_axis = loss_axis.twinx()
    for name, color in (("wer", "tab:orange"), ("cer", "tab:green")):
        points = [(row["step"], 100 * row[name]) for row in history if name in row]
        rate_axis.plot(*zip(*points) if points else ([], []), "o-", ms=3, color=color, label=f"validation {name.upper()}")
    rate_axis.set(ylabel="error rate, %", ylim=(0, 105))
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.88))
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def write_model_card(
    folder: Path,
    model_id: str,
    language: str | None,
    dataset: str,
    results: dict,
    facts: dict,
    settings: dict,
) -> None:
    """Writes README.md.

    Args:
        results: an [`Evaluation`] for each split measured.
        facts: the template's other fields: command, hours, utterances, parameters, minutes, device, start, note,
            left_out, unknown.
        settings: the network's fields, for the last table.
    """
    # A card travels; a path of this machine means nothing elsewhere, so that only the data set's own name stays.
    dataset = dataset if "/" in dataset and not Path(dataset).exists() else Path(dataset).name
    metrics = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(100 * getattr(evaluation, metric), 2),
        )
        for split, evaluation in results.items()
        for metric in ("wer", "cer")
    ]
    is_on_hub = "/" in dataset
    base = re.search("the model `([^`/]+/[^`/]+)`", facts.get("start", ""))
    metadata = ModelCardData(
        language=language,
        datasets=[dataset] if is_on_hub else None,
        base_model=base[1] if base and not Path(base[1]).exists() else None,
        metrics=["wer", "cer"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["deepspeech2", "ctc"],
        model_name=Path(model_id).name,
        eval_results=metrics or None,
    )
    rows = [
        f"| {split} | {len(e.references):,} | {e.seconds / 3600:.2f} | {e.wer:.2%} | {e.cer:.2%} |"
        for split, e in results.items()
    ]
    network = ["| field | value |", "| --- | --- |"] + [f"| `{name}` | `{value}` |" for name, value in settings.items()]
    card = _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=Path(model_id).name,
        model_id=model_id,
        dataset=dataset,
        results="\n".join(rows) or "| not measured | | | | |",
        network="\n".join(network),
        curve=CURVE,
        **facts,
    )
    ModelCard(card, ignore_metadata_errors=True).save(folder / "README.md")
