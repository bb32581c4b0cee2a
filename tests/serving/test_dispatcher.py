"""Batch Dispatch: whatever arrives when, each stream's text is the offline text, and a stream holds its own state only."""

import asyncio
import gc
import threading
import time

import numpy as np
import psutil
import pytest
import soxr
import torch
from good_client import pcm

from modeling_deepspeech2 import CTCBeamSearchDecoder
from modeling_deepspeech2.serving.dispatcher import Dispatcher, LiveStream, TooManyStreams
from modeling_deepspeech2.serving.engine import StateTable, TorchEngine
from modeling_deepspeech2.serving.limits import Limits
from modeling_deepspeech2.serving.metrics import Metrics
from modeling_deepspeech2.serving.onnx_engine import OnnxEngine
from modeling_deepspeech2.serving.session import Session
from modeling_deepspeech2.transcription.recordings import transcribe
from modeling_deepspeech2.utterances import UtteranceDecoder


def offline(model, processor, waveform, decoder=None, **settings):
    return [one.text for one in transcribe(model, processor, waveform, decoder, **settings)]


def result(stream: LiveStream, seconds: float = 60.0) -> list[str]:
    """The texts of the utterances of a stream that has been finished."""
    texts, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        update = stream.take()
        texts += [one.text for one in update.ended]
        if update.error is not None:
            raise update.error
        if update.is_over:
            stream.close()
            return texts
        time.sleep(0.002)
    raise TimeoutError("the dispatcher gave no last update")


def random_pieces(waveform, rng):
    sizes = np.exp(rng.uniform(0, np.log(16_000), len(waveform))).astype(int) + 1
    return np.split(waveform, np.cumsum(sizes)[: np.searchsorted(np.cumsum(sizes), len(waveform))])


@pytest.fixture
def start():
    """Makes dispatchers, and stops their threads after the test."""
    dispatchers = []

    def make(model, processor, make_engine=TorchEngine, **settings):
        engine = make_engine(model, processor.feature_extractor)
        dispatchers.append(Dispatcher(engine, processor.tokenizer, **settings))
        return dispatchers[-1]

    yield make
    for dispatcher in dispatchers:
        dispatcher.stop()


ARCHITECTURES = [
    {"rnn_type": "gru", "lookahead": 4},
    {"rnn_type": "lstm"},
    {"rnn_type": "rnn", "hidden_act": "clipped_relu", "lookahead": 2},
    {"conv_type": "1d", "conv_kernel_sizes": ((41, 11), (21, 11)), "lookahead": 1},
    {"conv_strides": ((2, 2), (2, 2)), "lookahead": 3},
]


