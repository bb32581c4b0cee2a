"""`pipeline("automatic-speech-recognition")` as people use it: any input, any batch, any length, times, and bad audio."""

import http.server
import json
import threading
from functools import partial

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    pipeline,
)

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Pipeline


RATE = 16_000
FRAME = 0.02  # seconds of an output frame: the hop of 10 ms, and a stride of 2
TASK = "automatic-speech-recognition"


@pytest.fixture(scope="module")
def recognizer(tiny_model_folder) -> DeepSpeech2Pipeline:
    return pipeline(TASK, model=tiny_model_folder)


@pytest.fixture(scope="module")
def uneven(clips) -> list[np.ndarray]:
    """Eleven waveforms from 5 ms to 15 s, so that a batch of eight is mostly padding."""
    long = np.concatenate([clip.waveform for clip in clips])
    lengths = [80, long.size, 4000, 1, 50_000, 16_000, 161, 33_333, 100_000, 8000, 12_345]
    return [long[1000 : 1000 + length] for length in lengths]


def symbols(result: dict, first: float = 0.0, last: float = np.inf) -> list[tuple]:
    """(character, start, end) of what lies between two times, in seconds."""
    chunks = [(chunk["text"], *np.round(chunk["timestamp"], 4).tolist()) for chunk in result["chunks"]]
    return [chunk for chunk in chunks if first <= chunk[1] and chunk[2] <= last]


def test_pipeline_is_ours(recognizer, clips):
    """The folder, the package imported, and one plain call; the random model's transcripts say something."""
    assert type(recognizer) is DeepSpeech2Pipeline
    assert type(recognizer.model) is DeepSpeech2ForCTC and not recognizer.model.training
    texts = [recognizer(clip.waveform)["text"] for clip in clips]
    assert all(len(text) > 15 for text in texts) and len(set(texts)) == len(texts)


def test_other_models_keep_the_stock_pipeline(tmp_path):
    """Importing this package changes nothing for a Wav2Vec2 model."""
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}))
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(symbols), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(10, 4), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))).save_pretrained(
        tmp_path
    )
    recognizer = pipeline(TASK, model=tmp_path)
    assert type(recognizer) is AutomaticSpeechRecognitionPipeline
    assert isinstance(recognizer(np.zeros(8000, np.float32))["text"], str)


def test_stock_pipeline_class(recognizer, tiny_model_folder, clips):
    """transformers' own class runs the model too: the same text and times on an array at the model's rate."""
    stock = pipeline(TASK, model=tiny_model_folder, pipeline_class=AutomaticSpeechRecognitionPipeline)
    assert type(stock) is AutomaticSpeechRecognitionPipeline
    for clip in clips[:3]:
        expected, found = (one(clip.waveform, return_timestamps="char") for one in (stock, recognizer))
        assert found["text"] == expected["text"]
        assert [chunk["text"] for chunk in found["chunks"]] == [chunk["text"] for chunk in expected["chunks"]]
        times = [[chunk["timestamp"] for chunk in one["chunks"]] for one in (found, expected)]
        np.testing.assert_allclose(*times, rtol=0, atol=1e-9)
    chunked = partial(recognizer, chunk_length_s=1), partial(stock, chunk_length_s=1)
    assert chunked[0](clips[3].waveform) == chunked[1](clips[3].waveform)


