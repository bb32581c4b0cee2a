"""Audio files as people have them, written by soundfile in every common format, and files that are broken."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from modeling_deepspeech2.audio import AudioError, read_audio, to_mono
from modeling_deepspeech2.audio_files import has_last_ogg_page


RATE = 16_000
SECONDS = 0.5
WAVE_FORMATS = {"PCM_U8": 0.02, "PCM_16": 2e-4, "PCM_24": 1e-5, "PCM_32": 1e-5, "FLOAT": 1e-5, "DOUBLE": 1e-5}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def encode(samples: np.ndarray, rate: int, kind: str, subtype: str) -> bytes:
    """`samples`, of shape (samples,) or (samples, channels), as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def tone(hertz: float, rate: int, seconds: float = SECONDS, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def loudness(waveform: np.ndarray, hertz: float) -> float:
    """Amplitude of one frequency in the middle of a waveform at 16 kHz, over a whole number of tenths of a second."""
    middle = waveform[len(waveform) // 2 - 2400 : len(waveform) // 2 + 2400].astype(np.float64)
    return 2 * abs(np.mean(middle * np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / RATE)))


def formats() -> list[tuple[str, str, int, int]]:
    found = []
    for rate in (8000, 11025, 16000, 22050, 44100, 48000):
        for channels in (1, 2, 8):
            found += [("WAV", "PCM_16", rate, channels), ("FLAC", "PCM_16", rate, channels)]
            found += [("OGG", "VORBIS", rate, channels)]
            found += [("OGG", "OPUS", rate, channels)] if rate in OPUS_RATES else []
            found += [("MP3", "MPEG_LAYER_III", rate, channels)] if channels <= 2 else []
    return found + [("WAV", subtype, rate, 2) for subtype in WAVE_FORMATS for rate in (8000, 44100)]


@pytest.mark.parametrize("kind, subtype, rate, channels", formats())
def test_formats_rates_and_channels(kind, subtype, rate, channels):
    """A tone comes back with its length, its pitch and its loudness, and with nothing else in the band of speech.

    The tone is in the first channel alone, so that the average holds it divided by their number.
    """
    samples = np.zeros((round(SECONDS * rate), channels), np.float32)
    samples[:, 0] = tone(1000, rate)
    waveform = read_audio(encode(samples, rate, kind, subtype), RATE)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - SECONDS * RATE) <= 2
    assert loudness(waveform, 1000) == pytest.approx(0.5 / channels, rel=0.1)
    spectrum = np.abs(np.fft.rfft(waveform[1600:-1600] * np.hanning(len(waveform) - 3200)))
    far_off = np.abs(np.fft.rfftfreq(len(waveform) - 3200, 1 / RATE) - 1000) > 100
    assert spectrum[far_off].max() < 0.05 * spectrum.max()


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_folds_nothing_back(rate):
    """What lies above half the new rate goes, instead of coming back as another pitch; what lies below stays."""
    high = 10_000 if rate > RATE else 3000
    samples = tone(1000, rate, amplitude=0.4) + tone(high, rate, amplitude=0.4)
    waveform = read_audio(encode(samples, rate, "WAV", "FLOAT"), RATE)
    assert loudness(waveform, 1000) == pytest.approx(0.4, rel=0.01)
    if rate > RATE:
        assert loudness(waveform, RATE - high) < 1e-3
    else:
        assert loudness(waveform, 3000) == pytest.approx(0.4, rel=0.01)
        assert loudness(waveform, rate - 1000) < 1e-3


@pytest.mark.parametrize("subtype, tolerance", WAVE_FORMATS.items())
def test_wav_samples(clips, subtype, tolerance):
    """Speech at the model's rate passes through untouched, up to the format's own rounding."""
    waveform = read_audio(encode(clips[0].waveform, RATE, "WAV", subtype), RATE)
    np.testing.assert_allclose(waveform, clips[0].waveform, atol=tolerance)


