"""Compares exported models with the models they came from, on real speech, and prints one table.

    python -m benchmarks.export_exactness                                  # the models of checkpoints/
    python -m benchmarks.export_exactness offline --models runs/mine --data my_speech::test
    python -m benchmarks.export_exactness live sherpa

offline: logits of the ONNX graph against the model in double precision, and the texts and error rates of each file.
live: the live graph fed random pieces of one sample to ten seconds, against `StreamingModel` on the same features, and the
text of a `DeepSpeech2Stream` after every piece. sherpa: the error rate of sherpa-onnx, and of the graph that it reads.

Texts are best paths. The clips are drawn at random (`--seed`) in equal shares from the splits of `--data`; nothing is tuned
on them. Without the data beside the repository, the bundled speech is used.
"""

import argparse
import copy
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor, DeepSpeech2ForCTC, DeepSpeech2Processor, DeepSpeech2Stream
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.export import layers
from modeling_deepspeech2.export.folder import UNIT_VARIANCE, export
from modeling_deepspeech2.export.graph import Graph, value_info
from modeling_deepspeech2.export.measurement import unit_variance
from modeling_deepspeech2.training.metrics import ErrorRates
from modeling_deepspeech2.transcription.exported import SUFFIXES, ExportedModel
from modeling_deepspeech2.transcription.streaming import SlidingWindow, StreamingModel


PARTS = ("offline", "live", "sherpa")
MODELS = [f"checkpoints/deepspeech2-{name}" for name in ("english", "english-live", "mandarin")]
DATA = {  # by language, beside the repository, and within it
    "en": [f"../shared/data/speech-en::{name}/test" for name in ("librispeech_clean5", "kathleen", "speechocean762")],
    "zh": [f"../shared/data/speech-zh::{name}/test" for name in ("aishell_sample", "common_voice")],
}
BUNDLED = {"en": ["demo/speech::english/test"], "zh": ["demo/speech::mandarin/test"]}
LONGEST_PIECE = 10.0  # seconds


class Clip:
    """A waveform at the model's rate, and what is said in it."""

    def __init__(self, waveform: np.ndarray, reference: str):
        self.waveform, self.reference = waveform, reference


def draw(splits: list[str], number: int, processor: DeepSpeech2Processor, seed: int) -> list[Clip]:
    """Clips in equal shares from splits, each named DATA SET::[CONFIGURATION/]SPLIT."""
    random, clips = np.random.default_rng(seed), []
    for place, split in enumerate(splits):
        source, _, name = split.rpartition("::")
        data = SpeechData(source, [name], show_progress=False)
        share = (number * (place + 1)) // len(splits) - (number * place) // len(splits)
        rows = np.sort(random.permutation(len(data.index))[:share])
        for _, utterance in sorted(data.read(rows).items()):
            waveform = read_waveform(utterance.audio, processor.feature_extractor.sampling_rate, utterance.name)
            clips.append(Clip(waveform, processor.tokenizer.normalize(utterance.text)))
    return clips


