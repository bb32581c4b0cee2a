"""Augmentation does what it says, and the same to the same utterance in the same epoch."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch

from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.augmentation import CODECS, Augmentation, add_noise, noise_recordings, through_codec
from modeling_deepspeech2.data.loader import JOINED_SECONDS, Collator
from modeling_deepspeech2.data.rooms import in_room, room_response
from modeling_deepspeech2.data.sources import DataError, Utterance


RATE = 16_000


def speech(seconds: float = 1.0) -> np.ndarray:
    """Noise under a slow envelope, like syllables."""
    rng = np.random.default_rng(0)
    time = np.arange(int(RATE * seconds)) / RATE
    return (0.1 * rng.standard_normal(len(time)) * np.sin(8 * time) ** 2).astype(np.float32)


@pytest.mark.parametrize("decibels", [0.0, 13.0, 30.0])
def test_noise_is_as_loud_as_asked(decibels):
    waveform, noise = speech(), np.random.default_rng(1).standard_normal(RATE)
    added = add_noise(waveform, noise, decibels).astype(np.float64) - waveform
    assert 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)) / np.mean(added**2)) == pytest.approx(
        decibels, abs=0.01
    )
    silence = np.zeros(RATE, np.float32)
    assert np.array_equal(add_noise(silence, noise, decibels), silence)


SETTINGS = {
    "speed": {"speed_perturbation": 0.1},
    "gain": {"gain": 10.0},
    "noise": {"noise_share": 1.0},
    "room": {"room_share": 1.0},
    "codec": {"codec_share": 1.0},
    "everything": {"speed_perturbation": 0.1, "gain": 10.0, "noise_share": 0.5, "room_share": 0.5, "codec_share": 0.5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_randomness_is_that_of_seed_epoch_and_name(settings):
    def heard(seed: int = 0, epoch: int = 0, name: str = "clip") -> np.ndarray:
        augmentation = Augmentation(**settings, seed=seed, epoch=epoch)
        return augmentation.change(speech(), RATE, augmentation.generator(name))

    first = heard()
    assert first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, heard())
    others = [heard(name=f"clip {i}") for i in range(20)] + [heard(seed=1), heard(epoch=1)]
    assert any(len(other) != len(first) or not np.array_equal(other, first) for other in others[-2:])
    assert sum(len(other) == len(first) and np.array_equal(other, first) for other in others) < len(others) / 2


def test_the_share_of_noisy_utterances():
    augmentation = Augmentation(noise_share=0.4)
    waveform = speech(0.1)
    noisy = [
        not np.array_equal(augmentation.change(waveform, RATE, augmentation.generator(f"clip {i}")), waveform)
        for i in range(500)
    ]
    assert 0.33 < np.mean(noisy) < 0.47


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec[1])
def test_codecs_keep_length_and_time_and_lose_the_top(codec):
    waveform = speech(1.5) * 12  # beyond full scale: loud speech is not cut
    decoded = through_codec(waveform, RATE, *codec)
    assert decoded.shape == waveform.shape and decoded.dtype == np.float32
    envelope = [np.abs(signal).reshape(-1, 800).mean(1) for signal in (waveform, decoded)]
    assert np.corrcoef(*envelope)[0, 1] > 0.9
    spectrum = np.abs(np.fft.rfft(decoded)) ** 2
    top = spectrum[int(4_200 * 1.5) :].sum() / spectrum.sum()
    assert top < 0.01 if codec[2] == 8_000 else top > 0.1


def test_noise_comes_from_the_folder(tmp_path):
    tone = np.sin(2 * np.pi * 1_000 * np.arange(RATE // 2) / RATE).astype(np.float32)
    (tmp_path / "indoors").mkdir()
    soundfile.write(tmp_path / "indoors" / "tone.flac", tone, RATE)
    (tmp_path / "broken.wav").write_bytes(b"not a recording")
    recordings, unreadable = noise_recordings(str(tmp_path))
    assert [Path(name).name for name in unreadable] == ["broken.wav"]
    augmentation = Augmentation(noise_share=1.0, noise=recordings)
    waveform = speech()
    added = augmentation.change(waveform, RATE, augmentation.generator("clip")) - waveform
    assert np.abs(np.fft.rfft(added)).argmax() == pytest.approx(1_000, abs=3)


def test_noise_comes_from_a_data_set(tmp_path):
    tone = io.BytesIO()
    soundfile.write(tone, np.sin(2 * np.pi * 1_000 * np.arange(RATE // 2) / RATE).astype(np.float32), RATE, format="FLAC")
    table = pyarrow.table({"audio": [{"bytes": tone.getvalue(), "path": None}, {"bytes": b"no sound", "path": "b.wav"}]})
    pyarrow.parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    recordings, unreadable = noise_recordings(f"{tmp_path}::train")
    assert recordings[0]["bytes"] == tone.getvalue() and unreadable == ["b.wav"]


def test_a_folder_without_noise_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no recording of noise"):
        noise_recordings(str(tmp_path))


@pytest.mark.parametrize("samples", [0, 1, 2, 100])
def test_a_click_passes_through_everything(samples):
    """What is too short to resample or to code must not end a run."""
    augmentation = Augmentation(0.1, 6.0, noise_share=1.0, room_share=1.0, codec_share=1.0)
    assert len(augmentation.change(np.ones(samples, np.float32), RATE, augmentation.generator("click"))) == samples


def test_masks_hide_bands_and_stretches_alone():
    augmentation = Augmentation(spec_augment=1.0)
    features = torch.ones(200, 161)
    masked = augmentation.mask(features, augmentation.generator("clip"))
    assert features.min() == 1 and 0 < (masked == 0).float().mean() < 0.5
    assert set(masked.unique().tolist()) == {0.0, 1.0}


def test_silence_goes_before_and_after_the_speech():
    augmentation = Augmentation(silence_share=1.0)
    padded = [augmentation.change(speech(), RATE, augmentation.generator(f"clip {i}")) for i in range(40)]
    assert all(RATE <= len(waveform) <= 3 * RATE for waveform in padded)
    assert max(map(len, padded)) > 2 * RATE
    edges = [np.abs(waveform[:200]).max() for waveform in padded]
    assert 0 < sum(edge == 0 for edge in edges) < 30  # digital zero in some, noise in the others
    assert max(edges) < 0.1


def test_noise_that_breaks_while_it_is_decoded_costs_no_utterance(tmp_path, caplog):
    """Its header was whole when the run began; generated noise takes its place, and the file is named once."""
    file = tmp_path / "rain.flac"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    [noise], _ = noise_recordings(str(tmp_path))
    file.unlink()
    augmentation = Augmentation(noise_share=1.0, noise=[noise])
    changed = [augmentation.change(speech(), RATE, augmentation.generator("clip")) for _ in range(2)]
    assert np.array_equal(*changed) and not np.array_equal(changed[0], speech())


@pytest.mark.parametrize("seed", range(5))
def test_a_room_begins_with_the_direct_sound_and_its_echoes_die_away(seed):
    response = room_response(RATE, np.random.default_rng(seed))
    assert np.sum(np.square(response)) == pytest.approx(1)
    assert abs(response[0]) > 0.5 * np.abs(response).max()
    parts = [np.sum(np.square(part)) for part in np.array_split(response, 4)]
    assert parts[0] > 10 * parts[-1] and len(response) < RATE
    waveform = speech().astype(np.float64)
    heard = in_room(waveform.astype(np.float32), response)
    assert heard.dtype == np.float32 and np.allclose(heard, np.convolve(waveform, response)[: len(waveform)], atol=1e-5)


def spoken(lengths: list[float], texts: list[str]) -> list[Utterance]:
    """Tones, each of its own pitch."""
    utterances = []
    for number, (seconds, text) in enumerate(zip(lengths, texts)):
        file = io.BytesIO()
        tone = 0.1 * np.sin(2 * np.pi * (500 + 500 * number) * np.arange(int(seconds * RATE)) / RATE)
        soundfile.write(file, tone, RATE, format="FLAC")
        utterances.append(Utterance(f"clip {number}", {"bytes": file.getvalue(), "path": None}, text))
    return utterances


def test_two_clips_end_to_end_are_one_utterance(processor, make_tiny_model):
    """A third clip without a partner stays; nothing of audio or text is lost."""
    collate = Collator(processor, make_tiny_model().config, augmentation=Augmentation(join_share=1.0))
    batch = spoken([1.0, 1.5, 1.2], ["one", "two", "three"])
    joined = collate(batch)
    assert joined["names"] == ["clip 0 + clip 1", "clip 2"] and joined["texts"] == ["one two", "three"]
    assert joined["seconds"] == pytest.approx(3.7)
    assert joined["attention_mask"].sum(1).tolist() == [
        processor.feature_extractor.num_frames(int(seconds * RATE)) for seconds in (2.5, 1.2)
    ]
    assert joined["labels"][0][: len("one two")].tolist() == processor.tokenizer("one two")["input_ids"]
    whole = np.concatenate([read_waveform(utterance.audio, RATE, utterance.name) for utterance in batch[:2]])
    features = processor.feature_extractor.normalize(processor.feature_extractor.log_power(whole))
    assert torch.equal(joined["input_features"][0], features)


def test_clips_that_would_be_too_long_or_do_not_fit_are_not_joined(processor, make_tiny_model):
    config, augmentation = make_tiny_model().config, Augmentation(join_share=1.0)
    long = spoken([JOINED_SECONDS / 2 + 0.1, 1.0], ["one", "two"])
    assert Collator(processor, config, augmentation=augmentation)(long)["names"] == ["clip 0", "clip 1"]
    short = spoken([1.0, 0.9], ["one", "two"])
    assert Collator(processor, config, max_seconds=1.5, augmentation=augmentation)(short)["names"] == ["clip 0", "clip 1"]
    impossible = spoken([0.2, 0.2], ["one", "two" * 50])
    batch = Collator(processor, config, augmentation=augmentation)(impossible)
    assert [name for name, _ in batch["skipped"]] == ["clip 0", "clip 1"] and batch["names"] == []


def test_the_share_of_joined_batches_is_the_same_in_a_resumed_run():
    augmentation = Augmentation(join_share=0.3)
    joins = [augmentation.joins([f"clip {i}", f"clip {i + 1}"]) for i in range(500)]
    assert 0.23 < np.mean(joins) < 0.37
    assert joins == [Augmentation(join_share=0.3).joins([f"clip {i}", f"clip {i + 1}"]) for i in range(500)]
