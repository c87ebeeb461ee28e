"""Derives a probe's ClickHouse table from its `.sql` file and checks it against the event schema.

The `.sql` file declares the probe's own columns; `event_table.sql` declares the part that the
tables of all probes share. Both are parsed with sqlglot and merged as syntax trees.
"""

from functools import cache
from importlib import resources

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
_CLAUSE_ORDER = (
    exp.OnCluster,
    exp.EngineProperty,
    exp.PartitionedByProperty,
    exp.Order,
    exp.PrimaryKey,
    exp.SampleProperty,
    exp.MergeTreeTTL,
    exp.SettingsProperty,
    exp.SchemaCommentProperty,
)


@frozen
class TableColumn:
    """One column of a probe's table.

    Attributes:
        name: The column's name.
        type: Its ClickHouse type in canonical spelling, e.g. `DateTime64(9, 'UTC')`.
        stored: Whether rows contain a value for it; False for ALIAS and MATERIALIZED columns.
        definition: Name, type, default and codec, as `ALTER TABLE … ADD COLUMN` expects them.
        expression: The expression of an ALIAS or MATERIALIZED column; "" for stored columns.
    """

    name: str
    type: str
    stored: bool
    definition: str
    expression: str = ""


@frozen
class TableIndex:
    """One data-skipping index of a probe's table.

    Attributes:
        name: The index's name.
        definition: Name, expression, type and granularity, as `ALTER TABLE … ADD INDEX` expects
            them.
    """

    name: str
    definition: str


@frozen
class TableDefinition:
    """A probe's complete table.

    Attributes:
        name: The table's name, without a database.
        columns: All columns in order: the header's, the probe's own, then the computed ones.
        indexes: All indexes: the shared ones, then the probe's own.
        own_columns: The names of the columns that the probe's `.sql` file declares.
        statement: The `CREATE TABLE IF NOT EXISTS` statement, formatted, without a semicolon.
    """

    name: str
    columns: tuple[TableColumn, ...]
    indexes: tuple[TableIndex, ...]
    own_columns: frozenset[str]
    statement: str


def define_table(probe: str, schema: EventSchema) -> TableDefinition:
    """Derives a probe's table from its `.sql` file and checks it against the event schema.

    Args:
        probe: The probe's name; the table must be named `<probe>_events`.
        schema: The probe's event schema, which names the `.sql` file.

    Raises:
        SchemaError: The file is not usable, or the table and the event schema differ; the message
            lists every difference.
    """
    try:
        table = derive_table(schema.ddl_text())
    except (SchemaError, OSError) as error:
        raise SchemaError(f"{probe}: DDL {schema.ddl}: {error}") from error
    differences = _differences(probe, table, schema)
    if differences:
        raise SchemaError(
            f"{probe}: DDL does not match {schema.message_type}: {'; '.join(differences)}"
        )
    return table


def derive_table(sql: str) -> TableDefinition:
    """Merges the statement of a probe's `.sql` file with the part that all probes' tables share.

    Args:
        sql: One `CREATE TABLE IF NOT EXISTS` statement with the probe's own columns and, where the
            defaults do not suit, an engine, partition, order, further clauses or indexes.

    Raises:
        SchemaError: The statement is something else, or declares a name that the shared part has.
    """
    create = _parse(sql)
    shared = _shared_part()
    own_items = _items(create)
    shared_items = _items(shared)
    _check_names(own_items, shared_items)
    table = _table(create)
    items = [
        *_stored_columns(shared_items),
        *_stored_columns(own_items),
        *_computed_columns(shared_items),
        *_computed_columns(own_items),
        *_constraints_and_indexes(shared_items),
        *_constraints_and_indexes(own_items),
    ]
    create.set("this", exp.Schema(this=table.copy(), expressions=[item.copy() for item in items]))
    create.set("properties", exp.Properties(expressions=_clauses(create, shared)))
    return TableDefinition(
        name=table.name,
        columns=tuple(_column(item) for item in items if isinstance(item, exp.ColumnDef)),
        indexes=tuple(
            _index(item) for item in items if isinstance(item, exp.IndexColumnConstraint)
        ),
        own_columns=frozenset(item.name for item in own_items if isinstance(item, exp.ColumnDef)),
        statement=create.sql(_DIALECT, pretty=True, comments=False),
    )


