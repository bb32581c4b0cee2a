"""Writes the model card: the model, its training data and run, its error rates, and the training curve as a picture."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.figure import Figure

from .evaluation import Evaluation
from .run_record import portable


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

Best path (greedy decoding), no language model{note}.

| split | utterances | hours | WER | CER |
| --- | ---: | ---: | ---: | ---: |
{results}
{words}
## Training

```
{command}
```

![Training curve]({curve})

Left out of training: {left_out}.
Characters outside the alphabet, dropped from the transcripts: {unknown}.

## Run

{run}

<details><summary>All settings, the recipe and the data's fingerprints (run.json)</summary>

```json
{record}
```

</details>

## Network

{network}
"""


def draw_curve(losses: list[dict], validations: list[dict], file: Path) -> None:
    """Training loss over steps, and the validation error rates in the same picture."""
    figure = Figure(figsize=(7, 4))
    loss_axis = figure.subplots()
    points = [(row["step"], row["loss"]) for row in losses]
    loss_axis.plot(*zip(*points) if points else ([], []), color="tab:blue", label="training loss")
    loss_axis.set(xlabel="step", ylabel="CTC loss a character", ylim=(0, None))
    rate_axis = loss_axis.twinx()
    for name, color in (("wer", "tab:orange"), ("cer", "tab:green")):
        points = [(row["step"], 100 * row[name]) for row in validations]
        rate_axis.plot(*zip(*points) if points else ([], []), "o-", ms=3, color=color, label=f"validation {name.upper()}")
    rate_axis.set(ylabel="error rate, %", ylim=(0, 105))
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.88))
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def write_model_card(
    folder: Path,
    model_id: str,
    language: str | None,
    dataset: str,
    results: dict[str, Evaluation],
    facts: dict[str, Any],
    settings: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """Writes README.md.

    Args:
        results: an [`Evaluation`] for each split measured.
        facts: the template's other fields: command, hours, utterances, parameters, minutes, device, start, note,
            left_out, unknown, words (what counts as one, if not what spaces separate).
        settings: the network's fields, for the last table.
        record: the run's, see `run_record`; paths of this machine are left out.
    """
    # A card travels; a path of this machine means nothing elsewhere, so that only the data set's own name stays.
    dataset = dataset if "/" in dataset and not Path(dataset).exists() else Path(dataset).name
    rows = [
        f"| {portable(split)} | {len(e.references):,} | {e.seconds / 3600:.2f} | {e.wer:.2%} | {e.cer:.2%} |"
        for split, e in results.items()
    ]
    network = ["| field | value |", "| --- | --- |"] + [f"| `{name}` | `{value}` |" for name, value in settings.items()]
    card = _TEMPLATE.format(
        metadata=_metadata(model_id, language, dataset, results, facts["start"]).to_yaml(),
        name=Path(model_id).name,
        model_id=model_id,
        dataset=dataset,
        results="\n".join(rows) or "| not measured | | | | |",
        network="\n".join(network),
        curve=CURVE,
        run=_run_table(portable(record)),
        record=json.dumps(portable(record), indent=1, ensure_ascii=False),
        **facts,
    )
    ModelCard(card, ignore_metadata_errors=True).save(folder / "README.md")


def _metadata(
    model_id: str, language: str | None, dataset: str, results: dict[str, Evaluation], start: str
) -> ModelCardData:
    """What the Hub reads of a card."""
    metrics = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=portable(split),
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(100 * getattr(evaluation, metric), 2),
        )
        for split, evaluation in results.items()
        for metric in ("wer", "cer")
    ]
    base = re.search("the model `([^`/]+/[^`/]+)`", start)
    return ModelCardData(
        language=language,
        datasets=[dataset] if "/" in dataset else None,
        base_model=base[1] if base and not Path(base[1]).exists() else None,
        metrics=["wer", "cer"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["deepspeech2", "ctc"],
        model_name=Path(model_id).name,
        eval_results=metrics or None,
    )


def _run_table(record: dict[str, Any]) -> str:
    hardware, commit = record["hardware"], record["commit"]
    rows = {
        "software": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "commit": f"`{commit['id']}`" + (", with changes" if commit["dirty"] else "") if commit else "not from a clone",
        "hardware": f"{hardware['processes']} × {hardware['device']} ({hardware['name']}), threads: {hardware['threads']}",
        "precision": f"{hardware['mixed_precision']} mixed, float32 products {hardware['float32_precision']}",
        "started, ended": f"{record['started']}, {record['ended']}",
    }
    for use, data in record["data"].items():
        rows[use] = f"{data['utterances']:,} utterances, {data['hours']:.2f} h, fingerprint `{data['fingerprint']}`"
    for again in record["resumed"]:
        changed = ", ".join(f"{name}: {before} → {after}" for name, (before, after) in again["changed"].items())
        rows[f"resumed at step {again['step']}"] = changed or "nothing changed"
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
