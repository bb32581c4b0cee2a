"""Law 3: live equals offline, whatever the pieces in which the sound comes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor, DeepSpeech2ForCTC, DeepSpeech2Stream
from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder, GreedyDecoder
from modeling_deepspeech2.transcription.recordings import transcribe
from modeling_deepspeech2.transcription.streaming import SlidingWindow, StreamingFeatures, StreamingModel
from modeling_deepspeech2.transcription.streams import feed_streams


LIVE = [
    {"lookahead": 0},
    {"lookahead": 19},
    {"lookahead": 3, "rnn_type": "lstm"},
    {"lookahead": 3, "rnn_type": "rnn", "conv_type": "1d"},
    {"lookahead": 3, "hidden_act": "tanh"},
    {"rnn_type": "lstm", "hidden_act": "tanh"},
    {"batch_norm": "off"},
    {
        "conv_channels": (2, 3, 4),
        "conv_kernel_sizes": ((7, 11), (5, 5), (3, 7)),
        "conv_strides": ((2, 2), (2, 2), (1, 1)),
        "lookahead": 1,
    },
]


def pieces(signal: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Cuts a signal into pieces of the given sizes, again and again until it ends."""
    found = []
    while len(signal):
        size = sizes[len(found) % len(sizes)]
        found.append(signal[:size])
        signal = signal[size:]
    return found