@pytest.mark.parametrize("make_engine", [TorchEngine, OnnxEngine])
@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
def test_the_engine_gives_the_logits_of_one_pass(make_tiny_model, processor, clips, settings, make_engine):
    """For every architecture: pieces of any multiple of the unit, then an end of any length; the first one in phase."""
    model = make_tiny_model(bidirectional=False, **settings)
    model = model.fold_batch_norm()  # which rounds a little
    engine = make_engine(model, processor.feature_extractor)
    rng = np.random.default_rng(0)
    for clip in clips[:3]:
        waveform, states, found, at = clip.waveform, None, [], 0
        while len(waveform) - at >= (size := engine.unit * int(rng.integers(1, 30)) + (0 if at else engine.first_piece)):
            logits, states = engine.step(waveform[None, at : at + size], states)
            found.append(logits[0])
            at += size
        found.append(engine.finish(waveform[at:], states))
        with torch.inference_mode():
            expected = model(**processor(waveform, sampling_rate=16_000, return_tensors="pt")).logits[0]
        tolerance = 2e-5 if make_engine is TorchEngine else 5e-3  # the logarithm of next to nothing
        np.testing.assert_allclose(np.concatenate(found), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("with_search", [False, True], ids=["best path", "beam search"])
def test_texts_are_the_offline_texts_whatever_the_interleaving(make_tiny_model, processor, clips, start, with_search):
    """The main promise: 24 streams open, stall and end at random, fed from four threads in pieces from one sample on."""
    model = make_tiny_model(bidirectional=False, lookahead=4)
    decoder = CTCBeamSearchDecoder(processor.tokenizer, beam_width=4) if with_search else None
    dispatcher = start(model, processor, decoder=decoder, max_streams=8)
    waveforms = [clips[index % len(clips)].waveform[: 16_000 + 3_001 * index] for index in range(24)]
    found: dict[int, list[str]] = {}

    def feed(own: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        streams = {index: (dispatcher.open(), random_pieces(waveforms[index], rng)) for index in own[:2]}
        waiting = own[2:]
        while streams:
            index = int(rng.choice(list(streams)))
            stream, pieces = streams[index]
            if pieces:
                stream.put(pieces.pop(0))
            else:
                stream.finish()
                found[index] = result(stream)
                del streams[index]
                if waiting:
                    index = waiting.pop(0)
                    streams[index] = (dispatcher.open(), random_pieces(waveforms[index], rng))
            if rng.random() < 0.05:
                time.sleep(0.005)

    threads = [threading.Thread(target=feed, args=(list(range(first, 24, 4)), first)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    for index, texts in found.items():
        assert texts == offline(model, processor, waveforms[index], decoder)


@pytest.mark.parametrize("samples", [0, 1, 159, 480, 5_000, 12_479, 12_480, 12_481])
def test_streams_of_any_length_end(live_model, start, clips, samples):
    """Also those that end before the model's windows are full, and empty ones."""
    model, processor, _ = live_model
    dispatcher = start(model, processor)
    stream = dispatcher.open()
    waveform = clips[1].waveform[8_000 : 8_000 + samples]
    stream.put(waveform)
    stream.finish()
    assert result(stream) == (offline(model, processor, waveform) if samples else [])
    assert dispatcher.num_streams == 0


@pytest.mark.parametrize("make_engine", [TorchEngine, OnnxEngine])
def test_real_clips_through_the_published_live_model(live_model, start, clips, make_engine):
    """Six voices at once through the published model and its language model, in either engine: the texts of `transcribe`."""
    model, processor, decoder = live_model
    dispatcher = start(model, processor, make_engine, decoder=decoder)
    streams = [dispatcher.open() for _ in clips[:6]]
    rng = np.random.default_rng(0)
    pieces = [random_pieces(clip.waveform, rng) for clip in clips[:6]]
    while any(pieces):
        for stream, own in zip(streams, pieces):
            if own:
                stream.put(own.pop(0))
    for stream in streams:
        stream.finish()
    for stream, clip in zip(streams, clips):
        assert result(stream) == offline(model, processor, clip.waveform, decoder)


@pytest.mark.parametrize("with_search", [False, True], ids=["best path", "beam search"])
def test_stable_text_only_grows_and_becomes_the_utterance(live_model, start, clips, with_search):
    """What a client has been told to be stable is never taken back."""
    model, processor, decoder = live_model
    dispatcher = start(model, processor, decoder=decoder if with_search else None)
    news = threading.Semaphore(0)
    stream = dispatcher.open(notify=news.release)
    before = ""
    for piece in np.array_split(clips[1].waveform, 25):
        stream.put(piece)
        while not (update := stream.take()).is_idle:
            news.acquire(timeout=5)
        assert update.ended == [] and update.text.stable.startswith(before)
        before = update.text.stable
    stream.finish()
    (text,) = result(stream)
    assert text.startswith(before) and (before or with_search)


def tensor_bytes() -> int:
    """Memory of all tensors that are alive, storages that several share counted once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's objects that are looked at
def test_stalled_streams_hold_their_own_state_only(live_model, start):
    """100 of 200 streams stall: the table holds what 200 streams need, and all tensors together are hardly more."""
    model, processor, _ = live_model
    dispatcher = start(model, processor, max_streams=200)
    before = tensor_bytes()
    rng = np.random.default_rng(0)
    streams = [dispatcher.open() for _ in range(200)]
    for number in (200, 200, 100):
        for stream in streams[:number]:
            stream.put(0.1 * rng.standard_normal(16_000).astype(np.float32))
    while not all(stream.take().is_idle for stream in streams):
        time.sleep(0.01)
    engine = dispatcher.engine
    _, state = engine.step(np.zeros((1, engine.first_piece), np.float32), None)  # of one stream
    table = sum(part.nbytes for part in dispatcher.table.parts)
    assert table == 200 * sum(part.nbytes for part in state)
    assert tensor_bytes() - before <= 1.2 * table


def test_memory_of_a_long_stream_is_flat(live_model, start, clips):
    """Five minutes through one stream: ended utterances are handed out and forgotten."""
    model, processor, _ = live_model
    dispatcher = start(model, processor)
    stream, sizes = dispatcher.open(), []
    speech = np.concatenate([clip.waveform for clip in clips])
    minute = np.resize(np.concatenate([speech, np.zeros(16_000, np.float32)]), 60 * 16_000)
    for _ in range(5):
        stream.put(minute)
        while not stream.take().is_idle:
            time.sleep(0.01)
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] <= 1.02 * sizes[0]


def test_an_hour_of_silence_costs_no_memory(live_model, start, clips):
    """A muted microphone, then a word: blanks for the hour come in small pieces, and the times count from the beginning."""
    model, processor, _ = live_model
    dispatcher = start(model, processor)
    (expected,) = transcribe(model, processor, clips[1].waveform)
    stream, ended, longest, feed = dispatcher.open(), [], 0, UtteranceDecoder.feed
    minute = np.zeros(60 * 16_000, np.float32)
    for _ in range(60):
        stream.put(minute)

    def watched_feed(logits: np.ndarray) -> list:
        nonlocal longest
        longest = max(longest, len(logits))
        return feed(stream.utterances, logits)

    stream.utterances.feed = watched_feed
    stream.put(clips[1].waveform)
    stream.finish()
    while not (update := stream.take()).is_over:
        ended += update.ended
        time.sleep(0.002)
    (utterance,) = ended + update.ended
    assert utterance.text == expected.text and longest <= 1_000
    assert utterance.words[0].start - expected.words[0].start == pytest.approx(3_600, abs=0.1)


def test_places_are_limited_and_given_back(make_tiny_model, processor, start):
    """A stream too many is refused with a sentence; a closed one makes room at once."""
    dispatcher = start(make_tiny_model(bidirectional=False), processor, max_streams=2)
    first = dispatcher.open()
    dispatcher.open()
    with pytest.raises(TooManyStreams, match="All 2 places"):
        dispatcher.open()
    first.close()
    first.close()
    dispatcher.open()


def test_a_row_that_is_used_again_starts_afresh(make_tiny_model, processor, start, clips):
    """The second stream in a place knows nothing of the first."""
    model = make_tiny_model(bidirectional=False, lookahead=4)
    dispatcher = start(model, processor, max_streams=1)
    for clip in clips[:3]:
        stream = dispatcher.open()
        stream.put(clip.waveform)
        stream.finish()
        assert result(stream) == offline(model, processor, clip.waveform)


def test_what_is_no_audio_is_refused_and_others_go_on(make_tiny_model, processor, start, clips):
    """NaN, integers, samples after the end: the caller gets the error, the streams beside it their texts."""
    model = make_tiny_model(bidirectional=False)
    dispatcher = start(model, processor)
    good, bad = dispatcher.open(), dispatcher.open()
    good.put(clips[0].waveform)
    for samples in (np.full(100, np.nan, np.float32), np.zeros(10, np.int8), np.zeros((3, 3, 3), np.float32)):
        with pytest.raises(ValueError, match="the piece"):
            bad.put(samples)
    bad.finish()
    with pytest.raises(ValueError, match="finished"):
        bad.put(np.zeros(10, np.float32))
    with pytest.raises(ValueError, match="hotwords"):
        dispatcher.open(hotwords={"a": 1.0})
    good.finish()
    assert result(good) == offline(model, processor, clips[0].waveform)


def test_a_batch_that_fails_ends_its_streams_and_not_the_dispatcher(make_tiny_model, processor, start, clips):
    """Whatever a model raises is handed to the streams of that batch; later ones are served."""
    model = make_tiny_model(bidirectional=False)
    dispatcher = start(model, processor)
    step, dispatcher.engine.step = dispatcher.engine.step, lambda *_: 1 / 0
    broken = dispatcher.open()
    broken.put(clips[0].waveform)
    with pytest.raises(ZeroDivisionError):
        result(broken)
    broken.close()
    dispatcher.engine.step = step
    stream = dispatcher.open()
    stream.put(clips[0].waveform)
    stream.finish()
    assert result(stream) == offline(model, processor, clips[0].waveform)


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_a_wait_for_the_last_text_that_is_cancelled_loses_nothing(live_model, start, clips, rate):
    """A shutdown comes while a client's last text is awaited, and asks for it again: it is all of the text."""
    model, processor, _ = live_model
    dispatcher = start(model, processor)
    step = dispatcher.engine.step
    dispatcher.engine.step = lambda *arguments: (time.sleep(0.02), step(*arguments))[1]  # the wait is a long one
    speech = [clips[1].waveform, np.zeros(20_000, np.float32), clips[2].waveform, np.zeros(20_000, np.float32)]
    content = pcm(soxr.resample(np.concatenate(speech), 16_000, rate))

    async def texts(patience: float) -> tuple[list[str], int]:
        session, cancelled = Session(dispatcher, rate, Limits(), Metrics()), 0
        await session.put(content)
        while True:
            try:
                update = await asyncio.wait_for(session.finish(), patience)
            except TimeoutError:
                cancelled += 1
            else:
                session.close()
                return [one.text for one in update.ended], cancelled

    expected, _ = asyncio.run(texts(60))
    found, cancelled = asyncio.run(texts(0.01))
    assert len(expected) == 2 and found == expected and cancelled >= 3


def test_the_table_keeps_rows_apart():
    """Rows come back as they were written, in whatever order."""
    table = StateTable(4)
    table.write([2, 0], [torch.tensor([[1.0], [2.0]])])
    table.write([3], [torch.tensor([[5.0]])])
    assert table.read([3, 0, 2])[0].flatten().tolist() == [5, 2, 1]