def test_every_kind_of_input_at_the_models_rate(recognizer, tmp_path, clips, encoded_clips):
    """A path, a string, bytes, arrays, tensors and every dict of `datasets`: one text, that of the samples."""
    name, content = encoded_clips[0]
    waveform = clips[0].waveform
    path = tmp_path / name
    path.write_bytes(content)
    expected = recognizer(waveform)
    assert expected["text"]
    inputs = {
        "path": path,
        "string": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "float64": waveform.astype(np.float64),
        "16 bit": np.round(waveform.astype(np.float64) * 2**15).astype(np.int16),
        "tensor": torch.from_numpy(waveform),
        "stereo": np.stack([waveform, waveform]),
        "stereo, samples first": np.stack([waveform] * 8, axis=1),
        "array": {"array": waveform, "sampling_rate": RATE},
        "array and path": {"array": waveform, "sampling_rate": RATE, "path": None},
        "raw": {"raw": waveform, "sampling_rate": RATE},
        "undecoded": {"bytes": content, "path": name},
        "undecoded, no name": {"bytes": content, "path": None},
        "undecoded, on the disk": {"bytes": None, "path": str(path)},
    }
    # 16-bit Opus output is exact in 16 bits, up to rounding that the text must survive too.
    assert {kind: recognizer(audio) for kind, audio in inputs.items()} == dict.fromkeys(inputs, expected)
    assert recognizer(list(inputs.values())) == [expected] * len(inputs)


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_every_kind_of_input_at_another_rate(recognizer, tmp_path, clips, rate):
    """Whatever brings its own rate is resampled in one way."""
    waveform = soxr.resample(clips[1].waveform, RATE, rate)
    path = tmp_path / "speech.wav"
    soundfile.write(path, waveform, rate, subtype="FLOAT")
    expected = recognizer(soxr.resample(waveform, rate, RATE))
    assert expected["text"]
    for audio in (
        str(path),
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "speech.wav"},
        {"raw": waveform, "sampling_rate": rate},
        {"array": waveform, "sampling_rate": rate},
        {"array": torch.from_numpy(waveform), "sampling_rate": rate},
    ):
        assert recognizer(audio) == expected
    assert recognizer(waveform) != expected  # an array alone is taken at the model's rate


def test_caller_keeps_the_dict(recognizer, clips):
    """The stock pipeline empties the dict that it is given; a row of a data set must survive a call."""
    audio = {"array": clips[0].waveform, "sampling_rate": RATE, "path": None}
    first = recognizer(audio)
    assert set(audio) == {"array", "sampling_rate", "path"}
    assert recognizer(audio) == first


def test_other_columns_come_along(recognizer, clips):
    """What else stands in the dict is handed on, as in the stock pipeline."""
    result = recognizer({"array": clips[0].waveform, "sampling_rate": RATE, "id": "utterance 7"})
    expected = {"text": recognizer(clips[0].waveform)["text"], "id": ["utterance 7"]}
    assert result == expected
    # Unlike there, a reference beside the audio does not take the place of what was recognised.
    row = {"array": clips[0].waveform, "sampling_rate": RATE, "id": "utterance 7", "text": clips[0].text}
    assert recognizer([row, row], batch_size=2) == [expected] * 2


def test_address(recognizer, tmp_path, clips, encoded_clips):
    """An http address is fetched; a bad one is an error, and not the transcript of an error page."""
    (tmp_path / "speech.ogg").write_bytes(encoded_clips[0][1])
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert recognizer(f"{address}/speech.ogg") == recognizer(clips[0].waveform)
        with pytest.raises(Exception, match="404"):
            recognizer(f"{address}/missing.ogg")
        server.shutdown()


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """Equal texts and times; confidences differ by what the last bit of a logit does."""

    def parts(results: list[dict]) -> tuple[list, list]:
        chunks = [chunk for one in results for chunk in one["chunks"]]
        texts = [one["text"] for one in results] + [(chunk["text"], chunk["timestamp"]) for chunk in chunks]
        return texts, [chunk["confidence"] for chunk in chunks]

    (texts, confidences), (expected_texts, expected_confidences) = parts(found), parts(expected)
    assert texts == expected_texts
    np.testing.assert_allclose(confidences, expected_confidences, atol=1e-4)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_batches_give_what_single_calls_give(recognizer, uneven, unit):
    """Law 1: batches of eight, mostly padding, give exactly what single calls give, text and times."""
    single = [recognizer(waveform, return_timestamps=unit) for waveform in uneven]
    assert sum(len(result["text"]) for result in single) > 500
    assert_same(recognizer(list(uneven), batch_size=8, return_timestamps=unit), single)
    stream = (waveform for waveform in uneven)
    assert_same(list(recognizer(stream, batch_size=8, return_timestamps=unit)), single)


