"""The page without a server, in Chromium: a file, a microphone, no network."""

import io
import json
import subprocess
import time
from pathlib import Path

import jiwer
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from browser import PATIENCE, chromium, served
from npm_packages import WEB, installed_packages

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor, GreedyDecoder
from modeling_deepspeech2.conditioning import condition
from modeling_deepspeech2.hypotheses import Hypothesis
from modeling_deepspeech2.transcription.exported import ExportedModel


pytest.importorskip("onnx", reason='needs the packages of the export: pip install -e ".[onnx]"')

from modeling_deepspeech2.export.folder import export


from small_models import open_session  # isort: skip


REPOSITORY = Path(__file__).parents[2]


RATE = 16_000
NUM_CLIPS = 2
MODEL = REPOSITORY / "checkpoints" / "deepspeech2-english-live"


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """Some clips of the bundled speech, one after the other, as 16-bit samples."""
    file = next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet"))
    rows = pyarrow.parquet.read_table(file, columns=["audio"]).slice(0, NUM_CLIPS).to_pylist()
    clips = [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in rows]
    return np.round(np.concatenate(clips) * 32_767).astype(np.int16)


@pytest.fixture(scope="module")
def speech(tmp_path_factory, waveform) -> Path:
    file = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(file, waveform, RATE)
    return file


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "english-live"
    export(DeepSpeech2ForCTC.from_pretrained(MODEL), DeepSpeech2Processor.from_pretrained(MODEL), folder, live=True)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, exported) -> Path:
    """The page as `make web` builds it, with one model."""
    installed_packages()
    output = tmp_path_factory.mktemp("page") / "dist"
    subprocess.run(["node", WEB / "build.js", "--output", output, exported], check=True, timeout=PATIENCE)
    return output


@pytest.fixture(scope="module")
def best_path(exported):
    """Transcribes samples in Python by the file that the page loads."""
    session = open_session(exported / "onnx" / "model_quantized.onnx")
    decoder = GreedyDecoder(DeepSpeech2Processor.from_pretrained(MODEL).tokenizer)

    def transcribe(samples: np.ndarray) -> Hypothesis:
        (logits,) = session.run(None, {"input_values": samples[None]})
        return decoder.decode(logits[0], 0.03)[0]

    return transcribe


@pytest.fixture(scope="module")
def expected(best_path, waveform):
    return best_path(waveform / np.float32(32_768))


@pytest.fixture(scope="module")
def visit(page, speech):
    """Browser and server of the page, whose microphone plays the file once, again and again."""
    arguments = "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"
    with (
        chromium(*arguments, f"--use-file-for-fake-audio-capture={speech}") as browser,
        served(page) as (address, server),
    ):
        browser.get(address)
        wait(browser, "return document.getElementById('status').textContent === 'Ready.'")
        print(f"ready {browser.execute_script('return measured.ready') / 1000:.2f} s after the page was opened")
        yield browser, server, address