def declared_columns(sql: str) -> tuple[TableColumn, ...]:
    """Returns the columns that a `CREATE TABLE IF NOT EXISTS` statement declares, as it stands.

    Raises:
        SchemaError: It is another statement.
    """
    items = _items(_parse(sql))
    return tuple(_column(item) for item in items if isinstance(item, exp.ColumnDef))


def canonical_type(text: str) -> str:
    """Returns a ClickHouse type in the spelling of `TableColumn.type`."""
    return exp.DataType.build(text, dialect=_DIALECT).sql(_DIALECT)


def clickhouse_types(arrow: pa.DataType) -> tuple[str, ...]:
    """Returns the ClickHouse types that can hold every value of an Arrow type."""
    if pa.types.is_dictionary(arrow):
        return clickhouse_types(arrow.value_type)  # a dictionary is an encoding, not a type
    if pa.types.is_list(arrow):
        return tuple(f"Array({item})" for item in clickhouse_types(arrow.value_type))
    if pa.types.is_map(arrow):
        keys = clickhouse_types(arrow.key_type)
        values = clickhouse_types(arrow.item_type)
        return tuple(f"Map({key}, {value})" for key in keys for value in values)
    return _TYPES[arrow]


def _differences(probe: str, table: TableDefinition, schema: EventSchema) -> list[str]:
    differences = []
    if table.name != f"{probe}_events":
        differences.append(f"the table is named {table.name}, not {probe}_events")
    columns = {column.name: column for column in table.columns if column.stored}
    fields = schema.stored.names
    for name in fields:
        if name not in columns:
            differences.append(f"column {name} is missing")
    for name in columns:
        if name not in fields:
            differences.append(f"{schema.message_type} has no field for column {name}")
    if not differences and list(columns) != fields:
        own_columns = [name for name in columns if name in table.own_columns]
        own_fields = [name for name in fields if name in table.own_columns]
        differences.append(
            f"the columns are in the order {', '.join(own_columns)}; "
            f"the message's fields are in the order {', '.join(own_fields)}"
        )
    for field in schema.stored:
        column = columns.get(field.name)
        allowed = clickhouse_types(field.type)
        if column is not None and column.type not in allowed:
            differences.append(
                f"column {column.name} is {column.type}; "
                f"for {field.type} it must be {' or '.join(allowed)}"
            )
    return differences


@cache
def _shared_part() -> exp.Create:
    file = resources.files("infrasight_core") / "plugin" / "event_table.sql"
    return _parse(file.read_text(encoding="utf-8"))