def test_logits_and_padding(recognizer, uneven):
    """Law 1 below the text: logits within 1e-5 of the largest, with and without padding; padded output frames are blank."""
    model, extractor = recognizer.model, recognizer.feature_extractor
    batch = extractor(uneven, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        for waveform, together in zip(uneven, logits):
            alone = model(**extractor(waveform, sampling_rate=RATE, return_tensors="pt")).logits[0]
            assert len(alone) == len(waveform) // 320 + 1
            assert (together[: len(alone)] - alone).abs().max() <= 1e-5 * alone.abs().max()
            assert (together[len(alone) :].softmax(-1)[:, model.config.pad_token_id] == 1).all()


def test_garbage_in_the_padding(recognizer, uneven):
    """Nothing of the padding is read, not even NaN."""
    batch = recognizer.feature_extractor(uneven[:5], sampling_rate=RATE, return_tensors="pt")
    spoiled = batch.input_features.masked_fill(batch.attention_mask[..., None] == 0, torch.nan)
    with torch.no_grad():
        expected = recognizer.model(**batch).logits
        assert torch.equal(recognizer.model(spoiled, batch.attention_mask).logits, expected)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_timestamps(recognizer, uneven, unit):
    """Seconds, in order, within the audio (up to its last output frame), in whole frames; together they are the text."""
    for waveform in uneven:
        result = recognizer(waveform, return_timestamps=unit)
        times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
        assert all(type(time) is float for time in times)
        assert times == sorted(times)
        assert all(start < end for start, end in (chunk["timestamp"] for chunk in result["chunks"]))
        assert all(0 <= time <= len(waveform) / RATE + FRAME for time in times)
        np.testing.assert_allclose(np.array(times) / FRAME, np.round(np.array(times) / FRAME), atol=1e-6)
        pieces = [chunk["text"] for chunk in result["chunks"]]
        joined = " ".join(pieces) if unit == "word" else "".join(pieces)
        assert joined.split() == result["text"].split()
        json.dumps(result)


def test_timestamps_follow_the_audio(make_tiny_model, processor, clips):
    """Two seconds of silence before the speech move the times of the speech by two seconds.

    The model remembers what came before, and so the first half second after the edge is left out.
    """
    recognizer = pipeline_of(make_tiny_model(), processor)
    waveform = clips[0].waveform
    plain = recognizer(waveform, return_timestamps="char")
    moved = recognizer(np.pad(waveform, (2 * RATE, 0)), return_timestamps="char")
    expected = [(text, round(start + 2, 4), round(end + 2, 4)) for text, start, end in symbols(plain, 0.5)]
    assert len(expected) > 10
    assert symbols(moved, 2.5) == expected


def pipeline_of(model: DeepSpeech2ForCTC, processor) -> DeepSpeech2Pipeline:
    return pipeline(
        TASK, model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"bidirectional": False},
        {"bidirectional": True},
        {"bidirectional": False, "lookahead": 8},
        {"bidirectional": False, "rnn_type": "rnn"},
    ],
    ids=str,
)
def test_chunks_equal_the_whole(make_tiny_model, processor, clips, settings):
    """Law 3: a long recording in overlapping chunks gives the text and the times of the whole, in any batch.

    What is shown: features, convolutions, row convolution and the stitching of chunks are exact, and every symbol is the
    same. What is not: a chunk starts without memory, and how long a recurrence remembers is a matter of its weights. Those
    of a random model forget within the overlap of 2 s (100 output frames); a trained one may remember longer. The very last
    output frame is left out: transformers rounds the length of the last chunk to whole frames and may drop it.
    """
    recognizer = pipeline_of(make_tiny_model(**settings), processor)
    waveform = np.concatenate([clip.waveform for clip in clips])
    seconds = len(waveform) / RATE
    whole = symbols(recognizer(waveform, return_timestamps="char"), last=seconds - FRAME)
    assert len(whole) > 100
    for chunk in (5, 6.7):
        for batch_size in (1, 4):
            pieces = recognizer(
                waveform, chunk_length_s=chunk, stride_length_s=2, batch_size=batch_size, return_timestamps="char"
            )
            assert symbols(pieces, last=seconds - FRAME) == whole


