"""The page: the steps behind it on real clips, and the page itself in a browser."""

import base64
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from transformers import pipeline

from modeling_deepspeech2 import DeepSpeech2Stream, GreedyDecoder
from modeling_deepspeech2.training.publishing import save_repository


pytest.importorskip("gradio", reason='needs the page\'s packages: pip install -e ".[app]"')

import app
from demo import steps


REPOSITORY = Path(__file__).parents[1]


PATIENCE = 300  # seconds that a busy machine may take


@pytest.fixture(scope="module")
def recognizer(tiny_model_with_decoder) -> steps.Recognizer:
    return steps.load(str(tiny_model_with_decoder))


@pytest.fixture(scope="module")
def trace(recognizer, clips) -> steps.Trace:
    return steps.trace_clip(recognizer, clips[0].waveform)


@pytest.fixture(scope="module")
def live_folder(tmp_path_factory, make_tiny_model, processor) -> Path:
    folder = tmp_path_factory.mktemp("live")
    save_repository(folder, make_tiny_model(bidirectional=False, lookahead=4), processor)
    return folder


@pytest.fixture(scope="module")
def expected_text(tiny_model_with_decoder, encoded_clips) -> str:
    """What the pipeline makes of the first clip."""
    return pipeline("automatic-speech-recognition", model=str(tiny_model_with_decoder))(encoded_clips[0][1])["text"]


@pytest.fixture(scope="module")
def example_text(tiny_model_with_decoder) -> str:
    return pipeline("automatic-speech-recognition", model=str(tiny_model_with_decoder))(str(app.EXAMPLES["English"][0]))[
        "text"
    ]


# The steps.