def _parse(sql: str) -> exp.Create:
    try:
        statements = [s for s in sqlglot.parse(sql, dialect=_DIALECT) if s is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SchemaError(f"not ClickHouse SQL: {str(error).splitlines()[0]}") from error
    create = statements[0] if len(statements) == 1 else None
    if (
        not isinstance(create, exp.Create)
        or create.kind != "TABLE"
        or create.args.get("expression") is not None
    ):
        raise SchemaError("must be exactly one CREATE TABLE statement, without AS")
    if not create.args.get("exists"):
        raise SchemaError("must be CREATE TABLE IF NOT EXISTS, so that it can be run again")
    table = _table(create)
    if table.args.get("db") is not None:
        raise SchemaError(
            f"the table name {table.sql(_DIALECT)} must have no database: the server chooses it"
        )
    return create


def _table(create: exp.Create) -> exp.Table:
    table: exp.Table = create.this.this if isinstance(create.this, exp.Schema) else create.this
    return table


def _items(create: exp.Create) -> list[exp.Expression]:
    """Returns what stands between the parentheses; a probe without own columns omits them."""
    return list(create.this.expressions) if isinstance(create.this, exp.Schema) else []


def _check_names(own_items: list[exp.Expression], shared_items: list[exp.Expression]) -> None:
    shared_columns = {item.name for item in shared_items if isinstance(item, exp.ColumnDef)}
    shared_others = {item.name for item in _constraints_and_indexes(shared_items)}
    columns = [item.name for item in own_items if isinstance(item, exp.ColumnDef)]
    repeated = [name for name in columns if name in shared_columns]
    if repeated:
        raise SchemaError(
            f"every event's table has {', '.join(repeated)} already: "
            "declare the probe's own columns only, the core adds the header's"
        )
    for item in _constraints_and_indexes(own_items):
        if item.name in shared_others:
            raise SchemaError(f"every event's table has an index {item.name} already: rename yours")


def _stored_columns(items: list[exp.Expression]) -> list[exp.ColumnDef]:
    return [item for item in items if isinstance(item, exp.ColumnDef) and not _is_computed(item)]


def _computed_columns(items: list[exp.Expression]) -> list[exp.ColumnDef]:
    return [item for item in items if isinstance(item, exp.ColumnDef) and _is_computed(item)]


def _constraints_and_indexes(items: list[exp.Expression]) -> list[exp.Expression]:
    return [item for item in items if not isinstance(item, exp.ColumnDef)]


def _is_computed(column: exp.ColumnDef) -> bool:
    return bool(_expression(column))


def _expression(column: exp.ColumnDef) -> str:
    for constraint in column.constraints:
        if isinstance(constraint.kind, exp.ComputedColumnConstraint):
            return str(constraint.kind.this.sql(_DIALECT, comments=False))
    return ""


def _clauses(create: exp.Create, shared: exp.Create) -> list[exp.Expression]:
    """Returns the clauses after the parentheses: the probe's own, else the shared defaults."""
    defaults = {type(clause): clause for clause in shared.args["properties"].expressions}
    properties = create.args.get("properties")
    own = {type(clause): clause for clause in properties.expressions} if properties else {}
    clauses = {**defaults, **own}
    engine = clauses[exp.EngineProperty].this.name
    if not engine.endswith("MergeTree"):
        raise SchemaError(
            f"ENGINE = {engine}: must be an engine of the MergeTree family; "
            "the server deletes and expires rows"
        )
    if exp.PrimaryKey in own and exp.Order not in own:
        del clauses[exp.Order]  # ClickHouse orders by the primary key then
    if exp.SettingsProperty in own:
        settings = {
            setting.this.name: setting
            for clause in (defaults[exp.SettingsProperty], own[exp.SettingsProperty])
            for setting in clause.expressions
        }
        merged = [setting.copy() for setting in settings.values()]
        clauses[exp.SettingsProperty] = exp.SettingsProperty(expressions=merged)
    return [clause.copy() for clause in sorted(clauses.values(), key=_clause_position)]


def _clause_position(clause: exp.Expression) -> int:
    for position, clause_type in enumerate(_CLAUSE_ORDER):
        if isinstance(clause, clause_type):
            return position
    raise SchemaError(f"clause not supported: {clause.sql(_DIALECT)}")


def _column(definition: exp.ColumnDef) -> TableColumn:
    data_type = definition.args.get("kind")
    if data_type is None:
        raise SchemaError(f"column {definition.name} has no type")
    return TableColumn(
        name=definition.name,
        type=data_type.sql(_DIALECT),
        stored=not _is_computed(definition),
        definition=definition.sql(_DIALECT, comments=False),
        expression=_expression(definition),
    )


def _index(definition: exp.IndexColumnConstraint) -> TableIndex:
    text = definition.sql(_DIALECT, comments=False)
    return TableIndex(name=definition.name, definition=text.removeprefix("INDEX "))
