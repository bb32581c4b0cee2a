"""Long recordings: blocks of any file are the file, logits in pieces are those of one pass or of its chunks, text too."""

import io

import numpy as np
import pytest
import soundfile
import torch

import modeling_deepspeech2.transcription.recordings as recordings
from modeling_deepspeech2 import DeepSpeech2FeatureExtractor, DeepSpeech2Stream
from modeling_deepspeech2.audio import AudioError, audio_seconds, read_audio, read_audio_blocks
from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder, GreedyDecoder
from modeling_deepspeech2.transcription.alignment import align
from modeling_deepspeech2.transcription.recordings import recording_logits, transcribe


RATE = 16_000


@pytest.fixture(scope="module")
def long_waveform(clips) -> np.ndarray:
    return np.concatenate([clip.waveform for clip in clips])


@pytest.mark.parametrize("file_format", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_blocks_are_the_file(long_waveform, tmp_path, file_format, rate):
    """Whatever the size of the blocks, together they are what `read_audio` reads at once, resampled without seams."""
    path = tmp_path / f"speech.{file_format}"
    stereo = np.stack([long_waveform, -0.5 * long_waveform], axis=1)[: 4 * rate]
    soundfile.write(path, stereo, rate)
    expected = read_audio(path, RATE)
    assert audio_seconds(path) == pytest.approx(len(stereo) / rate, abs=0.05)
    for source in (path, path.read_bytes()):
        for seconds in (0.01, 0.7, 60):
            found = np.concatenate(list(read_audio_blocks(source, RATE, seconds)))
            assert len(found) == len(expected)
            assert np.abs(found - expected).max() <= 1e-5


def test_bad_files_say_what_is_wrong(tmp_path, long_waveform, caplog):
    with pytest.raises(FileNotFoundError, match="nowhere.wav"):
        next(read_audio_blocks(tmp_path / "nowhere.wav", RATE, 1))
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(AudioError, match="text.wav"):
        list(read_audio_blocks(tmp_path / "text.wav", RATE, 1))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        list(read_audio_blocks(tmp_path / "empty.wav", RATE, 1))
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        list(read_audio_blocks(tmp_path / "nan.wav", RATE, 1))
    whole = io.BytesIO()
    soundfile.write(whole, long_waveform, RATE, format="wav")
    (tmp_path / "cut.wav").write_bytes(whole.getvalue()[:100_000])
    assert sum(map(len, read_audio_blocks(tmp_path / "cut.wav", RATE, 1))) == (100_000 - 44) // 2
    assert "cut short" in caplog.text


@pytest.mark.parametrize("block", [3_333, 50_000])
def test_unidirectional_model_is_one_pass(long_waveform, processor, make_tiny_model, block, monkeypatch):
    """The state is carried from block to block: no edges, the logits of one pass."""
    monkeypatch.setattr(recordings, "BLOCK_SECONDS", 1.3)
    model = make_tiny_model(bidirectional=False, lookahead=4)
    pieces = [long_waveform[start : start + block] for start in range(0, len(long_waveform), block)]
    found = torch.cat(list(recording_logits(model, processor.feature_extractor, pieces)))
    inputs = processor.feature_extractor(long_waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = model.fold_batch_norm()(**inputs).logits[0]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("samples", [800, 31_999, 32_000, 48_000, 48_001, 200_000])
def test_bidirectional_model_reads_overlapping_chunks(long_waveform, processor, make_tiny_model, samples, monkeypatch):
    """Chunks of two seconds that count, with a second more on both sides: each frame comes from its own chunk."""
    monkeypatch.setattr(recordings, "CHUNK_SECONDS", 2.0)
    monkeypatch.setattr(recordings, "CONTEXT_SECONDS", 1.0)
    monkeypatch.setattr(recordings, "CHUNKS", 3)
    model = make_tiny_model()
    waveform = np.resize(long_waveform, samples)
    found = torch.cat(list(recording_logits(model, processor.feature_extractor, np.array_split(waveform, 7))))
    whole = len(processor.feature_extractor(waveform, sampling_rate=RATE)["input_features"][0])
    assert len(found) == model.output_lengths(whole)
    for start in range(0, samples, 2 * RATE):
        is_last = start + 3 * RATE >= samples
        chunk = waveform[max(0, start - RATE) : samples if is_last else start + 3 * RATE]
        inputs = processor.feature_extractor(chunk, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        first = start // 320
        expected = logits[min(start, RATE) // 320 :][: None if is_last else 100]
        assert (found[first : first + len(expected)] - expected).abs().max() <= 1e-4 * expected.abs().max()
        if is_last:
            assert first + len(expected) == len(found)
            break


def test_away_from_the_edges_chunks_are_the_whole(long_waveform, processor, make_tiny_model):
    """With the context that is used, what is beyond a chunk is forgotten: text and times of one pass over a minute."""
    model, waveform = make_tiny_model(), np.resize(long_waveform, 65 * RATE)
    inputs = processor.feature_extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        (expected,) = GreedyDecoder(processor.tokenizer).decode(model(**inputs).logits[0], 0.02)
    (found,) = transcribe(model, processor, waveform, end_of_utterance=60, longest_utterance=100)
    assert found.text == expected.text
    assert [(one.text, round(one.start, 3), round(one.end, 3)) for one in found.characters] == [
        (one.text, round(one.start, 3), round(one.end, 3)) for one in expected.characters
    ]


def test_features_of_the_utterance_are_those_of_the_chunk(long_waveform, processor, make_tiny_model):
    """A model that normalises by the utterance reads long files, too, and the chunk stands for the utterance."""
    extractor = DeepSpeech2FeatureExtractor(normalization="utterance")
    model = make_tiny_model(bidirectional=False)
    found = torch.cat(list(recording_logits(model, extractor, long_waveform)))
    with torch.no_grad():
        expected = model(**extractor(long_waveform, sampling_rate=RATE, return_tensors="pt")).logits[0]
    assert len(long_waveform) < 40 * RATE and torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("with_beam", [False, True])
def test_file_and_stream_hear_the_same(clips, processor, make_tiny_model, tmp_path, with_beam):
    """A long file and a live stream of it: the same utterances, words and times."""
    model = make_tiny_model(bidirectional=False, lookahead=3)
    decoder = CTCBeamSearchDecoder(processor.tokenizer, beam_width=4) if with_beam else None
    silence = np.zeros(2 * RATE, np.float32)
    waveform = np.concatenate([part for clip in clips[:4] for part in (clip.waveform, silence)])
    soundfile.write(tmp_path / "long.wav", waveform, RATE, subtype="FLOAT")
    stream = DeepSpeech2Stream(model, processor, decoder, end_of_utterance=0.2, longest_utterance=3)
    live = [one for start in range(0, len(waveform), 1_600) for one in stream.feed(waveform[start : start + 1_600])]
    live += stream.finish()
    found = list(transcribe(model, processor, tmp_path / "long.wav", decoder, 0.2, 3))
    assert len(found) > 3 and [one.text for one in found] == [one.text for one in live]
    assert [(word.text, word.start, word.end) for one in found for word in one.words] == [
        (word.text, word.start, word.end) for one in live for word in one.words
    ]


def test_alignment_takes_a_file(clips, processor, make_tiny_model, tmp_path):
    """`align` reads audio of any kind, and finds all of the text in order, within the audio."""
    model = make_tiny_model()
    soundfile.write(tmp_path / "clip.flac", clips[0].waveform, RATE)
    found = align(tmp_path / "clip.flac", clips[0].text, model, processor)
    assert [word.text for word in found.words] == clips[0].text.split()
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= len(clips[0].waveform) / RATE + 0.02
