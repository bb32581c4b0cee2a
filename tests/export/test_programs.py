"""Other programs, as they come from their registries, read the exported folder and write what Python writes."""

import io
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from browser import chromium, served
from npm_packages import installed_packages
from small_models import open_session

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor, GreedyDecoder


pytest.importorskip("onnx", reason='needs the packages of the export: pip install -e ".[onnx]"')

from modeling_deepspeech2.export.folder import export


REPOSITORY = Path(__file__).parents[2]


NUM_CLIPS = 50


class Case(NamedTuple):
    """An exported model, waveforms, what the model's best paths say in them, and its decoder."""

    folder: Path
    waveforms: list[np.ndarray]
    texts: list[str]
    decoder: GreedyDecoder

    def texts_of(self, file: str) -> list[str]:
        """The best paths of one of the files, in Python."""
        session = open_session(self.folder / "onnx" / file)
        logits = (session.run(None, {"input_values": waveform[None]})[0][0] for waveform in self.waveforms)
        return [self.decoder.decode(one, 1.0)[0].text for one in logits]


def read_waveforms(language: str) -> list[np.ndarray]:
    """Clips of the bundled test split, at 16 kHz."""
    file = next((REPOSITORY / "demo" / "speech" / language).glob("test-*.parquet"))
    rows = pyarrow.parquet.read_table(file, columns=["audio"]).slice(0, NUM_CLIPS).to_pylist()
    return [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in rows]


@pytest.fixture(scope="module", params=["english", "mandarin", "noise"])
def case(request, tmp_path_factory) -> Case:
    """The published models on speech, and a random one, whose noise has every symbol beside every other."""
    if request.param == "noise":
        model, processor = request.getfixturevalue("make_tiny_model")(), request.getfixturevalue("processor")
        waveforms = [clip.waveform for clip in request.getfixturevalue("clips")]
    else:
        source = REPOSITORY / "checkpoints" / f"deepspeech2-{request.param}"
        model, processor = DeepSpeech2ForCTC.from_pretrained(source), DeepSpeech2Processor.from_pretrained(source)
        waveforms = read_waveforms(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    export(model, processor, folder)
    decoder, texts = GreedyDecoder(processor.tokenizer), []
    for waveform in waveforms:
        with torch.inference_mode():
            logits = model.eval()(**processor(waveform, sampling_rate=16_000, return_tensors="pt")).logits[0]
        texts.append(decoder.decode(logits, 1.0)[0].text)
    assert len(set(texts)) > len(texts) / 2
    return Case(folder, waveforms, texts, decoder)


def framed(waveforms: list[np.ndarray]) -> bytes:
    return b"".join(np.uint32(len(waveform)).tobytes() + waveform.tobytes() for waveform in waveforms)


def test_transformers_js_in_node_writes_what_python_writes(case):
    library = installed_packages() / "@huggingface" / "transformers" / "dist" / "transformers.node.mjs"
    command = ["node", Path(__file__).parent / "recognize.mjs", library, case.folder, "fp32"]
    result = subprocess.run(command, input=framed(case.waveforms), capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    assert json.loads(result.stdout) == case.texts


RECOGNIZE_IN_BROWSER = """
const [dtype, done] = arguments;
(async () => {
  const { env, pipeline } = await import("/npm/@huggingface/transformers/dist/transformers.min.js");
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/models/";
  env.backends.onnx.wasm.wasmPaths = "/npm/@huggingface/transformers/node_modules/onnxruntime-web/dist/";
  const recognizer = await pipeline("automatic-speech-recognition", "model", { dtype, device: "wasm" });
  const content = await (await fetch("/samples.bin")).arrayBuffer();
  const view = new DataView(content), texts = [];
  for (let place = 0; place < content.byteLength; ) {
    const length = view.getUint32(place, true);
    texts.push((await recognizer(new Float32Array(content.slice(place + 4, place + 4 + 4 * length)))).text);
    place += 4 + 4 * length;
  }
  return texts;
})().then(done, error => done(String(error.stack ?? error)));
"""


def test_transformers_js_in_a_browser_writes_what_python_writes(case, tmp_path):
    packages = installed_packages()
    (tmp_path / "npm").symlink_to(packages)
    (tmp_path / "models").symlink_to(case.folder.parent)
    (tmp_path / "samples.bin").write_bytes(framed(case.waveforms))
    (tmp_path / "index.html").write_text("<!doctype html><title>test</title>")
    with chromium() as browser, served(tmp_path) as (address, _):
        browser.get(address)
        assert browser.execute_async_script(RECOGNIZE_IN_BROWSER, "fp32") == case.texts
        if len(case.waveforms) < NUM_CLIPS:  # the small model; weights of fewer bits may change a text
            for dtype, file in (("fp16", "model_fp16.onnx"), ("q8", "model_quantized.onnx")):
                assert browser.execute_async_script(RECOGNIZE_IN_BROWSER, dtype) == case.texts_of(file)


def test_sherpa_onnx_writes_what_its_graph_says(case):
    """Unmodified, from its wheel; it scales each waveform to unit variance, and so must the comparison."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="needs sherpa-onnx: pip install sherpa-onnx")
    graph, tokens = case.folder / "onnx" / "model_unit_variance.onnx", case.folder / "tokens.txt"
    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model=str(graph), tokens=str(tokens))
    session = open_session(graph)
    symbols = [line.rpartition(" ")[0] for line in tokens.read_text(encoding="utf-8").splitlines()]
    for waveform in case.waveforms:
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, waveform)
        recognizer.decode_stream(stream)
        scaled = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
        (logits,) = session.run(None, {"input_values": scaled[None].astype(np.float32)})
        best = logits[0].argmax(1)
        labels = best[np.diff(best, prepend=-1) != 0]
        text = "".join(symbols[label] for label in labels if label != 0).replace("▁", " ")
        assert " ".join(stream.result.text.split()) == " ".join(text.split())
