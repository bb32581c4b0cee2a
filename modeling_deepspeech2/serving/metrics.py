"""Counters and histograms of the server, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .dispatcher import Observer


SECONDS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STREAMS = (1, 2, 5, 10, 20, 30, 60, 100, 200)


class Metrics(Observer):
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.open_streams = Gauge("deepspeech2_open_streams", "Live streams that are open", registry=self.registry)
        self.batch_size = Histogram(
            "deepspeech2_batch_streams", "Streams in a batch", buckets=STREAMS, registry=self.registry
        )
        self.piece_to_text = Histogram(
            "deepspeech2_piece_to_text_seconds",
            "From the arrival of a piece of live audio to its text",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue = Histogram(
            "deepspeech2_queue_seconds",
            "From the arrival of a piece of live audio to the batch that takes it",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "deepspeech2_refusals", "Requests that were not served, by reason", ["reason"], registry=self.registry
        )
        self.audio = Counter("deepspeech2_audio_seconds", "Seconds of audio taken in", ["kind"], registry=self.registry)

    def on_batch(self, streams: int, queue_seconds: list[float]) -> None:
        self.batch_size.observe(streams)
        for seconds in queue_seconds:
            self.queue.observe(seconds)

    def on_text(self, seconds: list[float]) -> None:
        for each in seconds:
            self.piece_to_text.observe(each)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
