"""An enricher for recordings without containers: every process is in none, no tracker is loaded."""

from collections.abc import Mapping

import pyarrow as pa
from infrasight_core import EnrichContext, constant, hookimpl
from infrasight_core.containers.columns import FIELD_OF_COLUMN

infrasight_api = 1


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Fills the container columns with empty values."""
    no_name = constant(b"", batch.num_rows, pa.binary())
    return {
        "container_id": constant("", batch.num_rows, pa.string()),
        **dict.fromkeys(FIELD_OF_COLUMN, no_name),
    }
