"""The card of an exported model: its files with their sizes and error rates, and how each program loads it."""

from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData


class Rates(NamedTuple):
    """Error rates of a file on a split, best path."""

    split: str
    utterances: int
    wer: float
    cer: float


_DESCRIPTIONS = {
    "model.onnx": "waveform to logits, float32",
    "model_fp16.onnx": "the same with weights in 16 bits, one scale a row",
    "model_quantized.onnx": "the same with weights in 8 bits, one scale a row",
    "model_unit_variance.onnx": "for programs that scale every waveform to unit variance (sherpa-onnx)",
    "live.onnx": "samples and states to logits and states, for streams",
    "live_fp16.onnx": "the same with weights in 16 bits",
    "live_quantized.onnx": "the same with weights in 8 bits",
}

_TEMPLATE = """---
{metadata}
---

# {name}

A [Deep Speech 2](https://arxiv.org/abs/1512.02595) character recogniser{source} as ONNX graphs of standard operators
(opset 17) that take the waveform itself: samples in [-1, 1] at {rate} Hz. All files compute in float32.

| file | | size |{columns}
| --- | --- | ---: |{rules}
{files}
{note}
## In a browser or in Node: transformers.js

```js
import {{ pipeline }} from "@huggingface/transformers";

const recognizer = await pipeline("automatic-speech-recognition", "{model_id}", {{ dtype: "q8" }});
const {{ text }} = await recognizer("speech.wav"); // or a Float32Array at {rate} Hz
```

## In Python: onnxruntime

```python
import json, numpy, onnxruntime

symbols = list(json.load(open("vocab.json", encoding="utf-8")))
session = onnxruntime.InferenceSession("onnx/model.onnx")
(logits,) = session.run(["logits"], {{"input_values": samples[None]}})  # float32, shape (samples,)
best = logits[0].argmax(-1)
kept = best[numpy.diff(best, prepend=-1) != 0]
print("".join(symbols[label] for label in kept if label != {blank}).replace("{delimiter}", " "))
```

A batch of waveforms needs `attention_mask` beside it: int64, 1 for samples and 0 for the padding behind them.
{live}{sherpa}
## With this package: words in time, subtitles{decoder}

```bash
deepspeech2 transcribe speech.flac --model {model_id} --engine onnx --format srt
```
"""

_LIVE = """
## Live: states in, states out

```python
start = json.load(open("config.json"))["deepspeech2"]["live_states"]
states = {name: numpy.zeros(shape, numpy.float32) for name, shape in start.items()}
session = onnxruntime.InferenceSession("onnx/live.onnx")
for samples, last in pieces:  # of any size
    inputs = {"samples": samples[None], "last": numpy.array([last])}
    logits, *values = session.run(None, inputs | states)  # logits of the frames that are complete
    states = dict(zip(states, values))
```
"""

_SHERPA = """
## On phones and small computers: sherpa-onnx

```python
import sherpa_onnx

recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
    model="onnx/model_unit_variance.onnx", tokens="tokens.txt"
)
stream = recognizer.create_stream()
stream.accept_waveform(%d, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
```

sherpa-onnx scales each waveform to unit variance, so that loud and quiet recordings are alike to the model, and its error
rates differ from those above. It takes a frame for 20 ms, but one of this model lasts %g ms: multiply its times by %g.
"""


def write_card(
    folder: Path,
    name: str,
    source: str,
    processor: Any,
    samples_per_frame: int,
    model_id: str | None = None,
    rates: dict[str, list[Rates]] | None = None,
) -> None:
    """Writes `README.md`.

    Args:
        source: where the model comes from.
        samples_per_frame: samples of the waveform for each frame of logits.
        model_id: name on the Hub; None: `name`.
        rates: by the name of the file.
    """
    tokenizer, rate = processor.tokenizer, processor.feature_extractor.sampling_rate
    rates = rates or {}
    splits = [found.split for found in next(iter(rates.values()), [])]
    metadata = ModelCardData(
        language=getattr(tokenizer, "language", None),
        library_name="transformers.js",
        pipeline_tag="automatic-speech-recognition",
        tags=["deepspeech2", "ctc", "onnx"],
    )
    milliseconds = 1000 * samples_per_frame / rate
    files = [folder / "onnx" / file for file in _DESCRIPTIONS if (folder / "onnx" / file).exists()]
    (folder / "README.md").write_text(
        _TEMPLATE.format(
            metadata=metadata.to_yaml(),
            name=name,
            source=f", exported from `{source}`," if source else "",
            rate=rate,
            columns="".join(f" {split}, WER | CER |" for split in splits),
            rules=" ---: | ---: |" * len(splits),
            files="\n".join(_row(file, rates.get(file.name), len(splits)) for file in files),
            note=_note(rates),
            model_id=model_id or name,
            blank=tokenizer.pad_token_id,
            delimiter=tokenizer.word_delimiter_token,
            live=_LIVE if (folder / "onnx" / "live.onnx").exists() else "",
            sherpa=_SHERPA % (rate, milliseconds, milliseconds / 20) if (folder / "tokens.txt").exists() else "",
            decoder=", the language model" if (folder / "decoder_config.json").exists() else "",
        ),
        encoding="utf-8",
    )


def _row(file: Path, rates: list[Rates] | None, columns: int) -> str:
    figures = [(f"{found.wer:.1%}", f"{found.cer:.1%}") for found in rates] if rates else [("–", "–")] * columns
    cells = "".join(f" {wer} | {cer} |" for wer, cer in figures)
    return f"| `onnx/{file.name}` | {_DESCRIPTIONS[file.name]} | {file.stat().st_size / 1e6:.1f} MB |{cells}"


def _note(rates: dict[str, list[Rates]]) -> str:
    if not rates:
        return ""
    counts = " and ".join(f"{found.utterances:,} utterances of {found.split}" for found in next(iter(rates.values())))
    return f"\nBest path, without a language model, on {counts}, each by itself, in onnxruntime on a CPU.\n"
