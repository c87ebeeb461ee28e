"""The enricher `containers`: which container an event's process is in, by its cgroup, which the kernel tells of beforehand; and
what the container's runtime says of it."""

import threading
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from infrasight_core.containers.cgroup_index import CgroupIndex
from infrasight_core.containers.cgroup_paths import container_of
from infrasight_core.containers.cgroup_walk import running_mounts, walk
from infrasight_core.containers.columns import NAMES, ContainerColumns
from infrasight_core.containers.options import ContainerOptions
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
_PATH_BYTES = 1023  # of which the kernel gives no more: a path this long may be cut


def _walk() -> Iterator[tuple[int, str]]:
    mounts = running_mounts(running_v1_hierarchy())
    if not mounts:
        log.warning(
            "no cgroup file system is mounted here: containers that were there before are not known"
        )
    for mount in mounts:
        yield from walk(mount)


cgroups = CgroupIndex(_walk)
_names: tuple[EnrichContext, ContainerColumns] | None = None


def _names_for(context: EnrichContext) -> ContainerColumns:
    """What the runtimes say, by these options, told to this receiver."""
    global _names
    if _names is None or (_names[0].options, _names[0].publish) != (
        context.options,
        context.publish,
    ):
        begun = ContainerColumns(context.options, context.publish)
        if _names is not None:  # not here: it waits for its threads, and the recorder must not
            threading.Thread(target=_names[1].close, name="containers-close", daemon=True).start()
        _names = context, begun
    return _names[1]


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """The tracker of cgroups."""
    cgroups.begin()
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
    """Remembers what has come and gone; the first time, when nothing can be skipped any more, also what was there."""
    paths = [path.decode("utf-8", "surrogateescape") for path in columns.array("path").to_pylist()]
    made: list[str] = []
    complete = (columns.fixed["quality"] & _PATH_INCOMPLETE) == 0
    for row in np.argsort(columns.fixed["time"], kind="stable").tolist():
        key, path = int(columns.fixed["key"][row]), paths[row]
        if not complete[row] or len(path) >= _PATH_BYTES:
            continue
        if columns.fixed["gone"][row]:
            cgroups.gone(key, path)
        else:
            cgroups.made(key, path)
            made.append(path)
    if _names is not None:
        _names[1].expect(filter(None, map(container_of, made)))
    cgroups.look_around()
    return {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `container_id`, empty where a process is in no container, null where its cgroup is not known; and what the runtime
    says of the container, null where it does not, for now."""
    if context.side != "agent":
        return {}
    names = _names_for(
        context
    )  # from the first event on: a container that is removed at once has its name in time
    found = map_distinct(batch.column("cgroup_id"), cgroups.containers, pa.string())
    if not found.null_count and not any(found.dictionary.to_pylist()):
        return {
            "container_id": found,
            **dict.fromkeys(NAMES, constant(b"", batch.num_rows, pa.binary())),
        }
    return {"container_id": found, **names.columns(found)}
