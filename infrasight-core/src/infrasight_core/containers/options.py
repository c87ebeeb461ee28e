"""What the settings say of container runtimes: the table `options.containers`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from attrs.validators import ge, le

from infrasight_core.errors import ConfigError
from infrasight_core.plugin.options import options_of

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


@frozen
class ContainerOptions:
    """How container runtimes are found and asked.

    Attributes:
        sockets: Paths of the runtimes' sockets, as the agent sees them; none named: those that are at the usual places.
        wait: How long a batch may wait, in seconds, for containers that no batch had before.
        host: Where the host's root is, if the agent is itself in a container; it stands before the usual places.
    """

    sockets: tuple[str, ...] = ()
    wait: float = field(default=0.5, validator=[ge(0), le(5)])
    host: Path = Path("/")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ContainerOptions":
        """From the table `options.containers`.

        Raises:
            ConfigError: A key is unknown, or a value is not allowed.
        """
        read = options_of("containers", options, cls)
        for path in read.sockets:
            if not path.startswith("/"):
                raise ConfigError(
                    f"options.containers.sockets: {path!r}: expected the absolute path of a Unix socket"
                )
        return read

    def places(self) -> tuple[Path, ...]:
        """Where sockets may be, now or later."""
        return tuple(map(Path, self.sockets)) or tuple(self.host / place for place in PLACES)