def logits_of_frames(model: StreamingModel, frames: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    state, found = model.start(), []
    for piece in pieces(frames, sizes):
        logits, state = model.step(piece[None], state)
        found.append(logits[0])
    found.append(model.step(frames[None, :0], state, last=True)[0][0])
    return torch.cat(found)


@given(
    length=st.integers(0, 100),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    size=st.integers(1, 9),
    hop=st.integers(1, 4),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_windows_of_pieces_are_windows_of_the_whole(length, sizes, size, hop, padding):
    before, after = padding
    whole = torch.nn.functional.pad(torch.arange(1, length + 1), padding)
    expected = whole.unfold(0, size, hop).tolist() if len(whole) >= size else []
    window = SlidingWindow(size, hop, before, after)
    kept, found = torch.zeros(1, before, dtype=torch.long), []
    for piece in [*pieces(torch.arange(1, length + 1), sizes), torch.zeros(0, dtype=torch.long)]:
        last = len(piece) == 0
        signal, kept, number = window(kept, piece[None], last)
        found += signal[0].unfold(0, size, hop).tolist() if number else []
    assert found == expected


@pytest.mark.parametrize("sizes", [[1600], [1], [160, 1, 479], [7919]], ids=str)
def test_features(clips, processor, sizes):
    waveform = torch.tensor(clips[0].waveform[: 1600 if sizes == [1] else None])
    stream = StreamingFeatures(processor.feature_extractor)
    found = torch.cat([stream(piece) for piece in pieces(waveform, sizes)] + [stream(waveform[:0], last=True)])
    expected = processor.feature_extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5


def test_nothing_said_gives_nothing(make_tiny_model, processor):
    stream, model = StreamingFeatures(processor.feature_extractor), StreamingModel(make_tiny_model(bidirectional=False))
    frames = stream(np.zeros(0, dtype=np.float32), last=True)
    logits, _ = model.step(frames[None], model.start(), last=True)
    assert logits.shape == (1, 0, model.model.config.vocab_size)


@pytest.mark.parametrize("changes", LIVE, ids=str)
@pytest.mark.parametrize("sizes", [[10], [1], [3, 50, 1, 7]], ids=str)
def test_live_equals_offline(clips, processor, make_tiny_model, changes, sizes):
    """In float64 to the last digits; in float32 to 1e-6, or to what rounding alone does to the offline pass."""
    model = make_tiny_model(bidirectional=False, **changes)
    inputs = processor.feature_extractor(clips[0].waveform, sampling_rate=16_000, return_tensors="pt")
    offline = model.fold_batch_norm()(**inputs).logits[0]
    live = logits_of_frames(StreamingModel(model), inputs.input_features[0], sizes)
    exact = model.double()(**inputs).logits[0]
    exact_live = logits_of_frames(StreamingModel(model), inputs.input_features[0], sizes)
    assert live.shape == exact_live.shape == exact.shape
    scale = exact.abs().max()
    assert (exact_live - exact).abs().max() <= 1e-12 * scale
    assert (live - offline).abs().max() <= max(1e-6 * scale, 4 * (offline - exact).abs().max())


@given(sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=5))
@settings(max_examples=15)
def test_samples_in_any_pieces(clips, processor, make_tiny_model, sizes):
    model = make_tiny_model(bidirectional=False, lookahead=5).double()
    waveform = torch.tensor(clips[1].waveform)[: 1_000 * max(sizes)]
    inputs = processor.feature_extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    features, stream = StreamingFeatures(processor.feature_extractor), StreamingModel(model)
    state, found = stream.start(), []
    for piece in [*pieces(waveform, sizes), None]:
        frames = features(waveform[:0] if piece is None else piece, last=piece is None)
        logits, state = stream.step(frames[None], state, last=piece is None)
        found.append(logits[0])
    found, expected = torch.cat(found), model(**inputs).logits[0]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4  # the features are float32


def test_streams_of_one_batch_do_not_mix(clips, processor, make_tiny_model):
    """Two streams in one step give what each gives alone."""
    model = StreamingModel(make_tiny_model(bidirectional=False, lookahead=5).double())
    features = [
        torch.as_tensor(processor.feature_extractor(clip.waveform, sampling_rate=16_000)["input_features"][0])[:120]
        for clip in clips[:2]
    ]

    def run(inputs):
        state, found = model.start(len(inputs)), []
        for start in range(0, 120, 13):
            logits, state = model.step(inputs[:, start : start + 13], state, last=start + 13 >= 120)
            found.append(logits)
        return torch.cat(found, dim=1)

    together = run(torch.stack(features))
    for alone, own in zip(together, features):
        assert (alone - run(own[None])[0]).abs().max() <= 1e-12


def test_samples_are_checked_as_offline(processor):
    """What the feature extractor refuses in a file, it refuses in a stream; channels are averaged."""
    features = StreamingFeatures(processor.feature_extractor)
    with pytest.raises(ValueError, match="holds uint8"):
        features(np.zeros(1_600, dtype=np.uint8))
    with pytest.raises(ValueError, match="far beyond full scale"):
        features(np.full(1_600, 1e25))
    with pytest.raises(ValueError, match="not finite"):
        features(np.full(1_600, np.nan, dtype=np.float32))
    samples = np.random.default_rng(0).standard_normal(1_600).astype(np.float32)
    block = StreamingFeatures(processor.feature_extractor)(samples[:, None])
    assert torch.equal(block, features(samples)) and len(block)


def test_half_precision_and_quantised_models_stream(make_tiny_model, tmp_path):
    make_tiny_model(bidirectional=False, lookahead=2).save_pretrained(tmp_path)
    half = DeepSpeech2ForCTC.from_pretrained(tmp_path, dtype=torch.bfloat16)
    folded = DeepSpeech2ForCTC.from_pretrained(tmp_path).fold_batch_norm()
    int8 = torch.ao.quantization.quantize_dynamic(folded, {torch.nn.Linear})
    frames = torch.randn(60, 161)
    expected = logits_of_frames(StreamingModel(folded), frames, [10])
    for model in (half, int8):
        found = logits_of_frames(StreamingModel(model), frames, [10]).float()
        assert found.shape == expected.shape
        assert (found - expected).abs().mean() <= 0.1 * expected.abs().mean()


def test_what_cannot_be_live(make_tiny_model):
    with pytest.raises(ValueError, match="bidirectional=False"):
        StreamingModel(make_tiny_model())
    with pytest.raises(ValueError, match="normalization='training_set'"):
        StreamingFeatures(DeepSpeech2FeatureExtractor(normalization="utterance"))


@pytest.fixture(scope="module")
def live_model(make_tiny_model) -> StreamingModel:
    return StreamingModel(make_tiny_model(bidirectional=False, lookahead=5))


@pytest.fixture(scope="module", params=["greedy", "beam"])
def decoder(request, processor):
    if request.param == "greedy":
        return GreedyDecoder(processor.tokenizer)
    return CTCBeamSearchDecoder(processor.tokenizer, beam_width=4)


def test_text_is_the_offline_text(clips, processor, live_model, decoder):
    """Clips in random pieces: the text, words and times that the decoder finds in the logits of one pass."""
    rng = np.random.default_rng(0)
    for clip in clips:
        stream, found = DeepSpeech2Stream(live_model, processor, decoder, end_of_utterance=5), []
        place, stable = 0, ""
        while place < len(clip.waveform):
            size = int(rng.choice([1, 160, 1_600, 7_000])) + int(rng.integers(0, 900))
            found += stream.feed(clip.waveform[place : place + size])
            assert stream.text.stable.startswith(stable)
            place, stable = place + size, stream.text.stable
        found += stream.finish()
        inputs = processor.feature_extractor(clip.waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            (expected,) = decoder.decode(live_model.model(**inputs).logits[0], 0.02)
        (hypothesis,) = found
        assert hypothesis.text == expected.text == stream.text.stable and stream.text.tentative == ""
        assert hypothesis.text.startswith(stable) and len(hypothesis.text) > 15
        assert [(word.text, word.start) for word in hypothesis.words] == [(word.text, word.start) for word in expected.words]
        assert hypothesis.score == pytest.approx(expected.score, rel=1e-4)


def test_many_streams_in_one_batch(clips, processor, make_tiny_model):
    """Streams that begin and end at different times, in pieces of different sizes, hear what each hears alone."""
    for settings_ in ({"lookahead": 5}, {"rnn_type": "lstm", "hidden_act": "tanh"}):
        model = StreamingModel(make_tiny_model(bidirectional=False, **settings_).double())
        expected = []
        for clip in clips[:4]:
            stream = DeepSpeech2Stream(model, processor)
            expected.append(stream.feed(clip.waveform) + stream.finish())
        batches = []
        step = model.step
        model.step = lambda features, *rest, step=step, batches=batches: (
            batches.append(len(features)) or step(features, *rest)
        )
        streams = [DeepSpeech2Stream(model, processor) for _ in range(4)]
        found = [[] for _ in streams]
        sizes = [1_600, 1_600, 1_600, 1_111]
        places = [-4_800, 0, 0, 0]  # the first begins later
        while any(place < len(clip.waveform) for place, clip in zip(places, clips)):
            going = [i for i in range(4) if 0 <= places[i] < len(clips[i].waveform)]
            new = [clips[i].waveform[places[i] : places[i] + sizes[i]] for i in going]
            for index, ended in zip(going, feed_streams([streams[i] for i in going], new)):
                found[index] += ended
            places = [place + size for place, size in zip(places, sizes)]
        model.step = step
        for index, stream in enumerate(streams):
            found[index] += stream.finish()
        assert [[one.text for one in own] for own in found] == [[one.text for one in own] for own in expected]
        assert max(batches) >= 3


def test_a_bad_piece_moves_no_stream(processor, live_model, clips):
    """Where one of many streams brings no audio, the others can be fed the same pieces again."""
    streams = [DeepSpeech2Stream(live_model, processor) for _ in range(2)]
    piece = clips[0].waveform[:8_000]
    feed_streams(streams, [piece, piece])
    with pytest.raises(ValueError, match="the same stream twice"):
        feed_streams([streams[0], streams[0]], [piece, piece])
    seen = [stream.acoustics.features.kept.clone() for stream in streams]
    with pytest.raises(ValueError, match="NaN"):
        feed_streams(streams, [piece, np.full(100, np.nan, np.float32)])
    with pytest.raises(ValueError, match="found 1, expected one for each of the 2"):
        feed_streams(streams, [piece])
    assert all(torch.equal(stream.acoustics.features.kept, kept) for stream, kept in zip(streams, seen))


def test_decoder_of_another_alphabet(processor, live_model):
    """Said when the stream is made, not when audio comes."""
    decoder = CTCBeamSearchDecoder(AutoTokenizer.from_pretrained("tokenizer/mandarin"))
    with pytest.raises(ValueError, match="an alphabet of 5019 symbols, but the model has 29"):
        DeepSpeech2Stream(live_model, processor, decoder)
    with pytest.raises(ValueError, match="an alphabet of 5019 symbols"):
        transcribe(live_model.model, processor, np.zeros(0, np.float32), decoder)


def test_stream_that_is_finished(processor, live_model):
    stream = DeepSpeech2Stream(live_model, processor)
    assert stream.feed(np.zeros(100, np.float32)) == [] and stream.text == ("", "")
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.feed(np.zeros(100, np.float32))
    with pytest.raises(ValueError, match="finished"):
        stream.finish()
