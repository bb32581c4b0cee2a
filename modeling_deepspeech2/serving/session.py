"""A client's live stream in the event loop: bytes in, updates out, at the client's rate and within the server's limits."""

import asyncio
import contextlib
from typing import Any

import anyio
import numpy as np
import soxr

from ..decoding_deepspeech2 import Hypothesis
from .dispatcher import Dispatcher, TooManyStreams, Update
from .limits import Limits, Refusal, check_rate, overloaded
from .metrics import Metrics


class Session:
    """A live stream of 16-bit little-endian mono samples.

    Args:
        rate: of the samples, in hertz.
        hotwords: checked already, see [`check_hotwords`](limits.py).
        news: is set when [`take`] has something new.

    Raises:
        Refusal: no place is free, the rate is out of range, or the decoder takes no such hot words.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        rate: Any,
        limits: Limits,
        metrics: Metrics,
        hotwords: dict[str, float] | None = None,
        end_of_utterance: float = 0.8,
        news: asyncio.Event | None = None,
    ):
        own_rate = dispatcher.engine.sampling_rate
        self.rate, self.limits, self.metrics = check_rate(rate, limits), limits, metrics
        self._resampler = None if self.rate == own_rate else soxr.ResampleStream(self.rate, own_rate, 1, dtype="float32")
        self._odd = b""  # half a sample
        self._loop, self._news = asyncio.get_running_loop(), news or asyncio.Event()
        self.seconds = 0.0  # of audio so far
        self._ended: list[Hypothesis] = []  # that a wait has found and not returned yet: it may be cancelled
        self._is_finished = False
        try:
            self.stream = dispatcher.open(self._notify, end_of_utterance, hotwords=hotwords)
        except TooManyStreams as error:
            raise overloaded("all places for live streams are taken") from error
        except ValueError as error:
            raise Refusal(str(error)) from error
        metrics.open_streams.inc()
        self._is_open = True

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._news.set)

    async def put(self, content: bytes) -> None:
        """Feeds bytes, after waiting until the backlog is small enough.

        Raises:
            Refusal: the server does not keep up.
        """
        with _refuse_after(self.limits.patience_seconds, "this stream's audio comes faster than it is transcribed"):
            while self.stream.waiting_seconds > self.limits.waiting_seconds:
                await anyio.sleep(0.02)
        content = self._odd + content
        whole = len(content) // 2 * 2
        self._odd = content[whole:]
        samples = np.frombuffer(content[:whole], "<i2").astype(np.float32) / 32_768
        self.seconds += len(samples) / self.rate
        self.metrics.audio.labels("live").inc(len(samples) / self.rate)
        self.stream.put(self._resampler.resample_chunk(samples) if self._resampler else samples)

    async def settle(self) -> Update:
        """Waits until everything received is transcribed, and returns the new text."""
        return await self._until(lambda update: update.is_idle)

    async def finish(self) -> Update:
        """Ends the stream and returns the remaining text; if the wait for it was cancelled, another call continues it."""
        if not self._is_finished:
            self._is_finished = True
            if self._resampler:
                self.stream.put(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self.stream.finish()
        return await self._until(lambda update: update.is_over)

    def take(self) -> Update:
        """The new text since the last call."""
        update = self.stream.take()
        if update.error is not None:
            raise Refusal("The stream could not be transcribed.", "failed", 500, 1011) from update.error
        ended, self._ended = self._ended + update.ended, []
        return update._replace(ended=ended)

    async def _until(self, is_enough: Any) -> Update:
        while True:
            self._news.clear()
            update = self.take()
            if is_enough(update) or update.is_over:
                return update
            self._ended = update.ended
            await self._news.wait()

    def close(self) -> None:
        """Frees the place; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self.stream.close()
            self.metrics.open_streams.dec()


@contextlib.contextmanager
def _refuse_after(seconds: float, what: str) -> Any:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise overloaded(what) from error
