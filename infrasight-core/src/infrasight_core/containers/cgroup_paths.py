"""Which container a cgroup belongs to, by its path: a pure function, and the names that runtimes give."""

import re

_ID = "[0-9a-f]{64}"
# A name that says by itself what it is. With systemd the runtime's prefix and `.scope`; without, CRI-O and podman keep the
# prefix; with colons, what a runtime is given for systemd and makes without it. `libpod-conmon-…` and `crio-conmon-…` hold a
# container's monitor and do not fit.
_NAMED = re.compile(
    rf"(?:docker|cri-containerd|containerd|nerdctl|crio|libpod|libpod-payload)-({_ID})\.scope"
    rf"|(?:crio|libpod|libpod-payload)-({_ID})"
    rf"|[^:]+:(?:docker|cri-containerd|containerd|nerdctl|crio|libpod):({_ID})"
)
_BARE = re.compile(_ID)
_POD = re.compile(
    r"pod[0-9a-f]{8}[-_0-9a-f]{0,28}|pod[0-9a-f]{32}"
)  # of Kubernetes, by its uid; of a static pod, by a hash
_MONITORS = (
    ["conmon"],
    ["supervisor"],
)  # podman's, directly below what carries the container's name
# Who makes pods and services of 64 digits, which are no containers, and what is systemd's.
_NOT_A_RUNTIME = re.compile(r"libpod_parent|.*\.(?:slice|scope|service|mount|socket|swap)")


def container_of(path: str) -> str:
    """The id of the innermost container that a cgroup belongs to, as its runtime has it; empty where it belongs to none.

    A cgroup below a container's belongs to that container, whatever its name: programs in there make some of their own.

    Args:
        path: From the root of the hierarchy, `/docker/0123…`.
    """
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) - 1, -1, -1):
        is_monitors = (
            parts[depth].startswith("libpod-") and parts[depth + 1 : depth + 2] in _MONITORS
        )
        if not is_monitors and (found := _container_at(parts, depth)):
            return found
    return ""


def _container_at(parts: list[str], depth: int) -> str:
    """The id of the container whose own cgroup is this part; empty where it is none's."""
    if match := _NAMED.fullmatch(parts[depth]):
        return next(group for group in match.groups() if group)
    return parts[depth] if _BARE.fullmatch(parts[depth]) and _is_runtimes(parts[:depth]) else ""


def _is_runtimes(above: list[str]) -> bool:
    """Whether a bare id below these is a container's: a runtime without systemd makes `/<parent>/<id>`, `docker` as a rule, the
    namespace for nerdctl; Kubernetes `…/pod<uid>/<id>`; ECS `/ecs/<task>/<id>`."""
    if not above:
        return False
    if above[-1] == "docker" or _POD.fullmatch(above[-1]) or (above[0] == "ecs" and len(above) > 1):
        return True
    return len(above) == 1 and not _NOT_A_RUNTIME.fullmatch(above[0])
