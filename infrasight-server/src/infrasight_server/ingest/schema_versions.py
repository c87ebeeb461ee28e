"""Accepts the events of agents whose probe is older than the server's.

A column that an older probe does not have is empty and flagged. A newer probe's batches wait at the
agent until the server's probe is upgraded, because its new columns would be lost here.
"""

import numpy as np
import pyarrow as pa
from infrasight_core.errors import SchemaError
from infrasight_core.plugin.arrays import empty_values
from infrasight_core.plugin.quality import add_flag, missing_flag
from infrasight_core.plugin.schema import is_optional

_NAMED = 5  # columns in a message


def find_incompatibility(theirs: pa.Schema, ours: pa.Schema) -> str:
    """Returns why the server cannot store an agent's columns; "" if it can.

    Args:
        theirs: The columns that the agent sends, in any order.
        ours: The columns that the server's version of the probe has.
    """
    unknown = [name for name in theirs.names if name not in ours.names]
    if unknown:
        return (
            f"the agent's version of the probe has further columns, {', '.join(unknown[:_NAMED])}: "
            "upgrade the probe's package beside the server"
        )
    if len(set(theirs.names)) < len(theirs.names):
        return "a column occurs twice"
    for field in theirs:
        own_type = ours.field(field.name).type
        if not field.type.equals(own_type):
            return (
                f"column {field.name} has the type {field.type} in the agent's version of the "
                f"probe, and {own_type} in the server's: install the same version on both"
            )
    return ""


def parse_schema(serialized: bytes) -> pa.Schema:
    """Reads the schema of a hello. Raises SchemaError."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(serialized))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SchemaError(f"not a serialized Arrow schema: {reason}") from error


def adapt(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns an agent's events with the columns of the server's version of the probe.

    A column that the table lacks is empty, and flagged in `quality` unless it is optional.

    Args:
        table: Events in which `find_incompatibility` finds nothing.
        schema: The agent columns of the server's version.

    Raises:
        SchemaError: The pieces of a column do not fit together.
    """
    if not table.num_rows:
        return schema.empty_table()
    rows = table.num_rows
    try:
        whole = table.combine_chunks()
    except pa.ArrowException as error:
        raise SchemaError(f"its columns cannot be merged: {error}") from error
    columns: dict[str, pa.Array] = {}
    flags = []
    for field in schema:
        if field.name in whole.column_names:
            columns[field.name] = pa.concat_arrays(whole[field.name].chunks)
        else:
            columns[field.name] = empty_values(rows, field.type)
            if not is_optional(field):
                flags.append(missing_flag(field.name))
    for flag in flags:
        columns["quality"] = add_flag(columns["quality"], flag, np.ones(rows, np.bool_))
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
