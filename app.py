"""The demo page: speak, upload or pick a clip, and follow it from sound to text.

`demo/steps.py` makes what is shown of a clip; this file holds the page around it, the live mode, and the endpoint
`/transcribe`, which gives programs the text and the words in time. Nothing is downloaded but models named on the Hub.

A Hub Space (SDK Gradio) needs this file, the folder `demo` beside it, the models' names on the Hub in `MODELS` below, and a
`requirements.txt` with this package: `modeling-deepspeech2[app] @ git+https://…`.
"""

import argparse
import dataclasses
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio
import numpy as np
import pyarrow.parquet
import soxr
from transformers.utils import logging

from demo.steps import Recognizer, Trace, load, page_html, trace_clip
from modeling_deepspeech2 import DeepSpeech2Stream
from modeling_deepspeech2.audio import AudioError, read_audio, to_mono
from modeling_deepspeech2.transcription.streaming import StreamingModel


HERE = Path(__file__).resolve().parent
MODELS = {name: str(HERE / f"checkpoints/deepspeech2-{name}") for name in ("english", "mandarin", "english-live")}
CLIPS = HERE / "demo/speech"
NUM_CLIPS = 12  # to pick from, in each language
# What the page opens with.
EXAMPLES = {"English": (HERE / "demo/number.ogg", "three thousand four hundred and twenty three")}
UPLOADS_KEPT = (60, 600)  # seconds: every minute, what was uploaded or recorded ten minutes ago is deleted
LONGEST_CLIP = 30  # seconds; of longer ones the picture is too wide to look at


def read_clip(recognizer: Recognizer, file: str | Path) -> Trace:
    """The clip in a file, and what each step made of it.

    Raises:
        AudioError: it cannot be read, or is too long for this page.
    """
    rate, name = recognizer.processor.feature_extractor.sampling_rate, Path(file).name
    waveform = read_audio(file, rate, name, max_seconds=LONGEST_CLIP)
    return trace_clip(recognizer, waveform)


def show(recognizers: dict[str, Recognizer], file: str | None, language: str) -> str:
    """Shows the steps of an audio file below the controls, or those of an example if there is no file."""
    recognizer, introduction = recognizers[language], ""
    if file is None:
        example, text = EXAMPLES.get(language, (None, ""))
        if example is None or not example.is_file():
            return "<section>Pick a clip, upload one or speak: here you will see how the model turns it into text.</section>"
        file = str(example)
        introduction = f"<section>An example: a synthetic voice says “{escape(text)}”.</section>"
    try:
        return introduction + page_html(recognizer, read_clip(recognizer, file))
    except AudioError as error:
        return f"<section>{escape(str(error))}</section>"


def transcribe(recognizers: dict[str, Recognizer], file: str, language: str) -> tuple[str, dict]:
    """The endpoint for programs: the text of a clip, and its words in time."""
    if language not in recognizers:
        raise gradio.Error(f"language: found {language!r}, expected one of {', '.join(recognizers)}.")
    try:
        trace = read_clip(recognizers[language], file)
    except AudioError as error:
        raise gradio.Error(str(error)) from error
    words = [dataclasses.asdict(word) for word in trace.words]
    for word in words:
        word |= {"start": word["start"] + trace.begins, "end": word["end"] + trace.begins}
    return trace.hypotheses[0].text, {"seconds": trace.begins + trace.seconds, "words": words}


# Live.


@dataclass
class Microphone:
    """The live stream of one visitor."""

    stream: DeepSpeech2Stream
    resampler: soxr.ResampleStream


def feed_microphone(
    start: Callable[[], DeepSpeech2Stream], piece: tuple[int, np.ndarray] | None, microphone: Microphone | None
) -> tuple[str, Microphone | None]:
    """Feeds a piece of audio (rate and samples) to the stream and returns the text so far."""
    if piece is not None and len(piece[1]):
        rate, samples = piece
        if microphone is None:
            stream = start()
            wanted = stream.sampling_rate
            microphone = Microphone(stream, soxr.ResampleStream(rate, wanted, 1, dtype="float32"))
        microphone.stream.feed(microphone.resampler.resample_chunk(to_mono(samples, rate, rate, "the microphone")))
    return live_html(microphone), microphone


