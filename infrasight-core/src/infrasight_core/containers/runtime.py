"""The interface to a container runtime, which the clients of Docker and of the CRI implement."""

from collections.abc import Iterator
from typing import Protocol

from infrasight.v1.stream_pb2 import Container

TIMEOUT = 5.0  # seconds for an answer; a healthy runtime on a busy machine needs some of them


class Runtime(Protocol):
    """A connected container runtime.

    One thread queries it, another may follow its events; any thread may close it. Every method
    except `close` may raise RuntimeUnavailableError, if the runtime is gone or silent, or
    RuntimeAnswerError, which concerns that one query only.

    Attributes:
        name: `docker`, `podman` or `cri`, as in `Container.runtime`.
        version: The runtime's name and version, to show to people.
    """

    name: str
    version: str

    def list_containers(self) -> Iterator[Container]:
        """Yields every container, whether it is running or not."""

    def find_container(self, container_id: str) -> Container | None:
        """Returns the container with this full id, if there is one."""

    def follow_events(self, since: float) -> Iterator[Container | str]:
        """Yields containers that are created, and ids of containers to query again.

        It ends without an error only if the runtime has no such events.

        Args:
            since: Seconds since the epoch; events after that time are yielded, too.
        """

    def ping(self) -> None:
        """Returns if the runtime answers."""

    def close(self) -> None:
        """Disconnects; queries and the followed events then raise RuntimeUnavailableError."""
