"""A cgroup as one number, the column `cgroup_id`; bpf/task.bpf.h makes the same of a task."""

from pathlib import Path

from attrs import frozen

from infrasight_core.kernel.btf import kernel_enum

ROOT = 1  # the number of a task that is in no cgroup but the roots
V1 = 1 << 63  # marks an id in the v1 hierarchy
# Controllers by which a v1 hierarchy is chosen, the first that is there, and their names in `enum cgroup_subsys_id`: runtimes
# make a cgroup for a container in each of these.
_CONTROLLERS = {
    "memory": "memory_cgrp_id",
    "pids": "pids_cgrp_id",
    "cpu": "cpu_cgrp_id",
    "devices": "devices_cgrp_id",
    "freezer": "freezer_cgrp_id",
    "blkio": "io_cgrp_id",
}


@frozen
class V1Hierarchy:
    """The v1 hierarchy whose ids count where the v2 one is not in use.

    Attributes:
        number: The kernel's, as in /proc/self/cgroup and in the tracepoints' `root`; the v2 hierarchy has 0.
        controller: By which it was chosen.
    """

    number: int
    controller: str


def v1_hierarchy(listed: str) -> V1Hierarchy | None:
    """Chooses it from the text of a /proc/PID/cgroup, which names every hierarchy; None where there is none but v2.

    Mounts do not matter, so that this is the same in every namespace.
    """
    found: dict[str, int] = {}
    for line in listed.splitlines():
        number, controllers, _ = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), int(number))
    chosen = next((name for name in _CONTROLLERS if found.get(name)), None)
    return V1Hierarchy(found[chosen], chosen) if chosen else None


def running_v1_hierarchy() -> V1Hierarchy | None:
    """That of the running kernel."""
    return v1_hierarchy(
        Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    )


def cgroup_defines() -> dict[str, int]:
    """What tells a program which v1 hierarchy counts; nothing where none does. Raises KernelError."""
    hierarchy = running_v1_hierarchy()
    if hierarchy is None:
        return {}
    index = kernel_enum("cgroup_subsys_id")[_CONTROLLERS[hierarchy.controller]]
    return {"CGROUP_V1_HIERARCHY": hierarchy.number, "CGROUP_V1_INDEX": index}
