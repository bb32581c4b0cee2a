"""Runs the model once on a clip and presents every step as data, pictures and HTML for the page in `app.py`."""

import base64
import io
import itertools
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.conditioning import condition
from modeling_deepspeech2.decoding_deepspeech2 import Hypothesis, Span, has_decoder, log_softmax
from modeling_deepspeech2.recognition import Recognition


NUM_HYPOTHESES = 6
NUM_CHANNELS = 3  # of the first convolution, in the picture

# Text in pictures stays text: the browser has fonts for every alphabet, matplotlib's own have no Chinese.
matplotlib.rcParams["svg.fonttype"] = "none"
warnings.filterwarnings("ignore", message="Glyph .* missing from font")


@dataclass
class Recognizer:
    """A model, and what stands beside it in its folder."""

    model: DeepSpeech2ForCTC
    processor: DeepSpeech2Processor
    decoder: CTCBeamSearchDecoder  # without a language model if the folder has none


def load(name: str) -> Recognizer:
    """The model in a folder or on the Hub; OSError or ValueError if there is none."""
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise FileNotFoundError("there is no such folder")
    model, processor = DeepSpeech2ForCTC.from_pretrained(name).eval(), DeepSpeech2Processor.from_pretrained(name)
    tokenizer = processor.tokenizer
    is_saved = has_decoder(name)
    decoder = CTCBeamSearchDecoder.from_pretrained(name, tokenizer) if is_saved else CTCBeamSearchDecoder(tokenizer)
    return Recognizer(model, processor, decoder)


class Run(NamedTuple):
    """Neighbouring frames of the best path with the same symbol."""

    symbol: int
    text: str  # "·" for the blank, "␣" for the space
    start: int  # frames
    end: int


@dataclass
class Trace:
    """A clip, and the result of each step of one pass."""

    waveform: np.ndarray  # (samples,), as the model gets it: without the silence around it
    begins: float  # second of the clip at which it begins
    sampling_rate: int
    hop: float  # seconds from one frame of the spectrogram to the next
    spectrogram: np.ndarray  # (frames, bins), normalised: what the model gets
    convolution: np.ndarray  # (channels, frames, bins) of the first one
    seconds_per_frame: float  # of the output
    log_probs: np.ndarray  # (output frames, symbols)
    blank: int
    path: list[Run]  # the best symbol of every output frame
    hypotheses: list[Hypothesis]  # of the beam search, best first

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sampling_rate

    @property
    def words(self) -> list[Span]:
        """Those of the best hypothesis; the last frame may reach beyond the clip's end, its word does not."""
        best = self.hypotheses[0].words
        return [Span(word.text, word.start, min(word.end, self.seconds), word.confidence) for word in best]


def conditioned_clip(waveform: np.ndarray, rate: int, is_whole: bool) -> tuple[float, np.ndarray]:
    """The second at which what the model reads begins, and its samples; silence alone stays as it is."""
    speech, before, _ = condition(waveform, rate, is_whole)
    return (before / rate, speech) if len(speech) else (0.0, waveform)


@torch.inference_mode()
def trace_clip(recognizer: Recognizer, waveform: np.ndarray) -> Trace:
    """One pass of the model over a clip, shape (samples,), at the model's sampling rate."""
    model, extractor = recognizer.model, recognizer.processor.feature_extractor
    tokenizer, rate = recognizer.processor.tokenizer, extractor.sampling_rate
    begins, waveform = conditioned_clip(waveform, rate, model.config.bidirectional)
    inputs, maps = recognizer.processor(waveform, sampling_rate=rate, return_tensors="pt"), []
    hook = model.deepspeech2.convolutions[0].register_forward_hook(lambda layer, inputs, outputs: maps.append(outputs[0]))
    try:
        logits = model(**inputs).logits[0]
    finally:
        hook.remove()
    log_probs, seconds_per_frame = log_softmax(logits), model.config.inputs_to_logits_ratio / rate
    recognition = Recognition(tokenizer, model.config, recognizer.decoder, n_best=NUM_HYPOTHESES)
    return Trace(
        waveform=waveform,
        begins=begins,
        sampling_rate=rate,
        hop=extractor.hop_length / rate,
        spectrogram=inputs.input_features[0].numpy(),
        convolution=maps[0][0].numpy(),
        seconds_per_frame=seconds_per_frame,
        log_probs=log_probs,
        blank=tokenizer.pad_token_id,
        path=best_path(log_probs, tokenizer),
        hypotheses=recognition.transcript([logits]),
    )


