"""Copies the figures of `checkpoints/*/results.json` into the README, RESULTS and the model cards.

    python -m benchmarks.documents

`python -m benchmarks.results … --write` writes those files and then runs this. In the documents, each table stands between
`<!-- begin NAME -->` and `<!-- end NAME -->`. A test compares the documents with the files.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC


REPOSITORY = Path(__file__).resolve().parent.parent
README, RESULTS = REPOSITORY / "README.md", REPOSITORY / "RESULTS.md"
BEST_PATH, SPHINX = "best path", "pocketsphinx"
HEAD = [
    "| test split | clips | audio | decoder | WER | CER | real-time factor | calibration error |",
    "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
]
MODELS_HEAD = [
    "| model | parameters | speech | test split | WER, with language model (without) | CER | live | licence |",
    "| --- | ---: | ---: | --- | ---: | ---: | --- | --- |",
]
WITHOUT_SPACES = ("zh", "ja", "th")  # what a word is, is not written: the character error rate alone is compared


def checkpoints() -> list[Path]:
    return sorted(file.parent for file in (REPOSITORY / "checkpoints").glob("*/results.json"))


def results(folder: Path) -> dict[str, Any]:
    """By split: clips, hours, rates of the best path, and by the name of each decoder its rates and real-time factor."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def row(split: str, figures: dict[str, Any], decoder: str) -> str:
    """A line of a table of results."""
    own = figures["decoders"][decoder]
    calibration = f"{own['calibration_error']:.3f}" if "calibration_error" in own else "–"
    measured = f"{own['wer']:.1%} | {own['cer']:.1%} | {own['real_time_factor']:.3f} | {calibration}"
    return f"| {split} | {figures['clips']:,} | {figures['hours']:.2f} h | {decoder} | {measured} |"


def table(folder: Path, with_sphinx: bool) -> list[str]:
    rows = [
        row(split, figures, decoder)
        for split, figures in results(folder).items()
        for decoder in figures["decoders"]
        if with_sphinx or decoder != SPHINX
    ]
    return HEAD + rows


def searched(figures: dict[str, Any]) -> dict[str, float]:
    """The rates of the model's own decoder; of the best path if it has none."""
    own = [rates for name, rates in figures["decoders"].items() if name not in (BEST_PATH, SPHINX)]
    return (own or [figures["decoders"][BEST_PATH]])[0]


def training_hours(folder: Path) -> float:
    """Hours of speech: those that the run recorded, or for models older than the record those that the card names."""
    if (folder / "run.json").is_file():
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))["data"]["train"]["hours"]
    (hours,) = re.findall(r"on ([\d.]+) hours of speech", (folder / "README.md").read_text(encoding="utf-8"))
    return float(hours)


def models() -> list[str]:
    """The README's table: a line for each checkpoint, on the largest of its test splits."""
    rows = []
    for folder in checkpoints():
        card = ModelCard.load(folder / "README.md").data
        config = DeepSpeech2Config.from_pretrained(folder)
        split, figures = max(results(folder).items(), key=lambda item: item[1]["hours"])
        best, greedy = searched(figures), figures["decoders"][BEST_PATH]
        wer, cer = (f"{best[rate]:.1%} ({greedy[rate]:.1%})" for rate in ("wer", "cer"))
        size = DeepSpeech2ForCTC(config).num_parameters()
        ahead = config.lookahead * config.inputs_to_logits_ratio / config.sampling_rate  # seconds
        name = folder.name.removeprefix("deepspeech2-")
        rows.append(
            f"| [{name}](checkpoints/{folder.name}/README.md) | {size / 1e6:.1f} M | {training_hours(folder):.1f} h | "
            f"{split.partition('/')[0]} | {'–' if card.language in WITHOUT_SPACES else wer} | {cer} | "
            f"{'–' if config.bidirectional else f'{ahead:.2f} s ahead'} | "
            f"{'by corpus, see card' if card.license == 'other' else card.license} |"
        )
    return MODELS_HEAD + rows


def filled(text: str, name: str, lines: list[str]) -> str:
    """Puts a table into its place in a document."""
    found, count = re.subn(
        rf"(<!-- begin {re.escape(name)} -->\n).*?(\n<!-- end {re.escape(name)} -->)",
        lambda match: match[1] + "\n" + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"expected one place <!-- begin {name} --> … <!-- end {name} -->, but found {count}.")
    return found


def with_index(card: str, folder: Path) -> str:
    """The card whose model-index holds the rates of the model's own decoder, in percent."""
    for split, figures in results(folder).items():
        for rate in ("wer", "cer"):
            card = re.sub(
                rf"(split: {re.escape(split)}\n    metrics:\n(?:    - type: \w+\n      value: .*\n      name: .*\n)*?"
                rf"    - type: {rate}\n      value: )[\d.]+",
                lambda match, rate=rate, figures=figures: f"{match[1]}{100 * searched(figures)[rate]:.1f}",
                card,
            )
    return card


def documents() -> dict[Path, str]:
    """The expected text of each document."""
    contents = {README: filled(README.read_text(encoding="utf-8"), "models", models())}
    text = RESULTS.read_text(encoding="utf-8")
    for folder in checkpoints():
        text = filled(text, folder.name, table(folder, with_sphinx=True))
        card = folder / "README.md"
        content = filled(card.read_text(encoding="utf-8"), "results", table(folder, with_sphinx=False))
        contents[card] = with_index(content, folder)
    return contents | {RESULTS: text}


def fill() -> None:
    """Writes the documents."""
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    fill()