def stop_microphone(microphone: Microphone | None) -> tuple[str, None]:
    """Ends the stream and returns the final text."""
    if microphone is not None:
        microphone.stream.feed(microphone.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        microphone.stream.finish()
    return live_html(microphone), None


def live_html(microphone: Microphone | None) -> str:
    """Renders stable text in bold and tentative text in grey."""
    if microphone is None:
        return '<section><p class="transcript"><i>Press record and speak.</i></p></section>'
    text = microphone.stream.text
    return f'<section><p class="transcript"><b>{escape(text.stable)}</b><i>{escape(text.tentative)}</i></p></section>'


# The page.

# Fonts that gradio brings along, in weights that it has all letters of.
FONT, FIXED_FONT = (gradio.themes.LocalFont(name, weights=(400, 700)) for name in ("IBM Plex Sans", "IBM Plex Mono"))
THEME = gradio.themes.Default(primary_hue="indigo", font=[FONT, "sans-serif"], font_mono=[FIXED_FONT, "monospace"])

CSS = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: auto }
.html-container { padding: 0 !important } h1 { font-size: 1.7rem; font-weight: 600 }
section { padding: 1rem 1.2rem; margin-bottom: 1rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill) }
section h3 { font-size: 1.1rem; font-weight: 600 } section p { margin: 0 0 .8rem } section p:last-child { margin: 0 }
.transcript { font-size: 1.6rem; line-height: 1.35; overflow-wrap: anywhere; min-height: 2.2rem }
.transcript b { font-weight: 600 } .transcript i { font-style: normal; opacity: .6 }
.words { display: flex; flex-wrap: wrap; gap: .4rem } section audio { width: 100%; height: 40px }
.words button { padding: .2rem .6rem; border-radius: var(--radius-md); border: 1px solid var(--border-color-primary);
  background: var(--background-fill-secondary); font-size: 1.05rem; line-height: 1.3 }
.words button:hover, .words button.now { border-color: var(--color-accent); background: var(--color-accent-soft) }
.words small { display: block; font-size: .75rem; opacity: .75 }
.strip { overflow-x: auto } .strip > div { position: relative; background: white; border-radius: var(--radius-md) }
.strip img { display: block; width: 100% }
.playhead { position: absolute; top: 2%; bottom: 5%; left: -9px; width: 2px; background: var(--color-accent) }
.path { display: flex; flex-wrap: wrap; gap: .5rem 2px; font: .85rem var(--font-mono); background: white; color: #888;
  padding: .5rem; border-radius: var(--radius-md) }