@pytest.mark.parametrize("update_bias", [0, 2])
def test_memory_of_a_chunk_dies_away(make_tiny_model, processor, clips, update_bias):
    """Law 3 below the text: a chunk of a unidirectional model lacks nothing but the memory of what came before it.

    With random weights, whose update gates stand half open, its logits are those of the whole within 1e-5 after 2 s; with
    gates that hold on for longer, after 8 s. At the chunk's start they differ, and so the comparison means something.
    """
    model, extractor = make_tiny_model(bidirectional=False), processor.feature_extractor
    waveform = np.concatenate([clip.waveform for clip in clips])
    first, settled = 100, 400 if update_bias else 100  # output frames
    with torch.no_grad():
        for layer in model.deepspeech2.layers:
            hidden = layer.rnn.weight_hh.shape[2]
            layer.rnn.norm.bias[hidden : 2 * hidden] += update_bias
        whole, chunk = (
            model(**extractor(audio, sampling_rate=RATE, return_tensors="pt")).logits[0]
            for audio in (waveform, waveform[first * 320 :])
        )
    difference = (whole[first:] - chunk).abs().amax(1)
    assert difference[:10].max() > 0.1
    if update_bias:
        assert difference[50] > 1e-5
    assert difference[settled:].max() < 1e-5


def test_chunks_in_a_batch_of_recordings(recognizer, uneven):
    """Long and short recordings in chunks, batched together, each give what they give alone."""
    single = [recognizer(waveform, chunk_length_s=2, return_timestamps="word") for waveform in uneven]
    assert_same(list(recognizer(list(uneven), chunk_length_s=2, batch_size=8, return_timestamps="word")), single)


def test_stride_in_the_dict(recognizer, clips):
    """A "stride" at the audio's own rate leaves out its edges: the text between, as the times of the whole say."""
    waveform = soxr.resample(clips[3].waveform, RATE, 2 * RATE)
    whole = recognizer({"raw": waveform, "sampling_rate": 2 * RATE}, return_timestamps="char")
    inner = recognizer({"raw": waveform, "sampling_rate": 2 * RATE, "stride": (RATE, RATE)}, return_timestamps="char")
    moved = [(text, round(start + 0.5, 4), round(end + 0.5, 4)) for text, start, end in symbols(inner)]
    last = len(clips[3].waveform) / RATE - 0.5
    expected = symbols(whole, 0.5 + FRAME, last - FRAME)
    assert len(expected) > 10
    assert [symbol for symbol in moved if symbol[1] >= 0.5 + FRAME and symbol[2] <= last - FRAME] == expected


def bad_files(clips) -> dict[str, tuple[np.ndarray, dict, slice]]:
    """Name -> samples, how they are written, which part of the file is left."""
    speech, whole = clips[0].waveform, slice(None)
    poisoned = speech.copy()
    poisoned[500] = np.nan
    return {
        "silent.wav": (np.zeros(RATE), {}, whole),
        "empty.wav": (np.zeros(0), {}, whole),
        "5ms.wav": (speech[8000:8080], {}, whole),
        "one_sample.wav": (speech[8000:8001], {}, whole),
        "nan.wav": (poisoned, {"subtype": "FLOAT"}, whole),
        "clipped.wav": (np.clip(100 * speech, -1, 1), {}, whole),
        "eight_channels.wav": (np.stack([speech] * 8, axis=1), {}, whole),
        "truncated.wav": (speech, {}, slice(0, 20_000)),
        "truncated_in_the_header.wav": (speech, {}, slice(0, 30)),
        "truncated.flac": (speech, {}, slice(0, 10_000)),
        "truncated.ogg": (np.tile(speech, 4), {"format": "OGG", "subtype": "OPUS"}, slice(0, 10_000)),
        "truncated.mp3": (speech, {"format": "MP3"}, slice(0, 4000)),
    }


REFUSED = {
    "empty.wav": "holds no samples",
    "nan.wav": "not finite",
    "truncated_in_the_header.wav": "damaged, or in no audio format",
    "truncated.flac": "damaged or cut short",
}


