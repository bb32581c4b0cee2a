"""Runs the application on a port, and shuts it down so that live streams still get their last text."""

import contextlib
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from ..errors import UserError
from .app import create_app
from .connections import HttpConnection, WebsocketConnection, disconnect_deaf_clients
from .service import Service


LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST_TOKEN = 16  # characters


class Server(uvicorn.Server):
    """Uvicorn, and beside it a Wyoming port if one is wanted.

    Args:
        service: what is served.
        host, port: where; port 0 takes any that is free.
        token: every client has to know it; None: no token.
        wyoming: port of the Wyoming protocol; None: none.
    """

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        wyoming: int | None = None,
    ):
        limits = service.limits
        config = uvicorn.Config(
            create_app(service, token),
            host=host,
            port=port,
            http=HttpConnection,
            ws=WebsocketConnection,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=2 * limits.max_streams + 4 * limits.max_waiting_files,
            timeout_graceful_shutdown=round(limits.shutdown_seconds),
            ws_max_size=limits.max_message_bytes,
            ws_per_message_deflate=False,  # samples do not get smaller, and small messages could become large
            ws_ping_timeout=None,  # a client whose socket is not read cannot answer; who says nothing is idle
        )
        super().__init__(config)
        self.service, self.wyoming_port, self.wyoming = service, wyoming, None

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:  # uvicorn has said why
            return
        if self.wyoming_port is not None:
            from .protocols import wyoming  # its package is an extra of its own

            self.wyoming = await wyoming.start(self.service, self.wyoming_port)
            self.wyoming_port = self.wyoming.sockets[0].getsockname()[1]
        names, host = ", ".join(self.service.models), self.config.host
        host = f"[{host}]" if ":" in host else host
        print(f"Serving {names} at http://{host}:{self.port}/", file=sys.stderr, flush=True)
        listening = [*self.servers, *([self.wyoming] if self.wyoming else [])]
        disconnect_deaf_clients(
            (one for server in listening for one in server.sockets), self.service.limits.patience_seconds
        )

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]

    async def shutdown(self, sockets: list | None = None) -> None:
        """No new connections; live streams get their last text; then everything else ends."""
        for server in [*self.servers, *([self.wyoming] if self.wyoming else [])]:
            server.close()
        await self.service.end()
        await super().shutdown(sockets)


def check_port(option: str, host: str, port: int) -> None:
    """Before models are loaded.

    Raises:
        UserError: nothing can listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"{option}: cannot listen on {host}, port {port} ({error.strerror}).") from error


def read_token(file: str | Path | None, host: str) -> str | None:
    """The first line of a file; without one only the loopback address is served.

    Raises:
        UserError: no token for another host, or one that is not there or too short.
    """
    if file is None:
        if host not in LOOPBACK:
            raise UserError(f"--host: {host} can be reached by others, so clients need a token: give --token_file.")
        return None
    try:
        token = Path(file).read_text(encoding="utf-8").strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token_file: {file} cannot be read ({getattr(error, 'strerror', error)}).") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or not token.isascii() or " " in token:
        raise UserError(
            f"--token_file: expected at least {SHORTEST_TOKEN} ASCII characters without spaces in the first line of {file}."
        )
    return token


def run(server: Server) -> None:
    """Serves until a signal ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends all streams, then raises the signal again
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
