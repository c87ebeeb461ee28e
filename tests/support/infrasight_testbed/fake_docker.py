"""A server of Docker's API that knows the containers a test gives it."""

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from infrasight_testbed.container_service import short_folder


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    containers: Mapping[str, Mapping[str, str]]  # labels by container id


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answers the queries of DockerClient."""
        path = self.path.split("?")[0]
        known = self.server.containers
        if path == "/version":
            self._answer({"Version": "0", "Components": []})
        elif path == "/containers/json":
            self._answer(
                [{"Id": each, "Image": "i", "Labels": dict(known[each])} for each in known]
            )
        elif path == "/events":
            self._answer_nothing()
        elif path == "/_ping":
            self._answer("OK")
        else:
            container_id = path.split("/")[2]
            config = {"Image": "i", "Labels": dict(known.get(container_id, {}))}
            entry = {"Id": container_id, "Name": "/n", "Config": config}
            self._answer(entry, 200 if container_id in known else 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer_nothing(self) -> None:
        """Keeps a stream without events open until the client leaves."""
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.rfile.read(1)

    def address_string(self) -> str:
        """A client of a Unix socket has no address."""
        return "client"

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


@contextmanager
def fake_docker(containers: Mapping[str, Mapping[str, str]]) -> Iterator[Path]:
    """Serves containers, given as labels by id; yields the socket."""
    with short_folder() as folder:
        path = folder / "docker.sock"
        with _Server(str(path), _Handler) as server:
            server.containers = containers
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield path
            server.shutdown()
            thread.join()
