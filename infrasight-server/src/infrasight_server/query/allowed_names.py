"""Lists what a query may use: functions, table functions and system tables, all in lower case."""

from importlib.resources import files

_LONGEST_NAME = 200
_SECTION_OF_AGGREGATES = "[Aggregate Functions]"
COMBINATORS = (
    *("If", "Array", "Map", "ForEach", "Distinct", "OrDefault", "OrNull", "Resample"),
    *("ArgMin", "ArgMax", "SimpleState", "State", "Merge", "Null", "Tuple"),
)
"""What ClickHouse appends to the name of an aggregate function."""
TABLE_FUNCTIONS = frozenset(
    {
        *("format", "null", "sqlstandardvalues", "values", "view"),
        *("generate_series", "generaterandom", "generateseries", "primes"),
        *("numbers", "numbers_mt", "zeros", "zeros_mt"),
    }
)
"""The table functions that make rows out of their arguments; `merge` has a separate rule."""
SYSTEM_TABLES = frozenset(
    {
        *("numbers", "numbers_mt", "one", "primes", "zeros", "zeros_mt"),
        *("columns", "databases", "parts", "tables"),
        *("aggregate_function_combinators", "data_type_families", "functions"),
        *("formats", "keywords", "table_functions", "time_zones"),
    }
)
"""The tables of `system` that describe the schema and the SQL dialect, or make rows."""
INFORMATION_SCHEMA_TABLES = frozenset(
    {"columns", "key_column_usage", "schemata", "statistics", "tables", "views"}
)
"""The views of `information_schema`."""
WITHOUT_ARGUMENTS = frozenset({"connection_id", "hostname", "revision", "tid", "uptime"})
"""Functions that a query may not call, but whose names it may use for a column, as the header's
`tid`: they have no arguments, so that ClickHouse cannot apply them to anything."""


def _read() -> tuple[frozenset[str], frozenset[str]]:
    text = (files(__package__) / "functions.txt").read_text(encoding="ascii")
    ordinary, aggregates = text.split(_SECTION_OF_AGGREGATES)
    return _names(ordinary), _names(aggregates)


def _names(text: str) -> frozenset[str]:
    lines = [line for line in text.splitlines() if not line.startswith(("#", "["))]
    return frozenset(name.lower() for line in lines for name in line.split())


FUNCTIONS, AGGREGATES = _read()
"""The ordinary and the aggregate functions; functions.txt says why these."""


def is_function(name: str) -> bool:
    """Returns whether a query may call a function, or an aggregate function with combinators."""
    if len(name) > _LONGEST_NAME:
        return False
    return name.lower() in FUNCTIONS or _is_aggregate(name)


def _is_aggregate(name: str) -> bool:
    while name.lower() not in AGGREGATES:
        for combinator in COMBINATORS:
            if name.endswith(combinator):
                name = name.removesuffix(combinator)
                break
        else:
            return False
    return True