def test_bad_files(recognizer, tmp_path, clips, caplog, monkeypatch):
    """Every bad file gives a transcript, with a warning if it is cut short, or one sentence that names it."""
    monkeypatch.setenv("PATH", str(tmp_path))  # as on a machine without ffmpeg
    for name, (samples, settings, kept) in bad_files(clips).items():
        path = tmp_path / name
        soundfile.write(path, samples, RATE, **settings)
        path.write_bytes(path.read_bytes()[kept])
        caplog.clear()
        if name in REFUSED:
            for audio in (str(path), {"bytes": path.read_bytes(), "path": name}):
                with pytest.raises(ValueError, match=f"{name} .*{REFUSED[name]}") as caught:
                    recognizer(audio)
                assert "\n" not in str(caught.value)
        else:
            assert isinstance(recognizer(str(path))["text"], str)
            cut = [record.message for record in caplog.records if "cut short" in record.message]
            assert len(cut) == name.startswith("truncated") and all(name in message for message in cut)


def test_eight_channels_and_one_are_the_same(recognizer, tmp_path, clips):
    """The channels of a file are averaged."""
    soundfile.write(tmp_path / "one.wav", clips[0].waveform, RATE)
    soundfile.write(tmp_path / "eight.wav", np.stack([clips[0].waveform] * 8, axis=1), RATE)
    expected = recognizer(str(tmp_path / "one.wav"))
    assert expected["text"] and recognizer(str(tmp_path / "eight.wav")) == expected


@pytest.mark.parametrize(
    "audio, error, message",
    [
        (b"These are words, not sounds.", ValueError, "the audio bytes .*no audio format"),
        (b"", ValueError, "the audio bytes .*empty"),
        ("no/such/speech.wav", FileNotFoundError, "There is no audio file no/such/speech.wav"),
        ({"bytes": None, "path": "no/such/speech.wav"}, FileNotFoundError, "no/such/speech.wav"),
        ({"bytes": b"words", "path": "words.ogg"}, ValueError, "words.ogg .*no audio format"),
        ({}, ValueError, r"needs 'array' .*but has \[\]"),
        ({"sampling_rate": RATE}, ValueError, r"needs 'array' .*but has \['sampling_rate'\]"),
        ({"bytes": None, "path": None}, ValueError, "needs 'array'"),
        ({"array": np.zeros(800)}, ValueError, "needs its 'sampling_rate'"),
        ({"array": np.zeros(800), "sampling_rate": 0, "path": "a.wav"}, ValueError, "rate of a.wav .*but is 0"),
        ({"raw": np.zeros(800), "sampling_rate": -8000}, ValueError, "rate of the audio array .*but is -8000"),
        ({"raw": np.zeros(800), "sampling_rate": 16}, ValueError, "at least 1000 hertz, but is 16"),
        (np.zeros(0), ValueError, "holds no samples"),
        (np.full(800, np.nan), ValueError, "not finite"),
        (np.zeros((2, 2, 80)), ValueError, r"has \(2, 2, 80\)"),
        (None, ValueError, "the audio array"),
    ],
)
def test_bad_inputs(recognizer, monkeypatch, tmp_path, audio, error, message):
    """Each is refused by one sentence that says what is wrong with it, and with which file."""
    monkeypatch.setenv("PATH", str(tmp_path))  # as on a machine without ffmpeg
    with pytest.raises(error, match=message) as caught:
        recognizer(audio)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def with_decoder(tiny_model_with_decoder) -> DeepSpeech2Pipeline:
    return pipeline(TASK, model=tiny_model_with_decoder)


