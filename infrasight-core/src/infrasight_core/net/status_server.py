"""Serves a process's metrics and health over HTTP: `/metrics`, `/healthz` and `/readyz`.

Every user of the machine can connect to it. So it tells the reason why the process is not ready to
root and the process's own user only, and slow or idle clients cannot keep others from it.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.local_sockets import Endpoint, local_sockets

log = structlog.get_logger(__name__)
_TEXT = "text/plain; charset=utf-8"
_REQUEST_SECONDS = 5  # between two pieces of a request
_MOST_CONNECTIONS = 32


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
        attributes = {"ready": staticmethod(self._ready), "computing": threading.Lock()}
        handler = type("Handler", (_Handler,), attributes)
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
    """A server with a bounded number of threads: a new connection replaces the oldest one."""

    request_queue_size = 128  # with the default of 5, few clients keep others from connecting
    daemon_threads = True
    block_on_close = False
    _open: dict[socket.socket, None]

    def server_activate(self) -> None:
        self._open = {}
        self._changing = threading.Lock()
        super().server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changing:
            self._open[request] = None
            if len(self._open) > _MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                _disconnect(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs an error in one line, unless the client only disconnected."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("status request failed", reason=repr(error))


def _disconnect(connection: socket.socket) -> None:
    """Ends a connection; its thread notices and closes the socket."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("the client has disconnected", reason=str(error))


class _Handler(BaseHTTPRequestHandler):
    ready: Callable[[], tuple[bool, str]]
    computing: threading.Lock
    timeout = _REQUEST_SECONDS
    server_version = "infrasight"

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                with self.computing:
                    metrics = generate_latest()
                self._answer(HTTPStatus.OK, metrics, CONTENT_TYPE_LATEST)
            case "/healthz":
                self._answer(HTTPStatus.OK, b"ok\n", _TEXT)
            case "/readyz":
                with self.computing:
                    ready, reason = self.ready()
                    if not self._may_know():
                        reason = "ready" if ready else "not ready; the process's log has the reason"
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, f"{reason}\n".encode(), _TEXT)
            case _:
                self._answer(
                    HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n", _TEXT
                )

    def _may_know(self) -> bool:
        """Whether the client is a process of root or of the own user on this machine."""
        try:
            client = Endpoint.of(*self.client_address[:2])
            server = Endpoint.of(*self.connection.getsockname()[:2])
            owners = [
                each.uid
                for each in local_sockets()
                if each.local == client and each.remote == server
            ]
        except (OSError, ValueError) as error:
            log.debug("cannot find out who asks", reason=str(error))
            return False
        return bool(owners) and all(uid in (0, os.geteuid()) for uid in owners)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: health checks and scrapes come several times a minute."""
