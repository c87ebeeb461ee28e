"""A probe's ClickHouse DDL, read and checked against its event schema. Only the server and the tests need it (sqlglot)."""

import pyarrow as pa
import sqlglot
from attrs import frozen
from sqlglot import exp

from infrasight_core.errors import SchemaError
from infrasight_core.plugin.schema import IP_ADDRESS, TIMESTAMP, EventSchema

_DIALECT = "clickhouse"
_TYPES = {
    pa.bool_(): ("Bool", "UInt8"),
    pa.int32(): ("Int32",),
    pa.int64(): ("Int64",),
    pa.uint32(): ("UInt32",),
    pa.uint64(): ("UInt64",),
    pa.float32(): ("Float32",),
    pa.float64(): ("Float64",),
    pa.string(): ("String", "LowCardinality(String)"),
    pa.binary(): ("String", "LowCardinality(String)"),
    IP_ADDRESS: ("IPv6",),
    TIMESTAMP: ("DateTime64(9, 'UTC')", "DateTime64(9)"),
}


@frozen
class TableColumn:
    """A column as the DDL defines it.

    Attributes:
        name: Its name.
        type: Its ClickHouse type in canonical spelling, e.g. `DateTime64(9, 'UTC')`.
        stored: Whether rows bring it; False for ALIAS and MATERIALIZED columns, which ClickHouse computes.
        definition: Name, type, default and codec, as `ALTER TABLE … ADD COLUMN` takes them.
    """

    name: str
    type: str
    stored: bool
    definition: str


@frozen
class TableDefinition:
    """A `CREATE TABLE`.

    Attributes:
        name: The table's name, without a database.
        columns: All columns in order.
    """

    name: str
    columns: tuple[TableColumn, ...]


def parse(sql: str) -> TableDefinition:
    """Reads the one `CREATE TABLE IF NOT EXISTS` that a probe's `.sql` resource holds.

    Raises:
        SchemaError: It is not that, or not ClickHouse SQL.
    """
    try:
        statements = [s for s in sqlglot.parse(sql, dialect=_DIALECT) if s is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SchemaError(f"not ClickHouse SQL: {str(error).splitlines()[0]}") from error
    create = statements[0] if len(statements) == 1 else None
    if (
        not isinstance(create, exp.Create)
        or create.kind != "TABLE"
        or not isinstance(create.this, exp.Schema)
    ):
        raise SchemaError(
            "must be one CREATE TABLE statement with a list of columns, and nothing else"
        )
    if not create.args.get("exists"):
        raise SchemaError("must be CREATE TABLE IF NOT EXISTS, so that it can be run again")
    table = create.this.this
    if table.args.get("db") is not None:
        raise SchemaError(
            f"the table's name {table.sql(_DIALECT)} must have no database: the server chooses it"
        )
    columns = tuple(_column(c) for c in create.this.expressions if isinstance(c, exp.ColumnDef))
    return TableDefinition(table.name, columns)


def canonical_type(text: str) -> str:
    """A ClickHouse type in the spelling that `TableColumn.type` has."""
    return exp.DataType.build(text, dialect=_DIALECT).sql(_DIALECT)


def check(probe: str, schema: EventSchema) -> None:
    """Sees that the DDL and the event schema say the same.

    Raises:
        SchemaError: They do not; the message lists every difference.
    """
    try:
        table = parse(schema.ddl_text())
    except (SchemaError, OSError) as error:
        raise SchemaError(f"{probe}: DDL {schema.ddl}: {error}") from error
    wrong = []
    if table.name != f"{probe}_events":
        wrong.append(f"the table is called {table.name}, not {probe}_events")
    stored = {c.name: c for c in table.columns if c.stored}
    names = schema.stored.names
    wrong += [f"column {name} is missing" for name in names if name not in stored]
    wrong += [
        f"column {name} is in no field of {schema.message_type}"
        for name in stored
        if name not in names
    ]
    if not wrong and list(stored) != names:
        wrong.append(
            f"the columns' order is {', '.join(stored)}; in the message it is {', '.join(names)}"
        )
    for field in schema.stored:
        allowed = clickhouse_types(field.type)
        column = stored.get(field.name)
        if column is not None and column.type not in allowed:
            wrong.append(
                f"column {column.name} is {column.type}; for {field.type} it must be {' or '.join(allowed)}"
            )
    if wrong:
        raise SchemaError(
            f"{probe}: DDL does not agree with {schema.message_type}: {'; '.join(wrong)}"
        )


def clickhouse_types(arrow: pa.DataType) -> tuple[str, ...]:
    """The ClickHouse types that keep every value of an Arrow type."""
    if pa.types.is_dictionary(arrow):
        return clickhouse_types(arrow.value_type)  # the dictionary is an encoding, not a type
    if pa.types.is_list(arrow):
        return tuple(f"Array({item})" for item in clickhouse_types(arrow.value_type))
    if pa.types.is_map(arrow):
        keys, values = clickhouse_types(arrow.key_type), clickhouse_types(arrow.item_type)
        return tuple(f"Map({key}, {value})" for key in keys for value in values)
    return _TYPES[arrow]


def _column(definition: exp.ColumnDef) -> TableColumn:
    kind = definition.args.get("kind")
    if kind is None:
        raise SchemaError(f"column {definition.name} has no type")
    computed = any(isinstance(c.kind, exp.ComputedColumnConstraint) for c in definition.constraints)
    sql = definition.sql(_DIALECT, comments=False)
    return TableColumn(definition.name, kind.sql(_DIALECT), not computed, sql)