def test_one_pass_gives_every_step(trace, recognizer, expected_text):
    config = recognizer.model.config
    frames = trace.spectrogram.shape[0]
    assert trace.spectrogram.shape[1] == config.num_frequency_bins
    assert trace.convolution.shape == (config.conv_channels[0], -(-frames // 2), -(-config.num_frequency_bins // 2))
    assert trace.log_probs.shape == (recognizer.model.output_lengths(frames), config.vocab_size)
    np.testing.assert_allclose(np.exp(trace.log_probs).sum(1), 1, atol=1e-5)
    assert trace.hypotheses[0].text == expected_text
    assert not recognizer.model.deepspeech2.convolutions[0]._forward_hooks


def test_the_path_collapses_to_the_text_of_greedy_decoding(trace, recognizer):
    assert [run.start for run in trace.path] == [0, *(run.end for run in trace.path[:-1])]
    assert trace.path[-1].end == len(trace.log_probs)
    greedy = GreedyDecoder(recognizer.processor.tokenizer).decode(trace.log_probs, trace.seconds_per_frame)[0]
    assert len(greedy.text) > 20
    assert steps.collapse(trace) == greedy.text
    cells = re.sub(r"<i>.*?</i>", "", steps.path_html(trace).partition("</p>")[0])
    kept = "".join(re.findall(r"<b>(.*?)</b>", cells)).replace("&nbsp;", "").replace("␣", " ").replace("&#x27;", "'")
    assert " ".join(kept.split()) == greedy.text


def test_words_lie_within_the_clip_one_after_the_other(trace):
    assert " ".join(word.text for word in trace.words) == trace.hypotheses[0].text
    times = [time for word in trace.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= trace.seconds
    buttons = re.findall(r'data-start="([\d.]+)" data-end="([\d.]+)"', steps.words_html(trace))
    np.testing.assert_allclose(np.array(buttons, float).ravel(), times, atol=1e-3)


def test_the_picture_has_four_parts_on_one_clock(trace):
    figure = steps.draw(trace)
    assert len(figure.axes) == 4
    assert {axes.get_xlim() for axes in figure.axes} == {(0, trace.seconds)}
    waveform, spectrogram, convolution, probabilities = figure.axes
    assert np.array_equal(waveform.lines[0].get_ydata(), trace.waveform)
    assert np.array_equal(spectrogram.images[0].get_array(), trace.spectrogram.T)
    for axes in (spectrogram, convolution):  # the last frame's middle lies within a frame of the clip's end
        left, right, *_ = axes.images[0].get_extent()
        step = (right - left) / axes.images[0].get_array().shape[1]
        assert abs(right - step / 2 - trace.seconds) <= step
    symbols = [run.text for run in trace.path if run.symbol != trace.blank]
    assert [text.get_text() for text in probabilities.texts] == symbols


def test_the_picture_is_an_svg_with_text(trace):
    content = re.search(r"data:image/svg\+xml;base64,([^\"]+)", steps.picture_html(trace))[1]
    svg = xml.etree.ElementTree.fromstring(base64.b64decode(content))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "seconds" in texts
    assert {run.text for run in trace.path if run.symbol != trace.blank} <= set(texts)


def test_a_model_that_convolves_over_time_alone_is_drawn_too(make_tiny_model, recognizer, clips):
    model = make_tiny_model(conv_type="1d")
    trace = steps.trace_clip(dataclasses.replace(recognizer, model=model), clips[0].waveform)
    assert steps.draw(trace).axes[2].images[0].get_array().shape == (4, trace.convolution.shape[1])


def test_the_beam_is_listed_with_its_scores(trace, recognizer):
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", steps.beam_html(trace))
    assert len(rows) == len(trace.hypotheses) > 1
    scores = np.array([[float(score.replace("−", "-")) for score in row[1:]] for row in rows])
    words = np.array([len(one.text.split()) for one in trace.hypotheses])
    alpha, beta = recognizer.decoder.alpha, recognizer.decoder.beta
    np.testing.assert_allclose(scores[:, 2], scores[:, 0] + alpha * scores[:, 1] + beta * words, atol=0.05)
    assert (np.diff(scores[:, 2]) <= 0).all()


def test_what_is_heard_cannot_become_markup(trace, recognizer):
    best = dataclasses.replace(trace.hypotheses[0], text="<img src=x>")
    html = steps.page_html(recognizer, dataclasses.replace(trace, hypotheses=[best]))
    assert "&lt;img src=x&gt;" in html and "<img src=x>" not in html


@pytest.mark.parametrize("seconds", [0.01, 1.0])
def test_silence_gives_a_page(recognizer, seconds):
    html = steps.page_html(recognizer, steps.trace_clip(recognizer, np.zeros(int(16_000 * seconds), np.float32)))
    assert html.count("<section>") == 4


def test_files_that_cannot_be_shown_are_said_to_be_so(recognizer, tmp_path):
    (tmp_path / "note.wav").write_text("no sound")
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 31), 16_000)
    assert "note.wav is" in app.show({"English": recognizer}, str(tmp_path / "note.wav"), "English")
    assert "long.wav lasts longer than 30 s" in app.show({"English": recognizer}, str(tmp_path / "long.wav"), "English")


# Live.


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_live_pieces_give_the_text_of_the_whole(live_folder, clips, rate):
    live = steps.load(str(live_folder))
    samples = soxr.resample(clips[0].waveform, 16_000, rate)
    samples = (samples * 32_767).astype(np.int16)
    microphone, texts = None, []
    for piece in np.array_split(samples, 7):
        html, microphone = app.feed_microphone(
            lambda: DeepSpeech2Stream(live.model, live.processor, live.decoder), (rate, piece), microphone
        )
        texts.append(re.sub(r"<.*?>", "", html))
    html, rest = app.stop_microphone(microphone)
    assert rest is None and "<i></i>" in html  # nothing is tentative at the end
    assert texts[2] != texts[-1] and len(texts[-1]) > 20
    if rate == 16_000:
        stream = DeepSpeech2Stream(live.model, live.processor, live.decoder)
        stream.feed(samples / np.float32(32_768))
        stream.finish()
        assert re.sub(r"<.*?>", "", html) == app.escape(stream.text.stable)


# What there is no model for.


def test_missing_models_are_named(tmp_path, capsys):
    arguments = [f"--{option}={tmp_path}/{option}" for option in ("english", "mandarin", "live")]
    with pytest.raises(SystemExit, match="No model, no page"):
        app.main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert [f"no {option} model in {tmp_path}/{option} (there is no such folder)" in line
            for option, line in zip(("english", "mandarin", "live"), lines)] == [True] * 3  # fmt: skip


def test_the_page_offers_what_there_is(recognizer, live_folder):
    def parts(page) -> tuple[list, list]:
        components = page.config["components"]
        choices = [one["props"]["choices"] for one in components if one["type"] == "radio"]
        return choices, [one["props"]["label"] for one in components if one["type"] == "tabitem"]

    clips = {"English": [("one", "one.ogg")]}
    assert parts(app.build_page({"English": recognizer}, None, clips)) == ([[("English", "English")]], ["A clip"])
    assert parts(app.build_page({}, steps.load(str(live_folder)), {})) == ([], ["Live"])
    with pytest.raises(ValueError, match="bidirectional"):
        app.build_page({"English": recognizer}, recognizer, clips)


def test_clips_of_both_languages_can_be_picked(tmp_path):
    for language in ("English", "Mandarin"):
        clips = app.write_clips(language, tmp_path)
        assert len(clips) == app.NUM_CLIPS
        assert all(soundfile.info(file).samplerate == 16_000 for _, file in clips)
    assert app.write_clips("Klingon", tmp_path) == []


# In a browser.


@pytest.fixture(scope="module")
def address(tiny_model_with_decoder, live_folder, tmp_path_factory):
    """Of the page, served by a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("page") / "log.txt"
    command = [sys.executable, "app.py", "--english", tiny_model_with_decoder, "--live", live_folder, "--mandarin", "/none"]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None and time.monotonic() < deadline, f"The page did not start:\n{log.read_text()}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        assert "Left out: found no mandarin model in /none" in log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def browser(address, clips, tmp_path_factory):
    """Chromium, which hears a clip where its microphone should be, and finds no host but this one."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    speech = tmp_path_factory.mktemp("microphone") / "speech.wav"
    soundfile.write(speech, np.concatenate([clip.waveform for clip in clips]), 16_000, subtype="PCM_16")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000", "--mute-audio",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={speech}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_page_load_timeout(PATIENCE)
    chrome.set_script_timeout(PATIENCE)
    chrome.get(address)
    try:
        yield chrome
    finally:
        chrome.quit()


def wait(browser, script: str):
    """What a script returns as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := browser.execute_script(script)):
        assert time.monotonic() < deadline, f"Never true on the page: {script}\n{browser.page_source[-3000:]}"
        time.sleep(0.2)
    return found


def test_the_page_opens_with_an_example_worked_out(browser, example_text):
    assert wait(browser, "return document.querySelector('#result .transcript')?.textContent") == example_text
    assert "three thousand four hundred and twenty three" in browser.execute_script(
        "return document.querySelector('#result').textContent"
    )


def test_programs_get_text_and_words(address, encoded_clips, expected_text, tmp_path):
    """By the endpoint that the page names, the only one; a mistake is a sentence."""
    gradio_client = pytest.importorskip("gradio_client")
    (tmp_path / "clip.ogg").write_bytes(encoded_clips[0][1])
    client, clip = gradio_client.Client(address, verbose=False), gradio_client.handle_file(tmp_path / "clip.ogg")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/transcribe"]
    text, found = client.predict(clip, "English", api_name="/transcribe")
    assert text == expected_text == " ".join(word["text"] for word in found["words"])
    assert all(0 <= word["start"] <= word["end"] <= found["seconds"] for word in found["words"])
    with pytest.raises(Exception, match="language|Klingon"):
        client.predict(clip, "Klingon", api_name="/transcribe")


def test_an_uploaded_clip_is_transcribed_in_the_browser(browser, encoded_clips, expected_text, tmp_path):
    (tmp_path / "clip.ogg").write_bytes(encoded_clips[0][1])
    wait(browser, "return document.querySelector('input[type=file]')").send_keys(str(tmp_path / "clip.ogg"))
    shown = "document.querySelector('#result .transcript')?.textContent"
    wait(browser, f"return {shown} === {json.dumps(expected_text)}")
    picture = "const picture = document.querySelector('#result img'); return picture.complete && picture.naturalWidth"
    assert wait(browser, picture) > 700
    assert not browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")


def test_a_word_that_is_clicked_plays_its_piece(browser):
    word = browser.execute_script("return [...document.querySelectorAll('#result [data-start]')].at(-1)")
    start, end = float(word.get_attribute("data-start")), float(word.get_attribute("data-end"))
    assert end - start > 0.01
    browser.execute_script(
        "const sound = document.querySelector('#result audio'); window.played = [];"
        "for (const kind of ['play', 'pause'])"
        "  sound.addEventListener(kind, () => played.push([kind, sound.currentTime]));"
    )
    word.click()
    (first, began), (second, stopped) = wait(browser, "return played.length >= 2 && played")[:2]
    assert (first, second) == ("play", "pause")
    assert began == pytest.approx(start, abs=0.05)  # a busy page learns of it late
    assert stopped >= min(end, start + 0.01)
    assert browser.execute_script("return document.querySelector('#result .playhead').style.left").startswith("calc")


def test_live_text_appears_while_the_microphone_is_on(browser):
    seen = "[...document.querySelectorAll('button')].filter(one => one.checkVisibility())"
    button = f"return {seen}.find(one => one.textContent.includes('{{}}'))"
    trace = "return document.querySelector('#live .transcript')?.textContent"
    tentative = "return document.querySelector('#live .transcript i')?.textContent"
    browser.find_element("xpath", "//button[@role='tab'][contains(., 'Live')]").click()
    wait(browser, button.format("Record"))
    prompt = browser.execute_script(trace)
    wait(browser, button.format("Record")).click()
    # More than one symbol, so that it is not the first one's accident.
    assert wait(
        browser, f"{trace}.length > 10 && document.querySelector('#live .transcript').textContent !== {json.dumps(prompt)}"
    )
    wait(browser, button.format("Stop")).click()
    wait(browser, f"{tentative} === ''")
    assert browser.execute_script(trace).strip()


def test_nothing_is_fetched_from_outside(browser, address):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert len(sent) > 10
    assert [url for url in sent if not url.startswith((address, "data:", "blob:"))] == []
