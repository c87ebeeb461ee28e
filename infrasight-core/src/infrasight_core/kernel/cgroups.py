"""Identifies a cgroup by one number, the column `cgroup_id`; bpf/task.bpf.h computes the same."""

from pathlib import Path

from attrs import frozen

from infrasight_core.kernel.btf import kernel_enum

ROOT = 1  # the number of a task that is in the root of every hierarchy
V1 = 1 << 63  # marks an id in the v1 hierarchy
# The controllers that choose a v1 hierarchy, the first that exists, with their names in
# `enum cgroup_subsys_id`. Container runtimes create a cgroup in each of these.
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
    """The v1 hierarchy whose ids identify cgroups where the v2 hierarchy is not in use.

    Attributes:
        number: The kernel's number for it, as in /proc/self/cgroup and in the tracepoints' `root`.
            The v2 hierarchy has the number 0.
        controller: The controller that chose it.
    """

    number: int
    controller: str


def v1_hierarchy(listing: str) -> V1Hierarchy | None:
    """Chooses the v1 hierarchy from the text of a /proc/PID/cgroup, which lists all hierarchies.

    Returns None if there is only v2. The result does not depend on mounts, so it is the same in
    every namespace.
    """
    numbers: dict[str, int] = {}
    for line in listing.splitlines():
        number, controllers, _ = line.split(":", 2)
        numbers |= dict.fromkeys(controllers.split(","), int(number))
    for controller in _CONTROLLERS:
        if numbers.get(controller):
            return V1Hierarchy(numbers[controller], controller)
    return None


def running_v1_hierarchy() -> V1Hierarchy | None:
    """Returns the v1 hierarchy of the running kernel, None if there is only v2."""
    return v1_hierarchy(
        Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    )


def cgroup_defines() -> dict[str, int]:
    """Returns the macros that tell a program the v1 hierarchy; none if there is only v2.

    Raises:
        KernelError: The kernel's BTF cannot be read.
    """
    hierarchy = running_v1_hierarchy()
    if hierarchy is None:
        return {}
    index = kernel_enum("cgroup_subsys_id")[_CONTROLLERS[hierarchy.controller]]
    return {"CGROUP_V1_HIERARCHY": hierarchy.number, "CGROUP_V1_INDEX": index}
