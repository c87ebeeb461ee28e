"""The enricher `containers`: which container an event's process is in, by its cgroup, which the kernel tells of beforehand."""

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from infrasight_core.arrays import map_distinct
from infrasight_core.columns import Columns
from infrasight_core.containers.known import KnownCgroups
from infrasight_core.containers.walk import running_mounts, walk
from infrasight_core.context import EnrichContext
from infrasight_core.errors import ConfigError
from infrasight_core.hookspecs import hookimpl
from infrasight_core.kernel.cgroups import running_v1_hierarchy
from infrasight_core.program import BpfProgram, Kernel, Tracepoint

infrasight_api = 1
log = structlog.get_logger(__name__)
OPTIONS: frozenset[str] = frozenset()
_MEMBERS = {"root": 8, "id": 16, "path": 24}
_PATH_INCOMPLETE = 0b110  # in `quality`: the one text of the block, cut or missing
_PATH_BYTES = 1023  # of which the kernel gives no more: a path this long may be cut


def _walk() -> Iterator[tuple[int, str]]:
    mounts = running_mounts(running_v1_hierarchy())
    if not mounts:
        log.warning("no cgroup file system is mounted here: containers that were there before are not known")
    for mount in mounts:
        yield from walk(mount)


cgroups = KnownCgroups(_walk)


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """The tracker of cgroups."""
    if unknown := sorted(options.keys() - OPTIONS):
        raise ConfigError(f"options.containers: {unknown[0]!r} is not known; there are none")
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
    """Remembers what has come and gone; the first time, when nothing can be missed any more, also what was there."""
    paths = columns.array("path").to_pylist()
    complete = (columns.fixed["quality"] & np.uint64(_PATH_INCOMPLETE)) == 0
    for row in np.argsort(columns.fixed["time"], kind="stable").tolist():
        key, path = int(columns.fixed["key"][row]), paths[row]
        happened = cgroups.gone if columns.fixed["gone"][row] else cgroups.made
        if complete[row] and len(path) < _PATH_BYTES:
            happened(key, path.decode("utf-8", "surrogateescape"))
    cgroups.look_around()
    return {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `container_id`, empty where a process is in no container, null where its cgroup is not known."""
    if context.side != "agent":
        return {}
    found = map_distinct(batch.column("cgroup_id"), cgroups.containers, pa.string())
    return {"container_id": found}  # what is known of each of these containers is to stand beside it