def best_path(log_probs: np.ndarray, tokenizer) -> list[Run]:
    shown = {tokenizer.pad_token_id: "·", tokenizer.word_delimiter_token_id: "␣"}
    runs, start = [], 0
    for symbol, frames in itertools.groupby(log_probs.argmax(1).tolist()):
        end = start + len(list(frames))
        runs.append(Run(symbol, shown.get(symbol) or tokenizer.convert_ids_to_tokens(symbol), start, end))
        start = end
    return runs


def collapse(trace: Trace) -> str:
    """The text that the best path stands for: a run is one symbol, a run of blanks none."""
    text = "".join(run.text for run in trace.path if run.symbol != trace.blank)
    return " ".join(text.replace("␣", " ").split())


def colour(symbol: int) -> str:
    """Of a symbol, the same everywhere; the golden ratio keeps neighbours of the alphabet apart."""
    return to_hex(hsv_to_rgb((symbol * 0.618 % 1, 0.85, 0.72)))


# The picture: four parts on one clock.


def draw(trace: Trace) -> Figure:
    """Sound, spectrogram, first convolution, probabilities. pyplot does not know the figure, so nobody has to close it."""
    figure = Figure(figsize=(max(11.0, 2.0 * trace.seconds), 9.0))
    parts = figure.subplots(4, sharex=True, height_ratios=[1, 2, 2, 2.2])
    for part, axes in zip((draw_waveform, draw_spectrogram, draw_convolution, draw_probabilities), parts):
        part(axes, trace)
        axes.spines[["top", "right"]].set_visible(False)
    parts[-1].set(xlim=(0, trace.seconds), xlabel="seconds")
    left, width = clock(figure)
    figure.subplots_adjust(left=left, right=left + width, top=0.965, bottom=0.06, hspace=0.3)
    return figure


def clock(figure: Figure) -> tuple[float, float]:
    """Where the time axis begins and how long it is, as shares of the picture's width."""
    inches = figure.get_figwidth()
    return 0.5 / inches, 1 - 0.65 / inches


def draw_waveform(axes: Axes, trace: Trace) -> None:
    axes.plot(np.arange(len(trace.waveform)) / trace.sampling_rate, trace.waveform, color="#4f46e5", linewidth=0.5)
    axes.set_title("Sound", loc="left", weight="bold")
    axes.set_yticks([])


def draw_spectrogram(axes: Axes, trace: Trace) -> None:
    _draw_map(axes, trace, trace.spectrogram.T, trace.sampling_rate / 2000)
    axes.set_title("Spectrogram, as the model gets it", loc="left", weight="bold")
    axes.set_ylabel("kHz", labelpad=2)


def draw_convolution(axes: Axes, trace: Trace) -> None:
    """The liveliest channels, one above the other; a convolution over time alone has channels of one bin, drawn as rows."""
    maps = trace.convolution.transpose(0, 2, 1)  # (channels, bins, frames)
    maps = np.minimum(maps / np.maximum(np.quantile(maps, 0.99, (1, 2), keepdims=True), 1e-9), 1)
    shown, scaled = np.arange(len(maps)), maps
    if maps.shape[1] > 1:
        shown = np.sort(np.argsort(maps.std((1, 2)))[-NUM_CHANNELS:])
        scaled = np.pad(maps[shown], ((0, 0), (1, 1), (0, 0)), constant_values=np.nan)  # a white line between two channels
    _draw_map(axes, trace, scaled.reshape(-1, maps.shape[2]), len(shown))
    axes.set_title(f"First convolution: {len(shown)} of its {len(maps)} channels", loc="left", weight="bold")
    axes.set_yticks([])