def test_bundled_speech(encoded_clips, clips):
    """The Ogg Opus files of the bundled data set, bit for bit as soundfile gives them."""
    for (name, content), clip in zip(encoded_clips, clips):
        np.testing.assert_array_equal(read_audio(content, RATE, name), clip.waveform)


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS")])
def test_bytes_and_paths_are_one(tmp_path, clips, kind, subtype):
    """The same samples from the content, from a string and from a path, whatever the file is called."""
    content = encode(clips[0].waveform, RATE, kind, subtype)
    path = tmp_path / "人 é speech.dat"
    path.write_bytes(content)
    expected = read_audio(content, RATE)
    np.testing.assert_array_equal(read_audio(path, RATE), expected)
    np.testing.assert_array_equal(read_audio(str(path), RATE), expected)


def test_silence_and_clipping(clips):
    """Neither is an error: silence stays silence, and clipped samples stay as they are."""
    assert not read_audio(encode(np.zeros(8000), RATE, "WAV", "PCM_16"), RATE).any()
    clipped = read_audio(encode(np.clip(50 * clips[0].waveform, -1, 1), RATE, "WAV", "PCM_16"), RATE)
    assert np.abs(clipped).max() == pytest.approx(1, abs=1e-4) and len(clipped) == len(clips[0].waveform)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_five_milliseconds(rate, kind, subtype):
    """Less than one window is still audio."""
    waveform = read_audio(encode(tone(1000, rate, 0.005), rate, kind, subtype), RATE)
    assert abs(len(waveform) - 80) <= 1


def test_few_samples_in_many_channels():
    """A file's channels are known, even where it has more of them than samples."""
    samples = np.repeat([[0.1], [0.2], [0.3]], 8, axis=1)
    np.testing.assert_allclose(read_audio(encode(samples, RATE, "WAV", "FLOAT"), RATE), [0.1, 0.2, 0.3])


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", "VORBIS")])
def test_no_samples(tmp_path, kind, subtype):
    """A file with a header alone is refused for that reason."""
    path = tmp_path / "nothing.dat"
    path.write_bytes(encode(np.zeros(0), RATE, kind, subtype))
    with pytest.raises(AudioError, match="nothing.dat holds no samples"):
        read_audio(path, RATE)


def test_less_than_one_sample_at_the_new_rate():
    """One sample at 48 kHz is none at 16 kHz: said, not passed on as an empty array."""
    with pytest.raises(AudioError, match="shorter than one sample"):
        read_audio(encode(np.ones(1), 48_000, "WAV", "PCM_16"), RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(tmp_path, clips, bad):
    """A float wav can hold NaN; one such sample would poison the whole transcript."""
    samples = clips[0].waveform.copy()
    samples[1000] = bad
    path = tmp_path / "poisoned.wav"
    path.write_bytes(encode(samples, RATE, "WAV", "FLOAT"))
    with pytest.raises(AudioError, match="poisoned.wav holds samples that are not finite"):
        read_audio(path, RATE)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(
    "kind, subtype",
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
     ("MP3", "MPEG_LAYER_III")],
)  # fmt: skip
def test_cut_short(tmp_path, clips, caplog, kind, subtype, share):
    """Law 6: a file that ends too early gives what it holds with a warning, or a refusal; both name it, never neither."""
    samples = np.concatenate([clip.waveform for clip in clips])
    content = encode(samples, RATE, kind, subtype)
    path = tmp_path / "cut.dat"
    path.write_bytes(content[: int(share * len(content))])
    try:
        waveform = read_audio(path, RATE)
    except AudioError as error:
        assert "cut.dat" in str(error) and not caplog.records
        return
    assert 0 < len(waveform) < len(samples)
    (warning,) = caplog.records
    assert "cut.dat is cut short" in warning.message and f"{len(waveform) / RATE:.2f} s" in warning.message
    if kind == "WAV":  # what is there is right
        np.testing.assert_allclose(waveform, samples[: len(waveform)], atol=1e-4)


@pytest.mark.parametrize("kind, subtype, rate, channels", formats())
def test_whole_files_raise_no_alarm(caplog, kind, subtype, rate, channels):
    """The warning about files that are cut short is for those alone."""
    read_audio(encode(np.tile(tone(1000, rate)[:, None], channels), rate, kind, subtype), RATE)
    assert not caplog.records


