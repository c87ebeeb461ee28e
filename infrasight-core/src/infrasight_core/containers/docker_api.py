"""Docker's API, which podman answers too, over a Unix socket.

By the standard library: the agent has its HTTP client anyway, where the package `docker` would add 12 MB to it for four
questions, and puts no bound to an answer.
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

from infrasight_core.containers.description import describe, to_bytes
from infrasight_core.containers.runtimes import TIMEOUT
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

_ANSWER_BYTES, _EVENT_BYTES = 64 << 20, 4 << 20
_EVENTS = json.dumps({"type": ["container"], "event": ["create", "rename"]})
_NOT_LABELS = {
    "docker": {"name", "image"},
    "podman": {"name", "image", "podId", "containerExitCode"},
}  # in events' attributes


class DockerApi:
    """A `Runtime`; see there.

    Raises:
        RuntimeUnavailableError: Nobody answers at the socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._following: socket.socket | None = None
        self._closed = False
        said = self._get("/version")
        parts = [part.get("Name", "") for part in said.get("Components") or []]
        self.name = "podman" if "Podman Engine" in parts else "docker"
        self.version = f"{self.name} {said.get('Version', '')}".strip()

    def all(self) -> Iterator[Container]:
        """One question, and more for a container whose image is told as a digest only."""
        for entry in self._get("/containers/json?all=1"):
            image = entry.get("Image") or ""
            if _is_digest(image) and (found := self.one(entry["Id"])):
                yield found
            else:
                yield self._described(
                    entry["Id"],
                    next(iter(entry.get("Names") or ()), ""),
                    image,
                    entry.get("Labels"),
                )

    def one(self, container_id: str) -> Container | None:
        """By its whole id: the API takes the beginning of one, and a name, for another container's too."""
        entry = self._get(
            f"/containers/{urllib.parse.quote(container_id, safe='')}/json", absent=True
        )
        if entry is None or entry.get("Id") != container_id:
            return None
        config = entry.get("Config") or {}
        image = self._for_people(config.get("Image") or "")
        return self._described(container_id, entry.get("Name") or "", image, config.get("Labels"))

    def follow(self, since: float) -> Iterator[Container | str]:
        """What is created, in the words of its event: a container may be gone before it could be asked of."""
        connection = _Connection(self._path, None)
        question = urllib.parse.urlencode({"since": int(since), "filters": _EVENTS})
        try:
            connection.connect()
            self._following = connection.sock
            if self._closed:
                raise RuntimeUnavailableError(f"{self._path}: closed")
            connection.request("GET", f"/events?{question}")
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeAnswerError(f"{self._path}: no events: status {answer.status}")
            while line := answer.readline(_EVENT_BYTES):
                if not line.endswith(b"\n"):
                    raise RuntimeAnswerError(
                        f"{self._path}: an event of more than {len(line)} bytes"
                    )
                if line.strip():
                    yield from self._event(json.loads(line))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RuntimeUnavailableError(
                f"{self._path}: events: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()
        raise RuntimeUnavailableError(f"{self._path}: its events ended")

    def ping(self) -> None:
        """The cheapest question."""
        self._get("/_ping", plain=True)

    def close(self) -> None:
        """Ends the following, in whichever thread that is."""
        self._closed = True
        following = self._following
        if following is not None and following.fileno() >= 0:
            try:
                following.shutdown(socket.SHUT_RDWR)
            except OSError:
                following.close()  # the other end was faster

    def _event(self, event: dict[str, Any]) -> Iterator[Container | str]:
        actor = event.get("Actor") or {}
        container_id, said = actor.get("ID") or "", actor.get("Attributes") or {}
        if event.get("Action", event.get("status")) != "create" or _is_digest(
            said.get("image") or ""
        ):
            yield container_id
            return
        labels = {key: value for key, value in said.items() if key not in _NOT_LABELS[self.name]}
        yield self._described(container_id, said.get("name") or "", said.get("image") or "", labels)

    def _for_people(self, image: str) -> str:
        """What an image is called that a container was made of by its id, if it is called anything."""
        if not _is_digest(image):
            return image
        entry = self._get(f"/images/{urllib.parse.quote(image, safe='')}/json", absent=True) or {}
        return next(iter(entry.get("RepoTags") or ()), image)

    def _described(
        self, container_id: str, name: str, image: str, labels: dict[str, str] | None
    ) -> Container:
        texts = {key: str(value) for key, value in (labels or {}).items()}
        return describe(
            container_id, self.name, to_bytes(name.removeprefix("/")), to_bytes(image), texts
        )

    def _get(self, question: str, absent: bool = False, plain: bool = False) -> Any:
        connection = _Connection(self._path, TIMEOUT)
        try:
            connection.request("GET", question, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = self._read(answer, time.monotonic() + TIMEOUT)
            if absent and answer.status == http.HTTPStatus.NOT_FOUND:
                return None
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeAnswerError(
                    f"{self._path}: {question}: status {answer.status}: {body[:200]!r}"
                )
            return body if plain else json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RuntimeUnavailableError(
                f"{self._path}: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        """A whole body, bounded in bytes and in time: a time-out alone is for each piece."""
        pieces, size = [], 0
        while piece := answer.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if size > _ANSWER_BYTES:
                raise RuntimeAnswerError(
                    f"{self._path}: an answer of more than {_ANSWER_BYTES} bytes"
                )
            if time.monotonic() > deadline:
                raise TimeoutError("the answer takes too long")
        return b"".join(pieces)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        """Connects in time, and keeps the time for what is read."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)


def _is_digest(image: str) -> bool:
    """Whether an image is named by what only machines read."""
    bare = image.removeprefix("sha256:")
    return len(bare) >= 12 and all(digit in "0123456789abcdef" for digit in bare)
