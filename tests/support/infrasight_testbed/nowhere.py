"""The enricher of a recording that is not about containers: each process is in none, and no program of the kernel is needed."""

from collections.abc import Mapping

import pyarrow as pa
from infrasight_core import EnrichContext, constant, hookimpl
from infrasight_core.containers.columns import NAMES

infrasight_api = 1


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """The container's columns, empty."""
    nothing = constant(b"", batch.num_rows, pa.binary())
    return {
        "container_id": constant("", batch.num_rows, pa.string()),
        **dict.fromkeys(NAMES, nothing),
    }
