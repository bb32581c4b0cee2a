"""Batch Dispatch: one thread owns a model and serves many live streams with it (section 7 of the paper).

As soon as a batch is done, the next one is made of whatever has arrived; nothing waits for a batch to fill. Any thread or
event loop can open streams, give them samples and ask for their text. This module knows nothing of the web.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..conditioning import Conditioner, with_silence
from ..decoding_deepspeech2 import Decoder, GreedyDecoder, Hypothesis
from ..errors import UserError
from ..utterances import LONGEST_UTTERANCE, LiveText, UtteranceDecoder
from ..waveform import mono
from .engine import Engine, StateTable


LONGEST_PIECE = 1.0  # seconds of each stream in a batch, so that a stream that lags behind does not keep the others waiting
NO_TEXT = LiveText("", "")

logger = logging.getLogger(__name__)


class TooManyStreams(UserError):
    """All places are taken; try again later."""


class Update(NamedTuple):
    """The new text of a stream since the last call."""

    ended: list[Hypothesis]  # utterances, with times from the stream's beginning
    text: LiveText  # of the utterance under way
    start: float  # seconds at which that utterance begins
    is_idle: bool  # all samples so far are transcribed, but for those that need later ones
    is_over: bool  # nothing comes after
    error: Exception | None  # why the stream broke off


@dataclass
class _Batch:
    """Streams that advance by the same number of samples."""

    streams: list["LiveStream"]
    size: int  # samples
    is_first: bool = False  # of its streams
    is_last: bool = False  # of its one stream
    samples: np.ndarray | None = None  # shape (streams, size)


class Observer:
    """Observes what the dispatcher does; see [`metrics`](metrics.py)."""

    def on_batch(self, streams: int, queue_seconds: list[float]) -> None:
        """A batch begins; for each piece in it the time since it came."""

    def on_text(self, seconds: list[float]) -> None:
        """For each piece whose text is there: the time since the piece came."""


class LiveStream:
    """One live stream; [`Dispatcher.open`] makes it. Its methods may be called from any thread.

    The fields of the first group are guarded by the dispatcher's lock, those of the second belong to its thread.
    """

    def __init__(self, dispatcher: "Dispatcher", row: int, utterances: UtteranceDecoder, notify: Callable[[], None]):
        self._dispatcher, self._row, self._notify = dispatcher, row, notify
        self.arrived: deque[np.ndarray] = deque()
        self.times: deque[tuple[int, float]] = deque()  # samples up to the end of a piece, and when it came
        self.num_arrived = self.num_taken = 0  # samples
        self.is_finishing = self.is_closed = self.is_busy = False
        self._ended: list[Hypothesis] = []
        self._text, self._start, self._is_over, self._error = NO_TEXT, 0.0, False, None

        self.conditioner = Conditioner(dispatcher.engine.sampling_rate)
        self.utterances = utterances

    @property
    def waiting(self) -> int:
        """Samples that no batch has taken yet."""
        return self.num_arrived - self.num_taken

    @property
    def waiting_seconds(self) -> float:
        """Seconds of audio that no batch has taken yet."""
        return self.waiting / self._dispatcher.engine.sampling_rate

    def put(self, samples: np.ndarray) -> None:
        """Feeds samples at the model's rate, of shape and type as [`mono`](waveform.py) takes them.

        Raises:
            ValueError: samples that are not such numbers, or a stream that is finished.
        """
        piece = np.array(mono(samples, "the piece"))
        if self.is_finishing or self.is_closed:
            raise ValueError("This stream is finished: open another one for what comes.")
        if len(conditioned := self.conditioner(piece)):
            self._dispatcher._put(self, conditioned)
        elif len(piece):
            self._notify()  # it is idle, for more has to come first

    def finish(self) -> None:
        """Ends the stream; its last update will be marked as over."""
        if len(rest := self.conditioner(last=True)):
            self._dispatcher._put(self, rest)
        self._dispatcher._finish(self)

    def take(self) -> Update:
        """The new text since the last call. Each utterance is returned once and then forgotten."""
        with self._dispatcher.lock:
            ended, self._ended = self._ended, []
            is_idle = not self.is_busy and self.waiting < self._dispatcher.needed(self)
            return Update(ended, self._text, self._start, is_idle, self._is_over, self._error)

    def close(self) -> None:
        """Frees the stream's place, even if work is pending."""
        self._dispatcher._close(self)