def test_decoder_of_the_folder_is_used(recognizer, with_decoder, tiny_model_with_decoder, clips):
    """What the pipeline says is what the decoder says of the model's logits; without it, or with None, the best path."""
    model, extractor = with_decoder.model, with_decoder.feature_extractor
    best_path = pipeline(TASK, model=tiny_model_with_decoder, decoder=None)
    given = pipeline(TASK, model=model, tokenizer=with_decoder.tokenizer, feature_extractor=extractor)
    named = pipeline(TASK, model=recognizer.model.name_or_path, decoder=tiny_model_with_decoder)
    differ = 0
    for clip in clips[:4]:
        with torch.no_grad():
            logits = model(**extractor(clip.waveform, sampling_rate=RATE, return_tensors="pt")).logits[0]
        expected = with_decoder.decoder.decode(logits, FRAME)[0]
        for found in (with_decoder, given, named):
            result = found(clip.waveform, return_timestamps="word")
            assert result["text"] == expected.text
            assert [(c["text"], c["timestamp"], c["confidence"]) for c in result["chunks"]] == [
                (word.text, (word.start, word.end), word.confidence) for word in expected.words
            ]
        characters = with_decoder(clip.waveform, return_timestamps="char")["chunks"]
        assert "".join(character["text"] for character in characters) == expected.text
        json.dumps(characters)
        assert best_path(clip.waveform) == recognizer(clip.waveform)
        differ += with_decoder(clip.waveform) != recognizer(clip.waveform)
    assert differ == 4


def test_batch_invariance_of_the_decoder(with_decoder, uneven):
    """Law 1 with a language model: batches of eight give what single calls give, text, times and all."""
    single = [with_decoder(waveform, return_timestamps="word") for waveform in uneven]
    together = with_decoder(list(uneven), batch_size=8, return_timestamps="word")
    assert [result["text"] for result in together] == [result["text"] for result in single]
    for one, other in zip(single, together):
        assert [chunk["timestamp"] for chunk in one["chunks"]] == [chunk["timestamp"] for chunk in other["chunks"]]


def test_decoder_over_chunks(make_tiny_model, processor, language_model_file, clips):
    """A recording in chunks: their logits are put together and searched once, so that the text is that of the whole."""
    decoder = CTCBeamSearchDecoder(processor.tokenizer, language_model_file, alpha=1.5, beam_width=20)
    model = make_tiny_model(bidirectional=False)
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    recognizer = pipeline(TASK, model=model, decoder=decoder, **parts)
    waveform = np.concatenate([clip.waveform for clip in clips[:3]])
    whole = symbols(recognizer(waveform, return_timestamps="char"), last=len(waveform) / RATE - 2)
    for batch_size in (1, 4):
        pieces = recognizer(waveform, chunk_length_s=3, stride_length_s=1, batch_size=batch_size, return_timestamps="char")
        assert len(whole) > 40 and symbols(pieces, last=len(waveform) / RATE - 2) == whole


def test_hot_words_and_n_best(with_decoder, recognizer, clips):
    """Both are arguments of a call, of `pipeline` too, and an error, not silence, where there is no decoder."""
    waveform = clips[0].waveform
    plain = with_decoder(waveform, n_best=3)
    assert [one["text"] for one in plain["hypotheses"]][0] == plain["text"] and len(plain["hypotheses"]) == 3
    for one in plain["hypotheses"]:
        assert one["score"] <= plain["hypotheses"][0]["score"]
    hot = with_decoder(waveform, hotwords={"zebra": 500.0})["text"]
    assert "zebra" in hot.split() and "zebra" not in plain["text"].split()
    with pytest.raises(ValueError, match="hotwords: found without a decoder"):
        recognizer(waveform, hotwords={"zebra": 5.0})
    with pytest.raises(ValueError, match="n_best: found 0"):
        with_decoder(waveform, n_best=0)
    for hotwords, message in (({"zebra": -1.0}, "the weight -1.0 of 'zebra'"), ({"ж": 1.0}, "no symbols for 'ж'")):
        with pytest.raises(ValueError, match=message):
            with_decoder("no/such/file.wav", hotwords=hotwords)  # before any audio is read


def test_pipeline_saves_its_decoder(with_decoder, clips, tmp_path):
    with_decoder.save_pretrained(tmp_path)
    again = pipeline(TASK, model=tmp_path)
    assert again(clips[0].waveform, return_timestamps="word") == with_decoder(clips[0].waveform, return_timestamps="word")


def test_decoder_without_its_language_model(tiny_model_with_decoder, tmp_path):
    """It is not passed over: the pipeline says what is missing before any audio comes."""
    for file in tiny_model_with_decoder.iterdir():
        if file.name != "language_model.safetensors" and file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="needs its language model language_model.safetensors, which is not there"):
        pipeline(TASK, model=tmp_path)
