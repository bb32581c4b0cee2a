"""The web application: all HTTP and websocket protocols, protected by a token and limits.

`GET /health` is for load balancers, `GET /metrics` for Prometheus, and `GET /` is a page with a microphone.
"""

import contextlib
import hmac
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from .limits import Refusal, overloaded
from .protocols import openai_files, openai_realtime, vosk
from .protocols.openai_files import error_body
from .service import Service


OPEN_PATHS = ("/", "/health")  # without a token; the websocket at / is not one of them
SINGLE_HEADERS = ("authorization", "host", "origin")  # two of them: a proxy in front may have looked at the other one
WEBSOCKET_PATHS = ("/", "/v1/realtime")
LOOPBACK_NAME = re.compile(r"(127(\.\d+){3}|localhost|\[::1\])(:\d+)?")
TOKEN_PREFIX = "openai-insecure-api-key."  # of a subprotocol: browsers cannot set headers of websockets
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; connect-src 'self' ws: wss:"

logger = logging.getLogger(__name__)


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """The application of a service; with a token that every client must send, if there is one."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        await service.end()
        service.stop()

    app = FastAPI(title="Deep Speech 2", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    for protocol in (openai_files, openai_realtime, vosk):
        app.include_router(protocol.router)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        is_ready = service.is_ready and service.is_alive
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return answer(service, refusal)

    @app.exception_handler(HTTPException)
    async def refuse_path(_: Request, error: HTTPException) -> Response:
        response = answer(service, Refusal(str(error.detail), "no_such_path", error.status_code))
        response.headers.update(error.headers or {})  # the methods that are allowed
        return response

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        logger.error("A request failed", exc_info=error)
        return answer(service, Refusal("The request could not be served.", "failed", 500))

    app.add_middleware(Guard, service=service, token=token)
    return app


def answer(service: Service, refusal: Refusal) -> Response:
    """A refusal in the format of the OpenAI API."""
    service.refused(refusal)
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    if refusal.status == 503:
        headers["Retry-After"] = "5"
    return JSONResponse({"error": error_body(refusal)}, refusal.status, headers)


@dataclass
class _Body:
    """Bytes of a request's body so far; they count until it is answered."""

    size: int = 0


class Guard:
    """Checks every request before the application: its token, its origin, and the size of its body.

    Without a token, only requests that were sent to a loopback name are served: the page of another site could otherwise be
    resolved to this machine, and be its own origin.
    """

    def __init__(self, app: Any, service: Service, token: str | None):
        self.app, self.service = app, service
        self.token = None if token is None else token.encode()
        self.most_bytes = round(service.limits.max_mb * 1e6)
        self.most_held_bytes, self.held_bytes = round(service.limits.max_waiting_mb * 1e6), 0  # of all bodies

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        names = [name.decode("latin-1").lower() for name, _ in scope["headers"]]
        headers = {name: value.decode("latin-1") for name, (_, value) in zip(names, scope["headers"])}
        body = _Body()
        try:
            for name in SINGLE_HEADERS:
                if names.count(name) > 1:
                    raise Refusal(f"{name}: found this header {names.count(name)} times, expected it once.")
            self._check_origin(scope, headers)
            self._check_token(scope, headers)
            if scope["type"] == "http":
                self._check_declared_length(headers)
            elif scope["path"] not in WEBSOCKET_PATHS:
                raise Refusal("There is no websocket at this path.", "no_such_path", 404)
        except Refusal as refusal:
            await self._refuse(scope, receive, send, refusal)
            return
        try:
            await self.app(scope, self._counted(receive, body), send)
        finally:
            self.held_bytes -= body.size

    def _check_origin(self, scope: dict, headers: dict[str, str]) -> None:
        """A page of another site must not use the browser of somebody who may reach this server."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if self.token is None and scope["path"] != "/health" and not LOOPBACK_NAME.fullmatch(host):
            raise Refusal("Without --token_file only requests to 127.0.0.1 or localhost are served.", "wrong_host", 403)
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal("Requests from pages of other sites are not served.", "wrong_origin", 403)

    def _check_token(self, scope: dict, headers: dict[str, str]) -> None:
        given, offered = headers.get("authorization", ""), scope.get("subprotocols", [])
        given = given[7:] if given[:7].lower() == "bearer " else ""
        for name in offered:
            if name.startswith(TOKEN_PREFIX):
                given = name[len(TOKEN_PREFIX) :]
            elif "accepted_subprotocol" not in scope:  # a browser gives up if none is accepted; a secret is not repeated
                scope["accepted_subprotocol"] = name
        is_open = self.token is None or (scope["type"] == "http" and scope["path"] in OPEN_PATHS)
        if not is_open and not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token):
            raise Refusal("The token is missing or wrong: send 'Authorization: Bearer TOKEN'.", "wrong_token", 401)

    def _too_large(self) -> Refusal:
        return Refusal(f"The body is larger than {self.service.limits.max_mb:g} MB.", "too_large", 413)

    def _check_declared_length(self, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            raise self._too_large()

    def _counted(self, receive: Any, body: "_Body") -> Any:
        async def count() -> dict:
            message = await receive()
            size = len(message.get("body", b""))
            body.size += size
            self.held_bytes += size
            if body.size > self.most_bytes:
                raise self._too_large()
            if self.held_bytes > self.most_held_bytes:
                raise overloaded("too many uploads at the same time")
            return message

        return count

    async def _refuse(self, scope: dict, receive: Any, send: Any, refusal: Refusal) -> None:
        response = answer(self.service, refusal)
        if scope["type"] == "http":
            response.headers["Connection"] = "close"  # what else its body holds is not read
            await response(scope, receive, send)
        elif "websocket.http.response" in scope.get("extensions", {}):
            await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": response.raw_headers})
            await send({"type": "websocket.http.response.body", "body": response.body})
        else:
            await send({"type": "websocket.close", "code": refusal.close_code})
