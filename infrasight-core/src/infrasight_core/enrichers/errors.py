"""The enricher `errors`: the name of a negative return code, as people know it (`ENOENT`)."""

import errno
from collections.abc import Mapping

import pyarrow as pa

from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `error`; source: errno(3), and 512 and up, which only tracers see (include/linux/errno.h)."""
    if context.side != "agent":
        return {}
    return {
        "error": map_distinct(
            batch.column("return_code"), lambda codes: [name_of(c) for c in codes], pa.string()
        )
    }


def name_of(return_code: int) -> str:
    """`ENOENT` for -2, empty for 0 and above, the number for an errno without a name."""
    if return_code >= 0:
        return ""
    return _KERNEL_ONLY.get(-return_code) or errno.errorcode.get(-return_code) or str(-return_code)


_KERNEL_ONLY = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}
