"""The enricher `containers`: adds the container of each event's process, and its metadata.

The cgroup of the process identifies the container, if root created that cgroup or a container
runtime of its maker confirms it. A tracker in the kernel reports every cgroup that is created,
renamed or removed, so that a container is known before its first event.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from infrasight_core.containers.cgroup_index import CgroupIndex, Claim
from infrasight_core.containers.cgroup_walk import Cgroup, visible_mounts, walk_cgroups
from infrasight_core.containers.columns import FIELD_OF_COLUMN, ContainerColumnBuilder
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.kernel.cgroups import running_v1_hierarchy
from infrasight_core.plugin.arrays import constant, map_distinct
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl
from infrasight_core.plugin.program import BpfProgram, Kernel, Tracepoint
from infrasight_core.plugin.quality import flag_mask, flag_names

infrasight_api = 1
infrasight_options = ContainerOptions
log = structlog.get_logger(__name__)
_MEMBERS = {"root": 8, "id": 16, "path": 24}
_PATH_INCOMPLETE = flag_mask(("path_cut", "path_missing"), flag_names(("path",)))
_MAX_PATH_BYTES = 1023  # the kernel truncates longer paths, so one of this length may be incomplete


def _walk_all() -> Iterator[Cgroup]:
    mounts = visible_mounts(running_v1_hierarchy())
    if not mounts:
        log.warning("no cgroup file system is mounted: existing containers cannot be identified")
    for mount in mounts:
        yield from walk_cgroups(mount)


cgroup_index = CgroupIndex(_walk_all)
_builder = OptionState("containers", ContainerOptions, ContainerColumnBuilder)


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Returns the tracker of cgroups."""
    cgroup_index.require_walk()
    return BpfProgram(
        resources.files("infrasight_core") / "bpf" / "cgroups.bpf.c",
        attach=(
            Tracepoint("cgroup_made", "cgroup:cgroup_mkdir", members=_MEMBERS),
            Tracepoint("cgroup_renamed", "cgroup:cgroup_rename", members=_MEMBERS),
            Tracepoint("cgroup_gone", "cgroup:cgroup_rmdir", members=_MEMBERS),
        ),
        slots=4096,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Applies the tracker's events to the index of cgroups.

    The first call also walks the existing cgroups: from then on the tracker reports every change.
    """
    paths = [path.decode("utf-8", "surrogateescape") for path in columns.array("path").to_pylist()]
    is_complete = (columns.fixed["quality"] & _PATH_INCOMPLETE) == 0
    new_containers: list[str] = []
    for row in np.argsort(columns.fixed["time"], kind="stable").tolist():
        cgroup_id = int(columns.fixed["key"][row])
        path = paths[row]
        if not is_complete[row] or len(path) >= _MAX_PATH_BYTES:
            continue
        if columns.fixed["gone"][row]:
            cgroup_index.mark_removed(cgroup_id, path)
        else:
            owner = cgroup_index.add(cgroup_id, path, int(columns.fixed["uid"][row]))
            if owner and isinstance(owner, str):
                new_containers.append(owner)
    builder = _builder.current
    if builder is not None:
        builder.prefetch(new_containers)
    cgroup_index.refresh()
    return {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `container_id` and the columns of the container's metadata.

    All are empty for a process outside of containers. `container_id` is null if the cgroup is
    unknown, or has a container's name that nobody confirms; a metadata column is null while the
    runtime has not reported it.
    """
    if context.side != "agent":
        return {}
    # The first batch starts the lookup, whether it has containers or not: from then on the names
    # of containers are known in time, even if they are removed at once.
    builder = _builder.of(context)

    def containers_of(cgroup_ids: Sequence[int]) -> list[str | None]:
        owners = cgroup_index.containers_of(cgroup_ids)
        claims = [owner for owner in owners if isinstance(owner, Claim)]
        confirmed = builder.confirm(claims) if claims else frozenset()
        containers: list[str | None] = []
        for owner in owners:
            if isinstance(owner, Claim):
                containers.append(owner.container_id if owner in confirmed else None)
            else:
                containers.append(owner)
        return containers

    container_ids = map_distinct(batch.column("cgroup_id"), containers_of, pa.string())
    if container_ids.null_count or any(container_ids.dictionary.to_pylist()):
        metadata = builder.build(container_ids)
    else:
        metadata = dict.fromkeys(FIELD_OF_COLUMN, constant(b"", batch.num_rows, pa.binary()))
    return {"container_id": container_ids, **metadata}
