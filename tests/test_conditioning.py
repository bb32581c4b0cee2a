"""Silence around speech and the level of a recording change nothing that is recognised, whatever the road."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2 import DeepSpeech2Pipeline, DeepSpeech2Stream, transcribe
from modeling_deepspeech2.conditioning import TARGET_LEVEL, USUAL_LEVEL, Conditioner, condition


RATE = 16_000


def silence(kind: str, seconds: float = 0.5, seed: int = 0) -> np.ndarray:
    rng, samples = np.random.default_rng(seed), round(seconds * RATE)
    if kind == "digital zero":
        return np.zeros(samples, np.float32)
    if kind == "16-bit dither":
        return (rng.integers(-1, 2, samples) / 32_768).astype(np.float32)
    if kind == "tone":
        return (0.002 * np.sin(2 * np.pi * 440 * np.arange(samples) / RATE)).astype(np.float32)
    if kind == "zero, then noise":
        return np.concatenate([silence("digital zero", 0.1), silence("-60 dBFS", seconds - 0.1)])
    return (10 ** (float(kind.split()[0]) / 20) * rng.standard_normal(samples)).astype(np.float32)


KINDS = ("digital zero", "16-bit dither", "tone", "zero, then noise", "-90 dBFS", "-65 dBFS", "-50 dBFS")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_silence_before_and_after_speech_is_taken_off(clips, kind, seconds):
    """To within 30 ms, and nothing of the speech is lost but what the silence covers."""
    around = silence(kind, seconds)
    for clip in clips[:4]:
        speech, before, after = condition(np.concatenate([around, clip.waveform, around]), RATE, is_whole=True)
        quiet = np.flatnonzero(np.abs(clip.waveform) > 0.01)
        assert len(around) - 0.03 * RATE <= before <= len(around) + quiet[0]
        assert len(around) - 0.03 * RATE <= after <= len(around) + len(clip.waveform) - quiet[-1]
        assert len(speech) == 2 * len(around) + len(clip.waveform) - before - after


def test_speech_as_it_is_stays_as_it_is(clips):
    """The bundled clips, whose pauses are those of a room, pass bit for bit."""
    for clip in clips:
        samples, before, after = condition(clip.waveform, RATE, is_whole=True)
        assert np.array_equal(samples, clip.waveform) and before == after == 0


@pytest.mark.parametrize("decibels", [-20, -30, -40, -50])
def test_quiet_speech_is_brought_to_the_usual_level(clips, decibels):
    for clip in clips[:4]:
        quiet = clip.waveform * np.float32(10 ** (decibels / 20))
        samples, before, _ = condition(quiet, RATE)
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float64)
        loudest = 10 * np.log10(np.square(frames).mean(1).max())
        assert loudest >= USUAL_LEVEL and abs(loudest - TARGET_LEVEL) <= 14
        assert np.corrcoef(samples, clip.waveform[before:])[0, 1] > 0.95


def test_a_recording_that_begins_softly_is_not_amplified(clips):
    """Seconds of soft speech, then the usual level: a file is judged by both, and passes bit for bit."""
    waveform = np.concatenate([clips[0].waveform * np.float32(0.02), clips[1].waveform])
    samples, before, _ = condition(waveform, RATE, is_whole=True)
    assert np.array_equal(samples, waveform[before:])


def test_a_loud_voice_after_a_quiet_one_is_not_amplified(clips):
    loud = 0.5 * clips[1].waveform / np.abs(clips[1].waveform).max()
    samples, _, _ = condition(np.concatenate([clips[0].waveform * np.float32(0.003), loud]), RATE)
    assert np.abs(samples).max() < 2 and np.allclose(samples[-10_000:], loud[-10_000:])


@pytest.mark.parametrize("place", [0.7, 1.5, 2.345])
@pytest.mark.parametrize("milliseconds", [0.1, 1, 8])
def test_a_click_changes_no_level(clips, place, milliseconds):
    """Of a switch or a dropped pen in a quiet recording, or in the silence before it."""
    quiet = np.concatenate([silence("-65 dBFS", 1.0), clips[0].waveform[:40_000] * np.float32(0.01)])
    clicked = quiet.copy()
    clicked[round(place * RATE) :][: max(1, round(milliseconds * RATE / 1_000))] = 0.9
    (expected, before, _), (found, clicked_before, _) = condition(quiet, RATE), condition(clicked, RATE)
    assert before == clicked_before and len(found) == len(expected)
    elsewhere = clicked[before:] == quiet[before:]
    np.testing.assert_allclose(found[elsewhere], expected[elsewhere], rtol=0.15)  # a frame's level moves by 1 dB at most


@pytest.mark.parametrize("kind", ["digital zero", "-60 dBFS", "tone"])
def test_silence_alone_is_not_amplified(kind):
    samples, before, _ = condition(silence(kind, 4.0), RATE, is_whole=True)
    assert len(samples) == 0 and before == 4 * RATE


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 9_000), min_size=1, max_size=40),
    st.sampled_from([0.0, -25.0, -40.0]),
    st.sampled_from([None, *KINDS]),
    st.booleans(),
)
def test_pieces_of_any_size_give_the_same_samples(clips, sizes, decibels, kind, is_whole):
    """Live streams and files are conditioned alike."""
    waveform = np.concatenate([silence(kind or "digital zero", 0.4 * (kind is not None)), clips[3].waveform[:40_000]])
    waveform *= np.float32(10 ** (decibels / 20))
    conditioner, found, place = Conditioner(RATE, is_whole), [], 0
    for size in sizes:
        found.append(conditioner(waveform[place : place + size]))
        place += size
    found += [conditioner(waveform[place:]), conditioner(last=True)]
    whole = Conditioner(RATE, is_whole)
    expected = whole(waveform, last=True)
    before = whole.skipped
    assert np.array_equal(np.concatenate(found), expected) and conditioner.skipped == before


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("kind", ["digital zero", "-65 dBFS"])
def test_no_road_is_worse_on_a_padded_clip(make_tiny_model, processor, clips, is_live, kind):
    """Pipeline, command and stream give the text of the clip alone, with times counted from the recording's beginning."""
    model = make_tiny_model(**({"bidirectional": False, "lookahead": 3} if is_live else {}))
    pipeline = DeepSpeech2Pipeline(
        model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor, decoder=None
    )
    clip, around = clips[1].waveform.copy(), silence(kind, 1.0)
    clip[:400] = 0.1 * np.sign(np.sin(np.arange(1, 401)))  # a hard beginning and end, so that both cuts are the same
    clip[-400:] = clip[:400]
    padded = np.concatenate([around, clip] if is_live else [around, clip, around])
    alone, found = (pipeline(audio, return_timestamps="char") for audio in (clip, padded))
    if kind == "digital zero":
        assert found["text"] == alone["text"] != ""
        assert found["chunks"][0]["timestamp"][0] == pytest.approx(1 + alone["chunks"][0]["timestamp"][0], abs=0.03)
    texts = [pipeline.tokenizer.utterance_separator.join(one.text for one in transcribe(model, processor, padded))]
    if is_live:
        stream = DeepSpeech2Stream(model, processor)
        for piece in np.array_split(padded, 11):
            stream.feed(piece)
        stream.finish()
        texts.append(str(stream.text))
    assert set(texts) == {found["text"]}


def test_a_recording_of_silence_says_nothing(make_tiny_model, processor):
    """The random model would find letters in it."""
    model = make_tiny_model()
    pipeline = DeepSpeech2Pipeline(
        model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor, decoder=None
    )
    for kind in ("digital zero", "-60 dBFS"):
        assert pipeline(silence(kind, 2.0))["text"] == ""
        assert pipeline([silence(kind, 2.0)] * 2, batch_size=2)[1]["text"] == ""
        assert list(transcribe(model, processor, silence(kind, 2.0))) == []