def wait(browser, script: str):
    """What a script returns as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := browser.execute_script(script)):
        state = browser.execute_script("return document.body.innerText")
        assert time.monotonic() < deadline, f"Never true on the page: {script}\n{state}\n{browser.get_log('browser')}"
        time.sleep(0.1)
    return found


def transcribe_file(browser, file: Path) -> None:
    browser.find_element("id", "file").send_keys(str(file))
    wait(browser, "return document.getElementById('status').textContent.includes('s of audio in')")


def test_a_file_becomes_the_text_that_python_writes_with_words_in_time(visit, speech, waveform, expected):
    browser, _, _ = visit
    before = browser.execute_script("return performance.now()")
    transcribe_file(browser, speech)
    seconds = (browser.execute_script("return measured.text") - before) / 1000
    print(f"text {seconds:.2f} s after a file of {len(waveform) / RATE:.1f} s was chosen")
    assert browser.find_element("id", "text").text == expected.text
    words = browser.execute_script(
        "return [...document.querySelectorAll('#text span')]"
        ".map(word => [word.textContent, word.dataset.start, word.dataset.end])"
    )
    assert [word[0] for word in words] == [word.text for word in expected.words]
    times = np.array([word[1:] for word in words], float)
    np.testing.assert_allclose(times, [[word.start, word.end] for word in expected.words], atol=0.01)


def test_silence_is_taken_off_and_a_quiet_file_amplified_as_in_python(visit, tmp_path, waveform, best_path):
    browser, _, _ = visit
    quiet = np.concatenate([np.zeros(RATE, np.float32), waveform / np.float32(32_768) / 100])
    soundfile.write(tmp_path / "quiet.wav", quiet, RATE, subtype="FLOAT")
    transcribe_file(browser, tmp_path / "quiet.wav")
    samples, skipped, _ = condition(quiet, RATE)
    expected = best_path(samples)
    assert browser.find_element("id", "text").text == expected.text
    start = browser.execute_script("return document.querySelector('#text span').dataset.start")
    assert abs(float(start) - expected.words[0].start - skipped / RATE) < 0.03


def test_the_picture_has_a_wave_and_the_probabilities_of_characters(visit, speech, waveform):
    browser, _, _ = visit
    transcribe_file(browser, speech)
    size, shades = browser.execute_script(
        "const canvas = document.getElementById('picture'), scale = devicePixelRatio;"
        "const shades = (top, bottom) => new Set(canvas.getContext('2d')"
        "  .getImageData(30 * scale, top * scale, canvas.width, (bottom - top) * scale).data).size;"
        "return [[canvas.width / scale, canvas.height / scale], [shades(0, 70), shades(80, 200)]]"
    )
    assert size[0] > 100 * len(waveform) / RATE and size[1] > 200
    assert shades[0] > 1 and shades[1] > 20  # probabilities are many shades
    assert not browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")


def test_a_file_that_is_no_audio_is_said_to_be_so(visit, tmp_path):
    browser, _, _ = visit
    (tmp_path / "notes.wav").write_text("no sound")
    browser.find_element("id", "file").send_keys(str(tmp_path / "notes.wav"))
    wait(browser, "return document.getElementById('status').textContent.includes('notes.wav is no audio')")


def test_the_microphone_becomes_text_while_one_speaks(visit, waveform, exported):
    """What the page recorded becomes the text that Python gives for the same samples; some of it while one speaks."""
    browser, _, _ = visit
    button = browser.find_element("id", "microphone")
    button.click()
    text = "document.getElementById('text').textContent"
    begun = f"return measured.pieces.length * 0.1 > {{}} && {text}"
    early = wait(browser, begun.format(3))
    wait(browser, begun.format(len(waveform) / RATE + 1.5))
    button.click()
    wait(browser, "return document.getElementById('status').textContent.includes('for each piece of 100 ms')")
    recorded = np.array(browser.execute_script("return Array.from(measured.sound.getChannelData(0))"), np.float32)
    model = ExportedModel(exported, "int8")
    logits = np.concatenate(list(model.logits([recorded])))
    expected = GreedyDecoder(model.tokenizer).decode(logits, 0.03)[0].text
    heard = browser.execute_script(f"return {text}")
    assert 0 < len(early) < len(heard)
    assert jiwer.cer(expected, heard) < 0.03  # two builds of onnxruntime round differently
    milliseconds = browser.execute_script("return measured.pieces")
    print(f"{np.median(milliseconds):.1f} ms a piece of 100 ms")


def test_nothing_is_fetched_from_elsewhere(visit):
    browser, _, address = visit
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert len(sent) > 5
    assert all(request["url"].startswith((address, "blob:", "data:")) and request["method"] == "GET" for request in sent)


def test_after_the_first_visit_no_network_is_needed(visit, speech, expected):
    """The last test: it stops the server."""
    browser, server, address = visit
    wait(browser, "return document.getElementById('offline').textContent.startsWith('Stored')")
    server.shutdown()
    server.server_close()
    browser.get(address)
    wait(browser, "return document.getElementById('status').textContent === 'Ready.'")
    transcribe_file(browser, speech)
    assert browser.find_element("id", "text").text == expected.text
