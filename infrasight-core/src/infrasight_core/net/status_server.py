"""Serves a process's metrics and health over HTTP: `/metrics`, `/healthz` and `/readyz`."""

import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address

log = structlog.get_logger(__name__)
_TEXT = "text/plain; charset=utf-8"
_REQUEST_SECONDS = 10


class StatusServer:
    """A small HTTP server that runs in threads.

    Args:
        listen: Where it listens, as `host:port`; port 0 lets the kernel choose.
        ready: Returns whether the process works, and the reason in one line. `/readyz` calls it.
    """

    def __init__(self, listen: str, ready: Callable[[], tuple[bool, str]]) -> None:
        self._listen = Address.parse(listen)
        if self._listen.is_unix:
            raise ConfigError(f"status address {listen!r}: write host:port")
        self._ready = ready
        self._server: ThreadingHTTPServer | None = None
        self._thread: Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`, with the real port once it is started."""
        if self._server is None:
            return str(self._listen)
        return str(Address(self._listen.host, int(self._server.server_address[1])))

    def start(self) -> None:
        """Starts to listen.

        Raises:
            ConfigError: The address is in use or does not belong to this machine.
        """
        handler = type("Handler", (_Handler,), {"ready": staticmethod(self._ready)})
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family})
        try:
            self._server = server_class((self._listen.host, self._listen.port), handler)
        except OSError as error:
            raise ConfigError(
                f"status address {self._listen}: cannot listen there: {error.strerror}; "
                "choose another with status_listen"
            ) from error
        self._thread = Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops listening, if it was started."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None
        self._thread = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs an error in one line, unless the client only disconnected."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("status request failed", reason=repr(error))


class _Handler(BaseHTTPRequestHandler):
    ready: Callable[[], tuple[bool, str]]
    timeout = _REQUEST_SECONDS
    server_version = "infrasight"

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(), CONTENT_TYPE_LATEST)
            case "/healthz":
                self._answer(HTTPStatus.OK, b"ok\n", _TEXT)
            case "/readyz":
                ready, reason = self.ready()
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, f"{reason}\n".encode(), _TEXT)
            case _:
                self._answer(
                    HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n", _TEXT
                )

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: health checks and scrapes come several times a minute."""
