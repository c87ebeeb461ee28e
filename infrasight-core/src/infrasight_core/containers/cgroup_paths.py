"""Finds the container that a cgroup belongs to by the cgroup's path; a pure function."""

import re
from collections.abc import Iterator

_ID = "[0-9a-f]{64}"
# Names that identify a container by themselves. With systemd they carry the runtime's prefix and
# `.scope`; without systemd, CRI-O and podman still use the prefix. The form with colons is a name
# for systemd that a runtime without systemd uses unchanged. `libpod-conmon-…` and `crio-conmon-…`
# hold a container's monitor and do not match.
_RUNTIME_NAME = re.compile(
    rf"(?:docker|cri-containerd|containerd|nerdctl|crio|libpod|libpod-payload)-({_ID})\.scope"
    rf"|(?:crio|libpod|libpod-payload)-({_ID})"
    rf"|[^:]+:(?:docker|cri-containerd|containerd|nerdctl|crio|libpod):({_ID})"
)
_BARE_ID = re.compile(_ID)
# A pod of Kubernetes, named after its uid; a static pod is named after a hash.
_POD = re.compile(r"pod[0-9a-f]{8}[-_0-9a-f]{0,28}|pod[0-9a-f]{32}")
# The cgroups of podman's monitors, directly below the one that carries the container's name.
_MONITORS = ("conmon", "supervisor")
# Parents of cgroups whose names are 64 hex digits but that are not containers: podman's pods and
# the units of systemd.
_NOT_A_RUNTIME = re.compile(r"libpod_parent|.*\.(?:slice|scope|service|mount|socket|swap)")


def container_id_of(path: str) -> str:
    """Returns the id of the innermost container that a cgroup belongs to; empty if there is none.

    Programs in a container may create cgroups of any name. All cgroups below a container's cgroup
    belong to that container.

    Args:
        path: The path from the root of the hierarchy, such as `/docker/0123…`.
    """
    return next((container_id for _, container_id in container_cgroups_of(path)), "")


def container_cgroups_of(path: str) -> Iterator[tuple[str, str]]:
    """Yields the cgroups on a path that are named as containers' own, and the containers' ids.

    The innermost comes first.
    """
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) - 1, -1, -1):
        if _holds_monitor(parts, depth):
            continue
        container_id = _container_at(parts, depth)
        if container_id:
            yield "/" + "/".join(parts[: depth + 1]), container_id


def _holds_monitor(parts: list[str], depth: int) -> bool:
    """Returns whether the path leads through this part to one of podman's monitors."""
    below = parts[depth + 1 : depth + 2]
    return parts[depth].startswith("libpod-") and bool(below) and below[0] in _MONITORS


def _container_at(parts: list[str], depth: int) -> str:
    """Returns the id of the container whose own cgroup this part is; empty if there is none."""
    if match := _RUNTIME_NAME.fullmatch(parts[depth]):
        return next(group for group in match.groups() if group)
    if _BARE_ID.fullmatch(parts[depth]) and _is_runtime_parent(parts[:depth]):
        return parts[depth]
    return ""


def _is_runtime_parent(above: list[str]) -> bool:
    """Returns whether a bare id below these parts names a container.

    A runtime without systemd creates `/<parent>/<id>`, where the parent is usually `docker`, or
    the namespace for nerdctl. Kubernetes creates `…/pod<uid>/<id>`, ECS `/ecs/<task>/<id>`.
    """
    if not above:
        return False
    if above[-1] == "docker" or _POD.fullmatch(above[-1]):
        return True
    if above[0] == "ecs" and len(above) > 1:
        return True
    return len(above) == 1 and not _NOT_A_RUNTIME.fullmatch(above[0])
