"""The page of the server in Chromium: a clip where the microphone would be becomes text."""

import time

import jiwer
import numpy as np
import soundfile
from browser import PATIENCE, chromium


def test_speech_into_the_microphone_becomes_text(server, clips, tmp_path):
    """With the token and over the page's own websocket; what the browser makes of the sound costs some letters."""
    waveform = np.concatenate([np.zeros(8_000, np.float32), clips[1].waveform, np.zeros(24_000, np.float32)])
    soundfile.write(tmp_path / "speech.wav", waveform, 16_000)
    with chromium(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'speech.wav'}%noloop",
    ) as browser:

        def wait_for(script: str) -> str:
            deadline = time.monotonic() + PATIENCE
            while not (found := browser.execute_script(f"return {script}")):
                page = browser.execute_script("return document.body.innerText")
                assert time.monotonic() < deadline, f"Never true on the page: {script}\n{page}"
                time.sleep(0.1)
            return found

        browser.get(server.url)
        browser.find_element("id", "button").click()
        assert "closed" in wait_for("document.getElementById('state').textContent")  # there is a token
        browser.find_element("id", "token").send_keys(server.token)
        browser.find_element("id", "button").click()
        text = wait_for("document.getElementById('final').textContent")
        browser.find_element("id", "button").click()
        wait_for("document.getElementById('button').textContent === 'Start'")
        assert browser.find_element("id", "state").text == ""
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("WebSocket connection" in error or "favicon" in error for error in errors), errors  # without the token
    assert jiwer.cer(clips[1].text, text.strip()) < 0.6  # without a language model, and chance has more than 0.8
