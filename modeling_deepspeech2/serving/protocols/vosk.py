"""The websocket protocol of Vosk's server, at `/`: each message of samples gets one answer.

The client may begin with `{"config": {"sample_rate": 16000, "words": true}}`, sends 16-bit samples as binary messages and
ends with `{"eof": 1}`. An answer is `{"partial": …}`, or `{"result": […], "text": …}` at the end of an utterance. `"model"`
and `"hotwords"` in the configuration are extensions.
"""

from fastapi import APIRouter, WebSocket

from ..dispatcher import Update
from ..limits import Refusal, check_hotwords
from ..service import Service, finite
from ..session import Session
from .websockets import parse, receive, send, serving


router = APIRouter()


@router.websocket("/")
async def vosk(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope.get("accepted_subprotocol"))
    await _Connection(websocket, websocket.app.state.service).serve()


class _Connection:
    def __init__(self, websocket: WebSocket, service: Service):
        self.websocket, self.service, self.limits = websocket, service, service.limits
        self.config: dict = {}
        self.session: Session | None = None

    async def serve(self) -> None:
        try:
            async with serving(self.websocket, self.service, self._tell, self._finish):
                while await self._answer(await receive(self.websocket, self.limits.idle_seconds)):
                    pass
        finally:
            self._close()

    async def _answer(self, message: str | bytes) -> bool:
        """Whether more may come."""
        if isinstance(message, bytes):
            session = self._open()
            await session.put(message)
            await self._send(self._result(await session.settle(), is_over=False))
            return True
        content = parse(message)
        if "config" in content:
            self._configure(content["config"])
        elif "eof" in content or "reset" in content:
            await self._finish()
            return "reset" in content
        else:
            raise Refusal("Expected 'config', 'reset', 'eof' or binary samples.")
        return True

    def _configure(self, config: object) -> None:
        if self.session is not None:
            raise Refusal("config: found it after samples, expected it before the first ones or after a reset.")
        if not isinstance(config, dict):
            raise Refusal("config: expected an object.", param="config")
        for field in ("phrase_list", "max_alternatives"):
            if config.get(field):
                raise Refusal(f"{field}: this server has no such setting; use 'hotwords' to prefer words.", param=field)
        self.config = config

    def _open(self) -> Session:
        if self.session is None:
            name = self.config.get("model")
            if not isinstance(name, str | None):
                raise Refusal("model: expected text.", param="model")
            model = self.service.find(name, live=True)
            hotwords = check_hotwords(self.config.get("hotwords"), self.limits)
            self.session = self.service.session(model, self.config.get("sample_rate"), hotwords=hotwords)
            self.between = model.between
        return self.session

    async def _finish(self) -> None:
        update = await self._open().finish()
        self._close()
        await self._send(self._result(update, is_over=True))

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def _result(self, update: Update, is_over: bool) -> dict:
        if not update.ended and not is_over:
            return {"partial": str(update.text)}
        answer: dict = {"text": self.between.join(one.text for one in update.ended)}
        words = [span for one in update.ended for span in one.words]
        if words and self.config.get("words", True):
            answer["result"] = [
                {"conf": finite(one.confidence), "end": finite(one.end), "start": finite(one.start), "word": one.text}
                for one in words
            ]
        return answer

    async def _send(self, content: dict) -> None:
        await send(self.websocket, content, self.limits.patience_seconds)

    async def _tell(self, refusal: Refusal) -> None:
        await self._send({"error": str(refusal), "code": refusal.reason})
