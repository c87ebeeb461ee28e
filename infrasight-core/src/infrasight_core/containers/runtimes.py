"""What every container runtime can be asked, and which one stands behind a socket."""

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Protocol

from attrs import frozen
from infrasight.v1.stream_pb2 import Container

from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

TIMEOUT = 5.0  # seconds in which a runtime that lives answers; on a machine with too much to do it takes some


class Runtime(Protocol):
    """A connected runtime. One thread asks; another may follow; `close` is for any.

    Attributes:
        name: `docker`, `podman` or `cri`, as in `Container.runtime`.
        version: Its name and version for people.
    """

    name: str
    version: str

    def all(self) -> Iterator[Container]:
        """Every container that it has, also those that do not run."""

    def one(self, container_id: str) -> Container | None:
        """One container; None where it knows none of that id."""

    def follow(self, since: float) -> Iterator[Container | str]:
        """The containers that it creates, or the ids of those that it must be asked of again, as long as it lives.

        It ends only where the runtime has no such events.

        Args:
            since: Seconds since the epoch: what came about after that is told too.
        """

    def ping(self) -> None:
        """Returns where it lives."""

    def close(self) -> None:
        """Hangs up; who follows or waits for an answer is refused."""


# Each of them may raise RuntimeUnavailableError, when the runtime is gone or silent, or RuntimeAnswerError, which concerns the one
# question only.


def connect(path: Path) -> Runtime:
    """The runtime behind a socket, by what it answers where the socket's name does not tell.

    What only one of them needs is imported here and not before: an agent without runtimes does not carry it.

    Raises:
        RuntimeUnavailableError: Nobody answers there, or no runtime that is known.
    """
    try:
        if _speaks_http(path):
            from infrasight_core.containers.docker_api import DockerApi

            return DockerApi(path)
        from infrasight_core.containers.cri import Cri

        return Cri(path)
    except RuntimeAnswerError as error:
        raise RuntimeUnavailableError(str(error)) from error


def is_there(path: Path) -> bool:
    """Whether there is a socket; where that may not be seen, connecting will say so."""
    try:
        return path.is_socket()
    except PermissionError:
        return True


@frozen
class Answer:
    """What a socket answered.

    Attributes:
        path: Of the socket.
        version: Who answers; empty where nobody does.
        reason: Why not.
    """

    path: Path
    version: str = ""
    reason: str = ""


def answers(paths: Iterable[Path]) -> list[Answer]:
    """Who answers at the sockets that are there; all are asked at the same time."""
    there = list({path.resolve(): path for path in paths if is_there(path)}.values())
    if not there:
        return []
    with ThreadPoolExecutor(len(there)) as pool:
        return list(pool.map(_answer, there))


def _answer(path: Path) -> Answer:
    try:
        with closing(connect(path)) as runtime:
            return Answer(path, runtime.version)
    except RuntimeUnavailableError as error:
        return Answer(path, reason=str(error))


def _speaks_http(path: Path) -> bool:
    if path.name in ("docker.sock", "podman.sock"):
        return True
    if path.name in ("containerd.sock", "crio.sock", "cri-dockerd.sock"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(TIMEOUT)
            asking.connect(str(path))
            asking.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return asking.recv(5) == b"HTTP/"  # gRPC begins with a frame of HTTP/2, or hangs up
    except ConnectionResetError:
        return False
    except OSError as error:
        raise RuntimeUnavailableError(f"{path}: {error}") from error
