"""The spectrogram against a plain discrete Fourier transform in float64, and what training and live use rely on."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor


FLOOR = 1e-14


def reference_power(waveform: np.ndarray) -> np.ndarray:
    """|DFT|² of 320 samples around every 160th one under a periodic Hann window, the waveform being zero outside."""
    padded = np.pad(waveform.astype(np.float64), 160)
    starts = range(0, len(waveform) + 1, 160)
    n = np.arange(320)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 320)
    transform = np.exp(-2j * np.pi * np.outer(n, np.arange(161)) / 320)
    return np.abs(np.stack([padded[start : start + 320] * window for start in starts]) @ transform) ** 2


@pytest.fixture(scope="module")
def plain() -> DeepSpeech2FeatureExtractor:
    return DeepSpeech2FeatureExtractor(normalization="none")


@pytest.fixture(scope="module")
def fitted(clips) -> DeepSpeech2FeatureExtractor:
    return DeepSpeech2FeatureExtractor().fit(clip.waveform for clip in clips)


def test_log_power_is_the_dft(plain, clips):
    """Window, hop, centring, power and floor; in float32, with errors that are a share of the frame's loudest bin."""
    for clip in clips[:3]:
        expected = reference_power(clip.waveform)
        found = plain.log_power(clip.waveform)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        found = found.double().numpy()
        loudest = expected.max(1, keepdims=True) + FLOOR
        assert (np.abs(np.exp(found) - FLOOR - expected) / loudest).max() < 5e-6
        audible = expected > 1e-6 * loudest
        assert audible.mean() > 0.5
        np.testing.assert_allclose(found[audible], np.log(expected + FLOOR)[audible], atol=1e-3)


def test_log_power_of_a_tone(plain):
    """A sine of amplitude 0.5 on bin 20: the Hann window sums to 160, so that the peak is (0.5 · 160 / 2)²."""
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    middle = plain.log_power(tone)[50]
    assert middle.argmax() == 20
    assert middle[20].item() == pytest.approx(np.log(40**2), abs=1e-4)


def test_log_power_of_silence(plain):
    """Digital silence is the logarithm of the floor: finite."""
    torch.testing.assert_close(plain.log_power(np.zeros(480)), torch.full((4, 161), float(np.log(FLOOR))))


@settings(max_examples=150)
@given(st.integers(0, 1000))
def test_number_of_frames(samples: int):
    """n samples give ⌊n / 160⌋ + 1 frames and none from none, as `num_frames` says: the training data relies on it."""
    extractor = DeepSpeech2FeatureExtractor(normalization="none")
    expected = samples // 160 + 1 if samples else 0
    assert extractor.num_frames(samples) == expected
    assert extractor.log_power(np.zeros(samples, np.float32)).shape == (expected, 161)


