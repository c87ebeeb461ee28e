"""What the settings say of container runtimes: the table `options.containers`."""

from pathlib import Path
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import ge, le

# What only root can put there. A user's own socket (rootless podman or Docker) is never found by itself: whoever owns it could
# say anything of anyone's containers. It can be named in `sockets`.
PLACES = (
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


def _absolute(_: object, attribute: "Attribute[Any]", paths: tuple[str, ...]) -> None:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(
                f"'{attribute.name}' expected the absolute path of a Unix socket, not {path!r}"
            )


@frozen
class ContainerOptions:
    """How container runtimes are found and asked.

    Attributes:
        sockets: Paths of the runtimes' sockets, as the agent sees them; none named: those that are at the usual places.
        wait: How long a batch may wait, in seconds, for containers that no batch had before.
        host: Where the host's root is, if the agent is itself in a container; it stands before the usual places.
    """

    sockets: tuple[str, ...] = field(default=(), validator=_absolute)
    wait: float = field(default=0.5, validator=[ge(0), le(5)])
    host: Path = Path("/")

    def places(self) -> tuple[Path, ...]:
        """Where sockets may be, now or later."""
        return tuple(map(Path, self.sockets)) or tuple(self.host / place for place in PLACES)
