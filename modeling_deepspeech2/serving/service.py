"""The models of a server and the state that all protocols share: models by name, connected clients, and the shutdown."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from ..decoding_deepspeech2 import CTCBeamSearchDecoder, Decoder, GreedyDecoder, has_decoder
from ..errors import UserError
from ..hypotheses import Calibration
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from .dispatcher import Dispatcher
from .engine import Engine, TorchEngine
from .files import FileWorker
from .limits import Limits, Refusal, overloaded
from .metrics import Metrics
from .session import Session


logger = logging.getLogger(__name__)


@dataclass
class ServedModel:
    """A model by its name."""

    name: str
    folder: str
    language: str | None
    between: str  # two utterances
    rate: int  # hertz
    has_search: bool  # else the best path is taken
    dispatcher: Dispatcher | None  # None: it reads both ways, and serves files only

    def check_hotwords(self, hotwords: dict[str, float] | None) -> None:
        """Whether live streams of the model can have them.

        Raises:
            Refusal: they cannot be spelt, or the model has no search that prefers them.
        """
        try:
            self.dispatcher.decoder.start(hotwords)
        except UserError as error:
            raise Refusal(str(error), param="hotwords") from error


class Service:
    """All that the protocols need.

    Args:
        models: folders or repositories; the first is the default for clients that name none.
        lm: "on", "off", or "auto", whether the decoder that is saved beside each model is used, if there is one.
        limits: of clients.
        engine: "torch", or "onnx" for the live graph in onnxruntime; files are transcribed by torch.

    Raises:
        UserError: no such model, two of one name, or no decoder beside it.
    """

    def __init__(self, models: list[str], lm: str = "auto", limits: Limits | None = None, engine: str = "torch"):
        self.engine = _find_engine(engine)
        self.limits, self.metrics = limits or Limits(), Metrics()
        self.models: dict[str, ServedModel] = {}
        for folder in models:
            model = self._load(folder, lm)
            if model.name in self.models:
                raise UserError(f"--model: found two models of the name {model.name}, expected different names.")
            self.models[model.name] = model
        folders = {one.name: (one.folder, one.has_search) for one in self.models.values()}
        self.files = FileWorker(folders, self.limits)
        self.is_ready = self.is_ending = False
        self._tasks: set[asyncio.Task] = set()

    def _load(self, folder: str, lm: str) -> ServedModel:
        try:
            model = DeepSpeech2ForCTC.from_pretrained(folder).eval()
            processor = DeepSpeech2Processor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"--model: found no Deep Speech 2 model in {folder} ({reason})") from error
        extractor, tokenizer, dispatcher = processor.feature_extractor, processor.tokenizer, None
        has_search = lm == "on" or (lm == "auto" and has_decoder(folder))
        decoder: Decoder = GreedyDecoder(tokenizer, Calibration(*model.config.word_confidence))
        if has_search:
            decoder = CTCBeamSearchDecoder.from_pretrained(folder, tokenizer)
        if not model.config.bidirectional and extractor.normalization != "utterance":
            engine = self.engine(model, extractor)
            dispatcher = Dispatcher(engine, tokenizer, decoder, self.limits.max_streams, self.metrics)
        name = Path(folder).absolute().name if Path(folder).exists() else folder
        language, between = tokenizer.language, tokenizer.utterance_separator
        return ServedModel(name, folder, language, between, extractor.sampling_rate, has_search, dispatcher)

    async def warm_up(self) -> None:
        """One second of silence through every model; the server is ready after it."""
        for model in self.models.values():
            if model.dispatcher is not None:
                session = self.session(model)
                await session.put(np.zeros(model.rate, np.int16).tobytes())
                await session.finish()
                session.close()
        await self.files.ready()
        self.is_ready = True

    @property
    def is_alive(self) -> bool:
        """Whether all models are still served; else the server should be started again."""
        return all(one.dispatcher is None or one.dispatcher.is_alive for one in self.models.values())

    def find(self, name: str | None, live: bool = False, language: str | None = None) -> ServedModel:
        """Finds the model that a client names; without a name, the first suitable one for the language.

        Raises:
            Refusal: there is none.
        """
        fitting = [one for one in self.models.values() if one.dispatcher is not None or not live]
        if name:
            known = ", ".join(one.name for one in fitting) or "none"
            fitting = [one for one in fitting if one.name == name]
            if not fitting:
                kind = "live model" if live else "model"
                message = f"model: found no {kind} {name[:100]!r}, expected one of {known}."
                raise Refusal(message, "no_model", 404, param="model")
        if language:
            language = language.replace("_", "-").split("-")[0].lower()
            fitting = [one for one in fitting if one.language in (None, language)]
        if not fitting:
            raise Refusal(f"language: found no such model for {language[:40]!r}.", "no_model", 404, param="language")
        return fitting[0]

    def session(self, model: ServedModel, rate: Any = None, **settings: Any) -> Session:
        """A live stream of a model; without a rate at the model's own."""
        return Session(model.dispatcher, model.rate if rate is None else rate, self.limits, self.metrics, **settings)

    def refused(self, refusal: Refusal) -> None:
        """Counts a refusal."""
        self.metrics.refusals.labels(refusal.reason).inc()

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Context of a live connection, whose task is cancelled at shutdown; `is_ending` then says why."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            if self.is_ending:
                raise Refusal("The server is ending.", "ending", 503, 1001)
            if len(self._tasks) > 2 * self.limits.max_streams:
                raise overloaded(f"{len(self._tasks)} clients are connected")
            yield
        finally:
            self._tasks.discard(task)

    async def end(self) -> None:
        """Gives live connections their last text, and `shutdown_seconds` for it."""
        self.is_ending, self.is_ready = True, False
        for task in set(self._tasks):
            task.cancel()
        with anyio.move_on_after(self.limits.shutdown_seconds):
            while self._tasks:
                await anyio.sleep(0.02)

    def stop(self) -> None:
        """Ends threads and processes."""
        for model in self.models.values():
            if model.dispatcher is not None:
                model.dispatcher.stop()
        self.files.stop()


def _find_engine(name: str) -> type[Engine]:
    if name == "torch":
        return TorchEngine
    try:
        from .onnx_engine import OnnxEngine  # its packages are extras
    except ModuleNotFoundError as error:
        raise UserError(f"--engine: onnx needs the package {error.name}: pip install onnx onnxruntime") from error
    return OnnxEngine


def finite(value: float) -> float:
    """A number that JSON can hold."""
    return round(value, 4) if math.isfinite(value) else 0.0