class Dispatcher:
    """Transcribes many live streams in one thread.

    Args:
        engine: the model.
        tokenizer: the model's.
        decoder: a [`CTCBeamSearchDecoder`]; None: the best path.
        max_streams: open at the same time.
        observer: receives batches and times.

    >>> dispatcher = Dispatcher(TorchEngine(model, processor.feature_extractor), processor.tokenizer)
    >>> stream = dispatcher.open(notify=has_news.set)
    >>> stream.put(samples)
    >>> update = stream.take()
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        decoder: Decoder | None = None,
        max_streams: int = 100,
        observer: Observer | None = None,
    ):
        self.engine, self.decoder = engine, decoder or GreedyDecoder(tokenizer)
        self.longest = max(1, round(LONGEST_PIECE * engine.sampling_rate / engine.unit)) * engine.unit
        self.observer = observer or Observer()
        self.table = StateTable(max_streams)
        self.lock = threading.Lock()
        self._has_work = threading.Condition(self.lock)
        self._streams: dict[int, LiveStream] = {}  # by row
        self._ready: dict[int, LiveStream] = {}  # those with enough samples for the next batch, or whose end has come
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def open(
        self,
        notify: Callable[[], None] = lambda: None,
        end_of_utterance: float = 0.8,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
    ) -> LiveStream:
        """A new stream.

        Args:
            notify: is called, from any thread, when [`LiveStream.take`] has something new.
            end_of_utterance, longest_utterance, hotwords: as of [`DeepSpeech2Stream`].

        Raises:
            TooManyStreams: all places are taken.
            ValueError: times out of their range, or hot words that the decoder does not take.
        """
        utterances = UtteranceDecoder(
            self.decoder, self.engine.seconds_per_frame, end_of_utterance, longest_utterance, hotwords
        )
        with self.lock:
            if self._is_stopping or not self.table.free:
                raise TooManyStreams(f"All {self.table.capacity} places for live streams are taken: try again later.")
            stream = LiveStream(self, self.table.free.pop(), utterances, notify)
            self._streams[stream._row] = stream
        return stream

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread after the batch under way; streams that are open break off."""
        with self.lock:
            self._is_stopping = True
            self._has_work.notify()
        self._thread.join()

    def needed(self, stream: LiveStream) -> int:
        """Samples of a stream that a batch can take at least."""
        return self.engine.first_piece if stream.num_taken == 0 else self.engine.unit

    # What streams call.

    def _put(self, stream: LiveStream, piece: np.ndarray) -> None:
        with self.lock:
            stream.arrived.append(piece)
            stream.num_arrived += len(piece)
            stream.times.append((stream.num_arrived, time.monotonic()))
            is_enough = stream.waiting >= self.needed(stream)
            if is_enough:
                self._mark_ready(stream)
        if not is_enough:
            stream._notify()  # it is idle, for more has to come first

    def _finish(self, stream: LiveStream) -> None:
        with self.lock:
            stream.is_finishing = True
            self._mark_ready(stream)

    def _close(self, stream: LiveStream) -> None:
        with self.lock:
            if not stream.is_closed:
                stream.is_closed = True
                stream.arrived.clear()
                if not stream.is_busy:
                    self._free(stream)

    def _mark_ready(self, stream: LiveStream) -> None:
        if not stream.is_busy and not stream._is_over and not stream.is_closed:
            self._ready[stream._row] = stream
            self._has_work.notify()

    def _free(self, stream: LiveStream) -> None:
        if self._streams.pop(stream._row, None) is not None:
            self._ready.pop(stream._row, None)
            self.table.free.append(stream._row)

    # The thread.

    def _run(self) -> None:
        while True:
            with self.lock:
                self._has_work.wait_for(lambda: self._is_stopping or self._ready)
                if self._is_stopping:
                    return
                batches = self._next_batches(list(self._ready.values()))
                self._ready.clear()
                for batch in batches:
                    batch.samples = np.stack([self._samples(stream, batch.size) for stream in batch.streams])
            for batch in batches:
                self._advance(batch)

    def _next_batches(self, ready: list[LiveStream]) -> list[_Batch]:
        """The next batches: endings one by one, new streams together, and running streams together.

        The shortest decides how far they go; what remains is in the next batch, at once.
        """
        new, going, batches = [], [], []
        for stream in ready:
            if stream.waiting < self.needed(stream):
                batches.append(_Batch([stream], stream.waiting, is_first=stream.num_taken == 0, is_last=True))
            else:
                (going if stream.num_taken else new).append(stream)
        if new:
            batches.append(_Batch(new, self.engine.first_piece, is_first=True))
        if going:
            size = min(stream.waiting for stream in going) // self.engine.unit * self.engine.unit
            batches.append(_Batch(going, min(size, self.longest)))
        return batches

    def _samples(self, stream: LiveStream, size: int) -> np.ndarray:
        """The next samples of a stream, which is busy from now on."""
        pieces, missing = [np.zeros(0, np.float32)], size
        while missing:
            piece = stream.arrived.popleft()
            pieces.append(piece[:missing])
            if (rest := len(piece) - missing) > 0:  # a view of a few samples would keep the whole piece
                stream.arrived.appendleft(piece[missing:].copy() if rest < self.engine.unit else piece[missing:])
            missing -= len(pieces[-1])
        stream.num_taken += size
        stream.is_busy = True
        return np.concatenate(pieces)

    def _advance(self, batch: _Batch) -> None:
        try:
            logits = self._logits(batch)
        except Exception as error:  # the thread serves other streams, too, and continues
            logger.exception("A batch of %d streams failed", len(batch.streams))
            for stream in batch.streams:
                self._publish(stream, [], error=error)
            return
        for stream, own in zip(batch.streams, logits):
            try:
                ended = self._decode(stream, own.copy())  # a view would keep the whole batch
                if batch.is_last:
                    ended += stream.utterances.finish()
                text = stream.utterances.text
            except Exception as error:
                logger.exception("Decoding a stream failed")
                self._publish(stream, [], error=error)
            else:
                self._publish(stream, ended, text, batch.is_last)

    def _decode(self, stream: LiveStream, logits: np.ndarray) -> list[Hypothesis]:
        ended: list[Hypothesis] = []
        tokenizer = self.decoder.tokenizer
        for piece in with_silence([logits], stream.conditioner, self.engine.unit, len(tokenizer), tokenizer.pad_token_id):
            ended += stream.utterances.feed(piece)
        return ended

    def _logits(self, batch: _Batch) -> list[np.ndarray] | np.ndarray:
        now = time.monotonic()
        self.observer.on_batch(len(batch.streams), [now - stream.times[0][1] for stream in batch.streams if stream.times])
        rows = [stream._row for stream in batch.streams]
        states = None if batch.is_first else self.table.read(rows)
        if batch.is_last:
            if batch.streams[0].num_arrived == 0:
                return [np.zeros((0, len(self.decoder.tokenizer)), np.float32)]
            return [self.engine.finish(batch.samples[0], states)]
        logits, states = self.engine.step(batch.samples, states)
        self.table.write(rows, states)
        return logits

    def _publish(
        self,
        stream: LiveStream,
        ended: list[Hypothesis],
        text: LiveText = NO_TEXT,
        is_over: bool = False,
        error: Exception | None = None,
    ) -> None:
        now, seconds = time.monotonic(), []
        with self.lock:
            stream.is_busy = False
            stream._ended += ended
            stream._start = stream.utterances.start
            stream._text, stream._error, stream._is_over = text, error, is_over or error is not None
            # Less than a unit may be left of a piece; its frame is complete with the next one.
            while stream.times and stream.times[0][0] < stream.num_taken + self.engine.unit:
                seconds.append(now - stream.times.popleft()[1])
            if stream.is_closed:
                self._free(stream)
            elif stream.is_finishing or stream.waiting >= self.needed(stream):
                self._mark_ready(stream)
        self.observer.on_text(seconds)
        stream._notify()
