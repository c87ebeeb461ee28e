"""The options of the enricher `containers`: the table `options.containers` of the settings."""

from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import ge, le

# Only root can create these sockets. The socket of a user's own runtime (rootless podman or Docker)
# is never used unless `sockets` names it: its owner could claim anything about any container.
DEFAULT_SOCKETS = (
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/cri-dockerd.sock",
    "run/docker.sock",
    "var/run/docker.sock",
    "run/podman/podman.sock",
)


def _require_absolute(_: object, attribute: "Attribute[Any]", paths: tuple[str, ...]) -> None:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(
                f"'{attribute.name}' expected the absolute path of a Unix socket, not {path!r}"
            )


@frozen
class ContainerOptions:
    """How the agent finds and queries container runtimes.

    Attributes:
        sockets: Paths of the runtimes' Unix sockets, as the agent sees them. Empty, the default,
            uses every socket that exists at one of the usual paths.
        wait: How long a batch may wait for the metadata of containers that no earlier batch had,
            in seconds, from 0 to 5.
        host: The folder where an agent in a container sees the host's root file system. The usual
            paths of sockets are relative to it.
    """

    sockets: tuple[str, ...] = field(default=(), validator=_require_absolute)
    wait: float = field(default=0.5, validator=[ge(0), le(5)])
    host: Path = Path("/")

    def socket_paths(self) -> tuple[Path, ...]:
        """Returns the paths where sockets may exist, now or later."""
        if self.sockets:
            return tuple(Path(socket) for socket in self.sockets)
        return tuple(self.host / socket for socket in DEFAULT_SOCKETS)