@pytest.mark.parametrize("normalization", ["training_set", "utterance", "none"])
def test_batch_invariance(fitted, clips, normalization):
    """Law 1: an utterance's features are bit for bit the same alone and among longer ones, the rest is padding."""
    extractor = DeepSpeech2FeatureExtractor(
        normalization=normalization, mean=fitted.mean, deviation=fitted.deviation, padding_value=-7.0
    )
    waveforms = [clip.waveform for clip in clips] + [clips[0].waveform[:80], clips[1].waveform[:1000]]
    batch = extractor(waveforms, sampling_rate=16_000, return_tensors="pt")
    assert batch.input_features.shape == (len(waveforms), max(map(len, waveforms)) // 160 + 1, 161)
    assert batch.attention_mask.shape == batch.input_features.shape[:2]
    for waveform, features, mask in zip(waveforms, batch.input_features, batch.attention_mask):
        frames = len(waveform) // 160 + 1
        assert mask.tolist() == [1] * frames + [0] * (len(mask) - frames)
        alone = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        assert torch.equal(features[:frames], alone.input_features[0])
        assert (features[frames:] == -7.0).all()


def test_pieces_equal_the_whole(fitted, clips):
    """Law 3: a piece that starts on a multiple of the hop has the frames of the whole but for its first and last one."""
    waveform = np.concatenate([clip.waveform for clip in clips])
    whole = fitted(waveform, sampling_rate=16_000, return_tensors="pt").input_features[0]
    for first, last in ((0, 100), (57, 93), (200, 203), (300, 1000)):
        piece = fitted(waveform[first * 160 : last * 160], sampling_rate=16_000, return_tensors="pt")
        inside = piece.input_features[0][1:-1]
        assert len(inside) == last - first - 1
        torch.testing.assert_close(inside, whole[first + 1 : last], rtol=0, atol=1e-6)


def test_utterance_normalization_breaks_streaming(clips):
    """The documentation's warning: with "utterance" a piece has other features than the whole."""
    extractor = DeepSpeech2FeatureExtractor(normalization="utterance")
    waveform = clips[0].waveform
    whole, half = extractor([waveform, waveform[: 80 * 160]], sampling_rate=16_000)["input_features"]
    assert np.abs(whole[1:79] - half[1:79]).max() > 0.1


def test_fit_is_the_statistics_of_all_frames(plain, clips):
    """fit() adds up a stream in constant memory; numpy on all frames at once must give the same, to its 5 digits."""
    frames = np.concatenate([plain.log_power(clip.waveform).double().numpy() for clip in clips])
    extractor = DeepSpeech2FeatureExtractor(normalization="none")
    assert extractor.fit(clip.waveform for clip in clips) is extractor
    assert extractor.normalization == "training_set"
    np.testing.assert_allclose(extractor.mean, frames.mean(0), atol=1e-5)
    np.testing.assert_allclose(extractor.deviation, frames.std(0), atol=1e-5)


def test_fit_on_silence_divides_by_no_zero():
    """Digital silence has no deviation; features must stay finite all the same."""
    extractor = DeepSpeech2FeatureExtractor().fit([np.zeros(16_000)])
    assert torch.isfinite(extractor(np.zeros(16_000), return_tensors="pt").input_features).all()


def test_normalizations(plain, fitted, clips):
    """The training set's is (x − mean) / deviation; an utterance's own has mean 0 and deviation 1 in each bin."""
    waveform = clips[0].waveform
    raw = plain.log_power(waveform).double().numpy()
    np.testing.assert_array_equal(plain(waveform)["input_features"][0], plain.log_power(waveform).numpy())
    np.testing.assert_allclose(
        fitted(waveform)["input_features"][0], (raw - fitted.mean) / np.array(fitted.deviation), atol=1e-4
    )
    own = DeepSpeech2FeatureExtractor(normalization="utterance")(waveform)["input_features"][0]
    np.testing.assert_allclose(own.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(own.std(0), 1, atol=1e-3)
    silence = DeepSpeech2FeatureExtractor(normalization="utterance")(np.zeros(1600))["input_features"][0]
    assert np.abs(silence).max() < 0.1


def test_saved_and_loaded(tmp_path, fitted, clips):
    """Law 5: the JSON gives bit-equal features, and holds nothing but numbers and names."""
    fitted.save_pretrained(tmp_path)
    loaded = DeepSpeech2FeatureExtractor.from_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert len(content["mean"]) == len(content["deviation"]) == 161
    first = fitted([clip.waveform for clip in clips], return_tensors="np")
    second = loaded([clip.waveform for clip in clips], return_tensors="np")
    np.testing.assert_array_equal(first["input_features"], second["input_features"])
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == content


def test_channels_are_averaged(plain, clips):
    """Two channels in either layout are one, their average."""
    waveform = clips[0].waveform
    stereo = np.stack([2 * waveform, np.zeros_like(waveform)])
    expected = plain(waveform)["input_features"][0]
    for given_audio in (stereo, stereo.T, [stereo], torch.from_numpy(stereo)):
        found = plain(given_audio)["input_features"]
        assert len(found) == 1
        np.testing.assert_array_equal(found[0], expected)


def test_any_array_of_floats(plain, clips):
    """Lists, tensors, also with a gradient, float64, read-only, byte-swapped and reversed arrays.

    Torch takes the last three only copied.
    """
    waveform = clips[0].waveform
    expected = plain(waveform)["input_features"][0]
    fixed = waveform.copy()
    fixed.flags.writeable = False
    for same in (
        waveform.tolist(), torch.from_numpy(waveform), waveform.astype(np.float64), fixed, waveform.astype(">f4"),
        waveform[::-1].copy()[::-1], torch.from_numpy(waveform.copy()).requires_grad_(),
    ):  # fmt: skip
        np.testing.assert_array_equal(plain(same)["input_features"][0], expected)


def test_input_is_left_alone(plain, clips):
    """The caller's samples are the same afterwards."""
    waveform = clips[0].waveform.copy()
    plain(waveform)
    np.testing.assert_array_equal(waveform, clips[0].waveform)


def test_return_tensors(plain, clips):
    """Tensors or arrays, stacked; or one array each, without padding; padding to a length or to a multiple."""
    waveforms = [clips[0].waveform, clips[1].waveform[:8000]]
    tensors = plain(waveforms, return_tensors="pt")
    arrays = plain(waveforms, return_tensors="np")
    separate = plain(waveforms, padding=False)
    assert isinstance(tensors.input_features, torch.Tensor) and tensors.input_features.dtype == torch.float32
    assert isinstance(arrays.input_features, np.ndarray) and arrays.input_features.dtype == np.float32
    np.testing.assert_array_equal(tensors.input_features.numpy(), arrays.input_features)
    assert [len(features) for features in separate["input_features"]] == [len(clips[0].waveform) // 160 + 1, 51]
    multiple = plain(waveforms, pad_to_multiple_of=64, return_tensors="np")
    assert multiple.input_features.shape[1] % 64 == 0 == multiple.attention_mask.shape[1] % 64
    cut = plain(waveforms, padding="max_length", max_length=60, truncation=True, return_tensors="np")
    assert cut.input_features.shape == (2, 60, 161) and cut.attention_mask.sum(1).tolist() == [60, 51]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: f(np.zeros(800), sampling_rate=8000), "8000 Hz.*expects 16000 Hz"),
        (lambda f: f(np.array([0.0, np.nan])), "not finite"),
        (lambda f: f(np.array([0.0, np.inf])), "not finite"),
        (lambda f: f(np.zeros((2, 2, 80))), r"shape \(samples,\).*\(2, 2, 80\)"),
        (lambda f: f(np.zeros(800, np.uint8)), "floating point.*uint8"),
        (lambda f: f(np.array([0.0, 1e25])), "far beyond full scale"),
        (lambda f: f([]), "no waveform"),
        (lambda f: f((([0.0] * 400, [0.0] * 500),)), "no array of samples"),
        (lambda f: f(torch.zeros(800, dtype=torch.bfloat16)), "no array of samples.*BFloat16"),
        (lambda f: DeepSpeech2FeatureExtractor()(np.zeros(800)), r"fit\(waveforms\)"),
        (lambda f: f.fit([]), "at least one utterance"),
        (lambda f: f.fit([np.zeros(0)]), "at least one utterance"),
        (lambda f: DeepSpeech2FeatureExtractor(feature_size=80), "feature_size must be n_fft / 2 \\+ 1 = 161"),
        (lambda f: DeepSpeech2FeatureExtractor(normalization="global"), "normalization must be one of"),
        (lambda f: DeepSpeech2FeatureExtractor(padding_side="left"), "padding_side must be 'right', but is 'left'"),
        (lambda f: DeepSpeech2FeatureExtractor(mean=[0.0]), "mean needs 161 numbers.*has 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, message):
    """Each mistake is one sentence that says what was found and what is expected."""
    with pytest.raises(ValueError, match=message) as caught:
        call(DeepSpeech2FeatureExtractor(normalization="none"))
    assert "\n" not in str(caught.value)


def test_integers_mean_the_same_as_in_files():
    """Microphones give 16 bits, and so may a caller of the extractor or of a stream."""
    samples = (np.sin(np.arange(8_000) * 0.3) * 20_000).astype(np.int16)
    extractor = DeepSpeech2FeatureExtractor(normalization="utterance")
    assert torch.equal(
        extractor(samples, return_tensors="pt").input_features,
        extractor(samples / np.float32(32_768), return_tensors="pt").input_features,
    )
