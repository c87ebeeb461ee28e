"""The enricher `errors`: adds the name of a negative return code, such as `ENOENT`."""

import errno
from collections.abc import Mapping

import pyarrow as pa

from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1
# Codes that the kernel never returns to a program, but that tracers see.
# Source: include/linux/errno.h.
_KERNEL_ONLY = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `error`; source: errno(3)."""
    if context.side != "agent":
        return {}
    names = map_distinct(batch.column("return_code"), _error_names, pa.string())
    return {"error": names}


def error_name(return_code: int) -> str:
    """Returns `ENOENT` for -2, an empty string for 0 and above, the number if it has no name."""
    if return_code >= 0:
        return ""
    code = -return_code
    return _KERNEL_ONLY.get(code) or errno.errorcode.get(code) or str(code)


def _error_names(return_codes: list[int]) -> list[str]:
    return [error_name(return_code) for return_code in return_codes]