.path span span { display: flex; flex-wrap: wrap; border-bottom: 2px solid } .path i { font-style: normal; padding: 0 1px }
.path b { display: block; font-size: 1.15rem; font-weight: 600; text-align: center }
table { width: 100%; border-collapse: collapse } td, th { padding: .35rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--border-color-primary); font-variant-numeric: tabular-nums; font-weight: inherit }
td:first-child, th:first-child { text-align: left; white-space: normal; width: 99% } tr:nth-child(2) { font-weight: 600 }
@media (max-width: 800px) {
  td, th { padding: .35rem .2rem; font-size: .85rem }
  .strip:has(img)::before { content: "Swipe to see later →"; font-size: .85rem; opacity: .6 }
}
"""

# A word plays its piece of the clip, and a line goes through the picture with the sound.
PLAY = """
let end = Infinity;
function follow() {
  const sound = element.querySelector("audio");
  if (!sound) return;
  if (sound.currentTime >= end) sound.pause();
  const line = element.querySelector(".playhead"), now = sound.currentTime;
  line.style.left = "calc(var(--left) + var(--width) * " + now / sound.duration + ")";
  for (const word of element.querySelectorAll("[data-start]"))
    word.classList.toggle("now", !sound.paused && word.dataset.start <= now && now < word.dataset.end);
  if (sound.paused) end = Infinity; else requestAnimationFrame(follow);
}
element.addEventListener("play", follow, true);
element.addEventListener("click", event => {
  const word = event.target.closest("[data-start]"), sound = element.querySelector("audio");
  if (!word) return;
  end = Number(word.dataset.end);
  sound.currentTime = word.dataset.start;
  sound.play();
});
"""


def build_page(
    recognizers: dict[str, Recognizer], live: Recognizer | None, clips: dict[str, list[tuple[str, str]]]
) -> gradio.Blocks:
    """Builds the page for the available models.

    Args:
        recognizers: by language.
        live: a unidirectional model; None hides the live mode.
        clips: for each language the clips to choose from: transcript and file.

    Raises:
        ValueError: `live` cannot transcribe a stream.
    """

    def choice(language: str) -> dict:
        return {"choices": clips[language], "value": None, "visible": bool(clips[language])}

    with gradio.Blocks(title="Deep Speech 2", analytics_enabled=False, delete_cache=UPLOADS_KEPT) as page:
        gradio.HTML("<h1>Deep Speech 2</h1><p>How a neural network turns speech into text, step by step.</p>")
        if recognizers:
            with gradio.Tab("A clip"):
                with gradio.Row():
                    with gradio.Column(min_width=280):
                        language = gradio.Radio(list(recognizers), value=next(iter(recognizers)), label="Language")
                        picked = clips[language.value]
                        clip = gradio.Dropdown(
                            picked, value=None, label="Pick a clip", filterable=False, visible=bool(picked)
                        )
                    with gradio.Column(min_width=280, scale=2):
                        sound = gradio.Audio(
                            sources=["upload", "microphone"], type="filepath", label="Or upload, or speak", buttons=[]
                        )
                result = gradio.HTML(
                    show(recognizers, None, language.value), js_on_load=PLAY, elem_id="result", apply_default_css=False
                )
            language.change(lambda name: gradio.Dropdown(**choice(name)), language, clip, api_visibility="private")
            clip.input(lambda file: file, clip, sound, api_visibility="private")
            gradio.on(
                [sound.change, language.change], functools.partial(show, recognizers), [sound, language], result,
                api_visibility="private",
            )  # fmt: skip
            # For programs; the button and its outputs are hidden.
            gradio.Button(visible=False).click(
                functools.partial(transcribe, recognizers),
                [sound, language],
                [gradio.Textbox(label="text", visible=False), gradio.JSON(label="words", visible=False)],
                api_name="transcribe",
                api_description="The text of a clip of up to 30 seconds, and its words with times and confidences.",
            )
        if live is not None:
            model = StreamingModel(live.model)

            def start() -> DeepSpeech2Stream:
                return DeepSpeech2Stream(model, live.processor, live.decoder)

            start()  # refuses a model that cannot transcribe a stream
            with gradio.Tab("Live"):
                voice = gradio.Audio(sources="microphone", streaming=True, label="English, while you speak")
                text = gradio.HTML(live_html(None), elem_id="live", apply_default_css=False)
                microphone = gradio.State()
            # One queue for the pieces and the end, so that they are processed in order.
            voice.stream(
                functools.partial(feed_microphone, start), [voice, microphone], [text, microphone],
                stream_every=0.3, concurrency_id="live", concurrency_limit=1, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
            voice.stop_recording(
                stop_microphone, microphone, [text, microphone], concurrency_id="live", api_visibility="private"
            )
    return page


def write_clips(language: str, folder: Path) -> list[tuple[str, str]]:
    """Writes some clips of the bundled speech as files: transcript and file of each; none if the speech is missing."""
    clips = []
    for file in sorted((CLIPS / language.lower()).glob("test-*.parquet"))[:1]:
        table = pyarrow.parquet.read_table(file, columns=["id", "audio", "text", "speaker_id"])
        for row in table.slice(0, NUM_CLIPS).to_pylist():
            path = folder / f"{row['id']}.ogg"
            path.write_bytes(row["audio"]["bytes"])
            clips.append((f"{row['text']} ({row['speaker_id']})", str(path)))
    return clips


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Opens the demo page in a browser.")
    for option, name in (("english", "english"), ("mandarin", "mandarin"), ("live", "english-live")):
        parser.add_argument(f"--{option}", default=MODELS[name], metavar="MODEL", help="a folder or a name on the Hub")
    settings = parser.parse_args(arguments)
    logging.disable_progress_bar()
    found: dict[str, Recognizer] = {}
    for option, name in vars(settings).items():
        try:
            found[option] = load(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            print(f"Left out: found no {option} model in {name} ({reason}); name another with --{option}.", file=sys.stderr)
    if not found:
        sys.exit("No model, no page: train one as the README says, and name its folder.")
    live = found.pop("live", None)
    recognizers = {option.capitalize(): recognizer for option, recognizer in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = build_page(recognizers, live, {language: write_clips(language, Path(folder)) for language in recognizers})
        except ValueError as error:
            sys.exit(f"--live: {error}")
        page.launch(theme=THEME, css=CSS, footer_links=[], max_file_size="50mb")


if __name__ == "__main__":
    main()
