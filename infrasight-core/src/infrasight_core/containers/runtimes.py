"""Detects the container runtime behind a socket and connects to it."""

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from attrs import frozen

from infrasight_core.containers.runtime import TIMEOUT, Runtime
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError


def connect(path: Path) -> Runtime:
    """Connects to the runtime behind a socket, which its answer identifies if its name does not.

    The modules of the clients are imported only when they are needed, so that an agent without
    container runtimes does not hold them in memory.

    Raises:
        RuntimeUnavailableError: Nothing answers there, or not a supported runtime.
    """
    try:
        if _speaks_http(path):
            from infrasight_core.containers.docker_api import DockerClient

            return DockerClient(path)
        from infrasight_core.containers.cri import CriClient

        return CriClient(path)
    except RuntimeAnswerError as error:
        raise RuntimeUnavailableError(str(error)) from error


def socket_exists(path: Path) -> bool:
    """Returns whether a socket exists; without the permission to see it, connecting will tell."""
    try:
        return path.is_socket()
    except PermissionError:
        return True


@frozen
class SocketStatus:
    """The result of connecting to a socket.

    Attributes:
        path: The socket's path.
        version: The runtime that answers; empty if none does.
        reason: The reason why no runtime answers.
    """

    path: Path
    version: str = ""
    reason: str = ""


def check_sockets(paths: Iterable[Path]) -> list[SocketStatus]:
    """Connects to every existing socket at the same time; links to one socket count once."""
    sockets = list({path.resolve(): path for path in paths if socket_exists(path)}.values())
    if not sockets:
        return []
    with ThreadPoolExecutor(len(sockets)) as pool:
        return list(pool.map(_check_socket, sockets))


def _check_socket(path: Path) -> SocketStatus:
    try:
        with closing(connect(path)) as runtime:
            return SocketStatus(path, runtime.version)
    except RuntimeUnavailableError as error:
        return SocketStatus(path, reason=str(error))


def _speaks_http(path: Path) -> bool:
    if path.name in ("docker.sock", "podman.sock"):
        return True
    if path.name in ("containerd.sock", "crio.sock", "cri-dockerd.sock"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(path))
            connection.sendall(
                b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            # A gRPC server answers with a frame of HTTP/2, or disconnects.
            return connection.recv(5) == b"HTTP/"
    except ConnectionResetError:
        return False
    except OSError as error:
        raise RuntimeUnavailableError(f"{path}: {error}") from error