def exact_features(extractor: DeepSpeech2FeatureExtractor, waveform: np.ndarray) -> np.ndarray:
    """What the extractor makes, computed in double precision by NumPy: (frames, bins).

    torch.stft in float32 is itself off by 5e-4 where a bin is nearly silent.
    """
    size, hop = extractor.n_fft, extractor.hop_length
    if len(waveform) == 0:
        return np.zeros((0, extractor.feature_size))
    padded = np.pad(waveform.astype(np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    features = np.log(np.abs(np.fft.rfft(frames * hann)) ** 2 + 1e-14)
    if extractor.normalization == "training_set":
        features = (features - extractor.mean) / extractor.deviation
    elif extractor.normalization == "utterance":
        features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-4)
    return features


class Case:
    """A model, what it becomes when it is exported, and clips."""

    def __init__(self, source: str, output: Path, arguments: argparse.Namespace):
        self.source = source
        self.model = DeepSpeech2ForCTC.from_pretrained(source).eval()
        self.processor = DeepSpeech2Processor.from_pretrained(source)
        language = self.processor.tokenizer.language
        splits = arguments.data or DATA.get(language, [])
        if not arguments.data and not all(Path(split.partition("::")[0]).is_dir() for split in splits):
            splits = BUNDLED[language]
        self.splits, self.arguments = splits, arguments
        self.is_live = not self.model.config.bidirectional
        export(self.model, self.processor, output, live=self.is_live)
        self.exported = {weights: ExportedModel(output, weights, threads=1) for weights in SUFFIXES}

    def clips(self, number: int) -> list[Clip]:
        return draw(self.splits, number, self.processor, self.arguments.seed)

    def rates(self, texts: list[str], clips: list[Clip]) -> str:
        references = [clip.reference for clip in clips]
        rates = ErrorRates(self.processor.tokenizer.word_boundaries).compute(predictions=texts, references=references)
        name = "wer" if self.processor.tokenizer.word_boundaries == "spaces" else "cer"
        return f"{name.upper()} {rates[name]:.2%}"


def offline(case: Case) -> Iterator[tuple[str, str, str]]:
    clips, tokenizer = case.clips(case.arguments.clips), case.processor.tokenizer
    exact = copy.deepcopy(case.model).double()
    texts: dict[str, list[str]] = {"torch": [], **{weights: [] for weights in SUFFIXES}}
    worst = dict.fromkeys(SUFFIXES, 0.0)
    for clip in tqdm(clips, desc=case.source, leave=False):
        features = torch.from_numpy(exact_features(case.processor.feature_extractor, clip.waveform))
        with torch.inference_mode():
            expected = exact(features[None]).logits[0].numpy()
        texts["torch"].append(tokenizer.decode(expected.argmax(-1)))
        for weights, exported in case.exported.items():
            (logits,) = exported.offline.run(["logits"], {"input_values": clip.waveform[None]})
            difference = np.abs(logits[0] - expected).max() / np.abs(expected).max()
            worst[weights] = max(worst[weights], float(difference))
            texts[weights].append(tokenizer.decode(logits[0].argmax(-1)))
    what = f"{len(clips)} clips of {', '.join(case.splits)}"
    yield f"{what}: largest difference of logits to double precision, of the largest", f"{worst['float32']:.1e}", "≤ 1e-4"
    for weights in ("float32", "int16"):
        same = sum(map(str.__eq__, texts[weights], texts["torch"]))
        yield f"the text of double precision, {weights}", f"{same} of {len(clips)}", "all"
    same = sum(map(str.__eq__, texts["int16"], texts["float32"]))
    yield "the same text in model.onnx and model_fp16.onnx", f"{same} of {len(clips)}", "all"
    for name, found in texts.items():
        yield name, case.rates(found, clips), "int8: within 0.5 points" if name == "int8" else ""


def random_pieces(waveform: np.ndarray, rate: int, random: np.random.Generator) -> list[np.ndarray]:
    """Pieces of one sample to ten seconds, of any order of magnitude."""
    sizes = np.exp(random.uniform(0, np.log(LONGEST_PIECE * rate), len(waveform))).astype(int)
    ends = np.cumsum(sizes)
    return np.split(waveform, ends[ends < len(waveform)])


def live(case: Case) -> Iterator[tuple[str, str, str]]:
    if not case.is_live:
        return
    clips, random = case.clips(case.arguments.streams), np.random.default_rng(case.arguments.seed)
    extractor, streaming, exported = case.processor.feature_extractor, StreamingModel(case.model), case.exported
    rate, kinds = extractor.sampling_rate, (graph_features(extractor), functools.partial(exact_features, extractor))
    worst, pieces, moments, same = [0.0, 0.0], 0, 0, 0
    for clip in tqdm(clips, desc=f"{case.source}, live", leave=False):
        cuts = random_pieces(clip.waveform, rate, random)
        found = (_worst_of_stream(case, streaming, cuts, features(clip.waveform)) for features in kinds)
        worst = list(map(max, worst, found))
        streams = [DeepSpeech2Stream(streaming, case.processor), DeepSpeech2Stream(exported["float32"])]
        pieces += len(cuts)
        for piece in [*cuts, None]:
            for stream in streams:
                stream.finish() if piece is None else stream.feed(piece)
            moments += streams[0].text == streams[1].text
        same += streams[0].text == streams[1].text
    what = (
        f"{len(clips)} clips in {pieces:,} random pieces: largest difference of logits to `StreamingModel`, of the largest"
    )
    yield f"{what}, given the same features", f"{worst[0]:.1e}", "≤ 1e-5"
    yield "the same, given features of double precision", f"{worst[1]:.1e}", "≤ 1e-4"
    yield "the same text at the end", f"{same} of {len(clips)}", "all"
    yield "the same text after every piece", f"{moments:,} of {pieces + len(clips):,}", "all"


def graph_features(extractor: DeepSpeech2FeatureExtractor) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a waveform to the features that the live graph makes of it."""
    graph = Graph()
    power = layers.log_power(graph, "samples", extractor, extractor.n_fft // 2)
    graph.give("features", layers.standardize(graph, power, extractor))
    shapes = (value_info("samples", np.float32, [1, "samples"]), value_info("features", np.float32, [1, "frames", "bins"]))
    content = graph.model([shapes[0]], [shapes[1]]).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda waveform: session.run(None, {"samples": waveform[None]})[0][0]


def _worst_of_stream(case: Case, streaming: StreamingModel, pieces: list[np.ndarray], frames_of_all: np.ndarray) -> float:
    extractor = case.processor.feature_extractor
    features = torch.from_numpy(frames_of_all).float()
    half = extractor.n_fft // 2
    window, kept = SlidingWindow(extractor.n_fft, extractor.hop_length, half, half), torch.zeros(1, half)
    state, acoustics, seen, worst, largest = streaming.start(), case.exported["float32"].start(), 0, 0.0, 0.0
    for index, piece in enumerate([*pieces, np.zeros(0, np.float32)]):
        last = index == len(pieces)
        _, kept, frames = window(kept, torch.from_numpy(np.ascontiguousarray(piece))[None], last)
        expected, state = streaming.step(features[None, seen : seen + frames], state, last)
        seen += frames
        found = acoustics.feed(piece, last)
        assert found.shape == expected[0].shape
        if len(found):
            worst = max(worst, float(np.abs(found - expected[0].numpy()).max()))
            largest = max(largest, float(expected.abs().max()))
    return worst / largest


def sherpa(case: Case) -> Iterator[tuple[str, str, str]]:
    try:
        import sherpa_onnx
    except ImportError:
        yield "sherpa-onnx", "not installed: pip install sherpa-onnx", ""
        return
    exported = case.exported["float32"]
    graph, tokens = exported.folder / "onnx" / UNIT_VARIANCE, exported.folder / "tokens.txt"
    if not graph.is_file():
        return
    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model=str(graph), tokens=str(tokens), num_threads=1)
    session, rate = exported.open_session(graph.stem), exported.sampling_rate
    texts, own, clips = [], [], case.clips(case.arguments.sherpa_clips)
    for clip in tqdm(clips, desc="sherpa-onnx", leave=False):
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, clip.waveform)
        recognizer.decode_stream(stream)
        texts.append(case.processor.tokenizer.normalize(stream.result.text))
        (logits,) = session.run(["logits"], {"input_values": unit_variance(clip.waveform)[None]})
        own.append(case.processor.tokenizer.decode(logits[0].argmax(-1)))
    what = f"{len(clips)} clips of {', '.join(case.splits)}: sherpa-onnx {sherpa_onnx.__version__}"
    yield what, case.rates(texts, clips), ""
    yield "the graph that it reads, in onnxruntime", case.rates(own, clips), ""
    yield "the same text", f"{sum(map(str.__eq__, texts, own))} of {len(clips)}", "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--data", nargs="+", metavar="DATA::SPLIT", help="for all models (default: by language)")
    parser.add_argument("--clips", type=int, default=160, help="of the offline comparison (%(default)s)")
    parser.add_argument("--streams", type=int, default=50, help="clips of the live comparison (%(default)s)")
    parser.add_argument("--sherpa_clips", type=int, default=278, help="clips for sherpa-onnx (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; the parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    print("| model | what | figure | target |\n| --- | --- | ---: | --- |")
    for source in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            case = Case(source, Path(folder) / "exported", arguments)
            for part in arguments.parts or PARTS:
                for what, figure, target in globals()[part](case):
                    print(f"| {source} | {what} | {figure} | {target} |", flush=True)


if __name__ == "__main__":
    main()
