"""A client of Docker's API, which podman serves too: HTTP over a Unix socket.

It uses the standard library's HTTP client, which the agent needs anyway. The package `docker` would
add 12 MB to the agent for four queries, and does not limit the size of a response.
"""

import http.client
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.description import describe_container, is_image_digest, to_bytes
from infrasight_core.containers.runtime import TIMEOUT
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

_MAX_BODY_BYTES = 64 << 20
_MAX_EVENT_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16
_EVENT_FILTERS = json.dumps({"type": ["container"], "event": ["create", "rename"]})
# The attributes of an event are the container's labels and these.
_NOT_LABELS = {
    "docker": {"name", "image"},
    "podman": {"name", "image", "podId", "containerExitCode"},
}


class DockerClient:
    """A `Runtime` that serves Docker's API.

    Raises:
        RuntimeUnavailableError: Nothing answers at the socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events_socket: socket.socket | None = None
        self._closed = False
        version = self._get("/version")
        components = [part.get("Name", "") for part in version.get("Components") or []]
        self.name = "podman" if "Podman Engine" in components else "docker"
        self.version = f"{self.name} {version.get('Version', '')}".strip()

    def list_containers(self) -> Iterator[Container]:
        """Needs one query, and more for a container whose image is a digest; see `Runtime`."""
        for entry in self._get("/containers/json?all=1"):
            image = entry.get("Image") or ""
            if is_image_digest(to_bytes(image)):
                container = self.find_container(entry["Id"])
                if container is not None:
                    yield container
                    continue
            name = next(iter(entry.get("Names") or ()), "")
            yield self._describe(entry["Id"], name, image, entry.get("Labels"))

    def find_container(self, container_id: str) -> Container | None:
        """Compares the whole id: the API also accepts a prefix or a name; see `Runtime`."""
        quoted_id = urllib.parse.quote(container_id, safe="")
        entry = self._get_if_exists(f"/containers/{quoted_id}/json")
        if entry is None or entry.get("Id") != container_id:
            return None
        config = entry.get("Config") or {}
        image = self._image_name(config.get("Image") or "")
        return self._describe(container_id, entry.get("Name") or "", image, config.get("Labels"))

    def follow_events(self, since: float) -> Iterator[Container | str]:
        """Yields created containers from their events; see `Runtime`.

        A query would come too late for a container that is removed at once.
        """
        connection = _UnixConnection(self._path, None)
        query = urllib.parse.urlencode({"since": int(since), "filters": _EVENT_FILTERS})
        try:
            connection.connect()
            self._events_socket = connection.sock
            if self._closed:
                raise RuntimeUnavailableError(f"{self._path}: closed")
            connection.request("GET", f"/events?{query}")
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeAnswerError(f"{self._path}: no events: status {response.status}")
            while line := response.readline(_MAX_EVENT_BYTES):
                if not line.endswith(b"\n"):
                    raise RuntimeAnswerError(
                        f"{self._path}: an event is longer than {len(line)} bytes"
                    )
                if line.strip():
                    yield self._parse_event(json.loads(line))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error or type(error).__name__
            raise RuntimeUnavailableError(f"{self._path}: events: {reason}") from error
        finally:
            connection.close()
        raise RuntimeUnavailableError(f"{self._path}: the stream of events ended")

    def ping(self) -> None:
        """Uses the cheapest query; see `Runtime`."""
        self._read_body("/_ping")

    def close(self) -> None:
        """Shuts down the stream of events, whichever thread follows it; see `Runtime`."""
        self._closed = True
        events_socket = self._events_socket
        if events_socket is not None and events_socket.fileno() >= 0:
            try:
                events_socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                events_socket.close()  # the runtime has disconnected already

    def _parse_event(self, event: dict[str, Any]) -> Container | str:
        actor = event.get("Actor") or {}
        container_id: str = actor.get("ID") or ""
        attributes = actor.get("Attributes") or {}
        image = attributes.get("image") or ""
        if event.get("Action", event.get("status")) != "create" or is_image_digest(to_bytes(image)):
            return container_id
        not_labels = _NOT_LABELS[self.name]
        labels = {key: value for key, value in attributes.items() if key not in not_labels}
        return self._describe(container_id, attributes.get("name") or "", image, labels)

    def _image_name(self, image: str) -> str:
        """Returns the name of an image that a container names by its digest, if it has one."""
        if not is_image_digest(to_bytes(image)):
            return image
        entry = self._get_if_exists(f"/images/{urllib.parse.quote(image, safe='')}/json") or {}
        return next(iter(entry.get("RepoTags") or ()), image)

    def _describe(
        self, container_id: str, name: str, image: str, labels: dict[str, str] | None
    ) -> Container:
        texts = {key: str(value) for key, value in (labels or {}).items()}
        plain_name = to_bytes(name.removeprefix("/"))
        return describe_container(container_id, self.name, plain_name, to_bytes(image), texts)

    def _get(self, query: str) -> Any:
        """Returns the parsed body of a successful response."""
        return self._parse(self._read_body(query))

    def _get_if_exists(self, query: str) -> Any:
        """Returns the parsed body; None if the status is 404."""
        body = self._read_body(query, may_be_absent=True)
        return None if body is None else self._parse(body)

    def _parse(self, body: bytes | None) -> Any:
        try:
            return json.loads(body or b"")
        except ValueError as error:
            raise RuntimeUnavailableError(f"{self._path}: {error}") from error

    def _read_body(self, query: str, may_be_absent: bool = False) -> bytes | None:
        connection = _UnixConnection(self._path, TIMEOUT)
        try:
            connection.request("GET", query, headers={"Connection": "close"})
            response = connection.getresponse()
            body = self._read_bounded(response, time.monotonic() + TIMEOUT)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error or type(error).__name__
            raise RuntimeUnavailableError(f"{self._path}: {reason}") from error
        finally:
            connection.close()
        if may_be_absent and response.status == http.HTTPStatus.NOT_FOUND:
            return None
        if response.status != http.HTTPStatus.OK:
            raise RuntimeAnswerError(
                f"{self._path}: {query}: status {response.status}: {body[:200]!r}"
            )
        return body

    def _read_bounded(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """Reads a body within a size and a time; the socket's timeout bounds one chunk only."""
        chunks = []
        size = 0
        while chunk := response.read1(_CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > _MAX_BODY_BYTES:
                raise RuntimeAnswerError(
                    f"{self._path}: a response is longer than {_MAX_BODY_BYTES} bytes"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"the response took more than {TIMEOUT:.0f} s")
        return b"".join(chunks)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        """Connects within `TIMEOUT`; the timeout of this connection holds for reading."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)