@pytest.mark.parametrize("milliseconds", [150, 450, 850])
@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_whole_short_ogg_files_raise_no_alarm(tmp_path, caplog, milliseconds, subtype):
    """Clips of one page, as of spoken digits; whole with their end's mark, cut short with any other last page."""
    path = tmp_path / "digit.ogg"
    content = encode(tone(1000, RATE)[: RATE * milliseconds // 1000], RATE, "OGG", subtype)
    path.write_bytes(content)
    read_audio(path, RATE)
    assert not caplog.records
    last = content.rfind(b"OggS")
    assert content[last + 5] & 4
    for broken in (content[: last + 5] + b"\0" + content[last + 6 :], content[:-1], content[:last], b""):
        assert not has_last_ogg_page(io.BytesIO(broken))


def test_wav_from_a_pipe(clips, caplog):
    """Who writes a wav to a pipe does not know its length and declares the largest one: nothing is missing there."""
    content = bytearray(encode(clips[0].waveform, RATE, "WAV", "PCM_16"))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert content[36:40] == b"data"
    assert len(read_audio(bytes(content), RATE)) == len(clips[0].waveform)
    assert not caplog.records


@pytest.mark.parametrize("content", [b"These are words, not sounds.\n" * 100, bytes(10_000)])
def test_not_audio(tmp_path, monkeypatch, content):
    """No file of sound: one sentence with the file's name and the formats; here as on a machine without ffmpeg."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "words.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="words.wav is damaged, or in no audio format.*ffmpeg") as caught:
        read_audio(path, RATE)
    assert "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="from the data set"):
        read_audio(content, RATE, name="from the data set")


def test_empty_file(tmp_path):
    """No byte at all has its own sentence: an upload or a copy that failed."""
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="empty.wav is empty"):
        read_audio(tmp_path / "empty.wav", RATE)


def test_missing_file(tmp_path):
    """A path that leads nowhere is a missing file, and no bad audio."""
    with pytest.raises(FileNotFoundError, match="There is no audio file .*nowhere.wav"):
        read_audio(tmp_path / "nowhere.wav", RATE)


@pytest.mark.parametrize("rate", [0, -16_000, 16, float("nan"), float("inf"), "16000", None])
def test_impossible_rates(rate):
    """Zero, negative, in kilohertz, infinite (which soxr never returns from) or no number at all."""
    with pytest.raises(AudioError, match="sampling rate of song.wav must be at least 1000 hertz"):
        to_mono(np.zeros(800), rate, RATE, name="song.wav")


@pytest.mark.parametrize("rate", [np.int64(48_000), np.float32(48_000), 48_000.0])
def test_rates_of_any_number_type(rate):
    """numpy's numbers are rates too."""
    samples = tone(1000, 48_000)
    np.testing.assert_array_equal(to_mono(samples, rate, RATE), soxr.resample(samples, 48_000, RATE))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4"])
def test_integer_samples_are_scaled(clips, dtype):
    """Arrays of 16 or 32 bits, as scipy reads wav files, mean the same as the floats in [-1, 1]."""
    scale = 2.0 ** (8 * np.dtype(dtype).itemsize - 1)
    integers = np.round(clips[0].waveform.astype(np.float64) * scale).clip(-scale, scale - 1).astype(dtype)
    waveform = to_mono(integers, RATE, RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, clips[0].waveform, atol=2e-5)


def test_array_layouts(clips):
    """(channels, samples) and (samples, channels) both become the average."""
    stereo = np.stack([clips[0].waveform, -0.5 * clips[0].waveform])
    for layout in (stereo, stereo.T, stereo.astype(np.float64)):
        np.testing.assert_allclose(to_mono(layout, RATE, RATE), 0.25 * clips[0].waveform, atol=1e-6)


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.zeros(0), "holds no samples"),
        (np.zeros((1, 0)), "holds no samples"),
        (np.zeros((0, 2)), "holds no samples"),
        (np.zeros((2, 2, 80)), r"\(channels, samples\), but has \(2, 2, 80\)"),
        (np.float32(0), r"but has \(\)"),
        (np.zeros(80, np.uint8), "floating point.*uint8"),
        (np.zeros(80, np.int64), "floating point.*int64"),
        (np.array(["speech.wav"]), "floating point.*<U10"),
        (np.array([None, 0.5]), "floating point.*object"),
        (np.full(80, np.nan), "not finite"),
    ],
)
def test_arrays_without_usable_samples(samples, message):
    """Each is refused with its reason, before it can become a transcript."""
    with pytest.raises(AudioError, match=message):
        to_mono(samples, RATE, RATE)