def _draw_map(axes: Axes, trace: Trace, rows: np.ndarray, top: float) -> None:
    """Rows of frames; the middle of a frame stands at its time."""
    step = trace.hop * round(len(trace.spectrogram) / rows.shape[1])
    low, high = np.nanpercentile(rows, (2, 99.7))
    extent = (-step / 2, (rows.shape[1] - 0.5) * step, 0, top)
    axes.imshow(rows, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")


def draw_probabilities(axes: Axes, trace: Trace) -> None:
    probs = np.exp(trace.log_probs)
    times = np.arange(len(probs)) * trace.seconds_per_frame
    axes.fill_between(times, probs[:, trace.blank], color="0.9", linewidth=0)
    for symbol in np.flatnonzero(probs.max(0) > 0.05).tolist():
        if symbol != trace.blank:
            axes.plot(times, probs[:, symbol], color=colour(symbol), linewidth=1.4)
    for run in trace.path:
        if run.symbol != trace.blank:
            peak = run.start + probs[run.start : run.end, run.symbol].argmax()
            place = (times[peak], probs[peak, run.symbol] + 0.04)
            axes.text(*place, run.text, color=colour(run.symbol), ha="center", size=11, clip_on=True, parse_math=False)
    axes.set_title("Probability of each character", loc="left", weight="bold")
    axes.set(ylim=(0, 1.2), yticks=[0, 0.5, 1])


# The same as HTML.


def picture_html(trace: Trace) -> str:
    figure, file = draw(trace), io.BytesIO()
    figure.savefig(file, format="svg", dpi=100)
    left, width = clock(figure)
    style = f"min-width: {70 * figure.get_figwidth():.0f}px; --left: {left:.3%}; --width: {width:.3%}"
    picture = f'<img src="{_inline(file, "image/svg+xml")}" alt="sound, spectrogram, first convolution, probabilities">'
    return f'<div class="strip"><div style="{style}">{picture}<div class="playhead"></div></div></div>'


def path_html(trace: Trace) -> str:
    runs = []
    for run in trace.path:
        kept = "&nbsp;" if run.symbol == trace.blank else escape(run.text)
        frames = f"<i>{escape(run.text)}</i>" * (run.end - run.start)
        style = "" if run.symbol == trace.blank else f' style="color: {colour(run.symbol)}"'
        runs.append(f"<span{style}><span>{frames}</span><b>{kept}</b></span>")
    return f'<p class="path">{"".join(runs)}</p><p>What remains: <b>{escape(collapse(trace)) or "nothing"}</b></p>'


def beam_html(trace: Trace) -> str:
    rows = ["<tr><th>text</th><th>log p<sub>ctc</sub></th><th>log p<sub>lm</sub></th><th>Q</th></tr>"]
    for one in trace.hypotheses:
        scores = "".join(f"<td>{score:.2f}</td>" for score in (one.acoustic_score, one.lm_score, one.score))
        rows.append(f"<tr><td>{escape(one.text) or '(nothing)'}</td>{scores.replace('-', '−')}</tr>")
    return f'<div class="strip"><table>{"".join(rows)}</table></div>'


def words_html(trace: Trace) -> str:
    file = io.BytesIO()
    soundfile.write(file, trace.waveform, trace.sampling_rate, format="WAV", subtype="PCM_16")
    words = [
        f'<button data-start="{word.start:.3f}" data-end="{word.end:.3f}" title="confidence {word.confidence:.0%}">'
        f"{escape(word.text)}<small>{word.start:.2f}–{word.end:.2f} s</small></button>"
        for word in trace.words
    ]
    return f'<p class="words">{"".join(words)}</p><audio controls src="{_inline(file, "audio/wav")}"></audio>'


def _inline(file: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def page_html(recognizer: Recognizer, trace: Trace) -> str:
    """The text, and all the steps that lead to it."""
    decoder = recognizer.decoder
    beam = "This model has no language model: Q is log p<sub>ctc</sub>, how well the characters fit the sound."
    if decoder.model is not None:
        beam = (
            f"Q = log p<sub>ctc</sub> + {decoder.alpha:g} · log p<sub>lm</sub> + {decoder.beta:g} · {decoder.model.unit}s: "
            "what the sound says, what a language model finds likely, and a bonus for length. The best Q gives the text."
        )
    frames, milliseconds = len(trace.log_probs), f"{1000 * trace.seconds_per_frame:.0f}"
    blanks = sum(run.end - run.start for run in trace.path if run.symbol == trace.blank)
    return f"""
<section><p class="transcript">{escape(trace.hypotheses[0].text) or "<em>No speech was recognised.</em>"}</p>
<p>Click a word to hear it.</p>{words_html(trace)}</section>
<section><h3>1 · From sound to characters</h3><p>One pass of the model, from top to bottom, all on the same clock. The
probabilities are spikes: in {blanks} of the {frames} frames the blank (grey) wins, which is no character.</p>
{picture_html(trace)}</section>
<section><h3>2 · From frames to text</h3><p>The best symbol of every frame of {milliseconds} ms (· is the blank, ␣ the
space), and under it what is left when repeats are joined and blanks dropped.</p>{path_html(trace)}</section>
<section><h3>3 · Better text by search</h3><p>{beam}</p>{beam_html(trace)}</section>"""
