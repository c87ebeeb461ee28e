"""Decides which statements users may run: those that only read the tables of InfraSight.

A statement is judged, and later run, in the canonical form in which ClickHouse writes the syntax
tree that its own parser made (`Store.formatted`). In this form there are no comments, operators
such as CAST are calls, and nothing is left out; ClickHouse's `EXPLAIN AST` hides the functions of
APPLY and the settings. The guard looks at every name, because ClickHouse accepts the name of a
function also without a call: `arrayMap(file, paths)`, `* APPLY file`.
"""

import time
from collections.abc import Iterator
from threading import Lock

from attrs import frozen
from infrasight_core.errors import QueryError

from infrasight_server.query.allowed_names import (
    INFORMATION_SCHEMA_TABLES,
    SYSTEM_TABLES,
    TABLE_FUNCTIONS,
    WITHOUT_ARGUMENTS,
    is_function,
)
from infrasight_server.query.statement import Kind, Statement, Token
from infrasight_server.store.clickhouse import Store

MAX_STATEMENT_BYTES = 64 << 10
_MAX_CANONICAL_LENGTH = 1 << 20
_NAMES_SECONDS = 60.0
_DICTIONARY = "containers_known"
_READING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
_SCHEMA_DATABASES = {"system": SYSTEM_TABLES, "information_schema": INFORMATION_SCHEMA_TABLES}
# Keywords that may stand before a parenthesis.
_KEYWORDS = frozenset(
    {
        *("ALL", "AND", "ANY", "APPLY", "AS", "ASC", "BETWEEN", "BY", "COLUMNS", "CUBE", "DESC"),
        *("DISTINCT", "ELSE", "EXCEPT", "EXISTS", "EXPLAIN", "FROM", "GLOBAL", "GROUPING"),
        *("HAVING", "ILIKE", "IN", "INTERPOLATE", "INTERSECT", "IS", "JOIN", "LIKE", "LIMIT"),
        *("MATERIALIZED", "NOT", "OFFSET", "ON", "OR", "OVER", "PREWHERE", "QUALIFY", "REPLACE"),
        *("ROLLUP", "SELECT", "SETS", "STEP", "STRICT", "TABLE", "THEN", "TO", "UNION", "USING"),
        *("WHEN", "WHERE", "WITH", "exists", "grouping"),
    }
)
_AFTER_LIST_ELEMENT = (
    *("ASC", "DESC", "FROM", "WHERE", "PREWHERE", "GROUP", "HAVING", "WINDOW", "QUALIFY"),
    *("ORDER", "LIMIT", "OFFSET", "UNION", "INTERSECT", "EXCEPT", "WITH"),
)
_SHOW = ("TABLES", "DATABASES", "COLUMNS", "CREATE")


@frozen
class StoreNames:
    """Names that the guard has to know.

    Attributes:
        functions: The names of all functions that the store knows, in lower case.
        databases: The names of all databases.
    """

    functions: frozenset[str]
    databases: frozenset[str]


class Guard:
    """Judges statements.

    Args:
        store: Parses the statements, and will run them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._names: StoreNames | None = None
        self._names_until = 0.0

    def judge(self, sql: str) -> str:
        """Returns the canonical form of a statement that may run. Blocks: for worker threads.

        Raises:
            QueryError: The statement is rejected; the message names the reason.
            StoreUnavailableError: The store does not answer.
        """
        check_size(sql)
        statement = self._store.formatted(sql)
        if len(statement) > _MAX_CANONICAL_LENGTH:
            raise QueryError("the statement is too long in its canonical form")
        check(statement, self._store.database, self._store_names())
        return statement

    def _store_names(self) -> StoreNames:
        with self._lock:
            if self._names is None or time.monotonic() > self._names_until:
                functions = frozenset(name.lower() for name in self._store.functions())
                self._names = StoreNames(functions, self._store.databases())
                self._names_until = time.monotonic() + _NAMES_SECONDS
            return self._names


def check_size(sql: str) -> None:
    """Rejects a statement that would cost too much to parse.

    Raises:
        QueryError: The statement is rejected.
    """
    size = len(sql.encode("utf-8", "surrogatepass"))
    if size > MAX_STATEMENT_BYTES:
        raise QueryError(
            f"the statement has {size:,} bytes; at most {MAX_STATEMENT_BYTES:,} are allowed"
        )
    # ClickHouse's parser turns `x BETWEEN a AND b` into two copies of x, so that nested ones double
    # the tree each time. The count covers strings and comments, so nothing can hide one.
    count = sql.lower().count("between")
    if size << count > _MAX_CANONICAL_LENGTH << 2:
        raise QueryError(
            f"the statement has too many BETWEEN for its length ({count}); "
            "write x >= a AND x <= b instead"
        )


def check(text: str, database: str, names: StoreNames) -> None:
    """Rejects a statement that does more than read the tables of InfraSight.

    Args:
        text: One statement as `Store.formatted` returns it.
        database: The database of the tables.
        names: What the store knows.

    Raises:
        QueryError: The statement is rejected; the message names the reason.
    """
    _Judgement(Statement(text), database, names).check()


class _Judgement:
    """Checks one statement."""

    def __init__(self, statement: Statement, database: str, names: StoreNames) -> None:
        self._statement = statement
        self._database = database
        self._names = names
        self._defined = {token.text for token, _ in self._definitions()}

    def check(self) -> None:
        self._check_kind()
        self._check_clauses()
        for index, token in enumerate(self._statement.tokens):
            if token.is_name:
                self._check_name(index, token)
        self._check_positions()

    def _definitions(self) -> Iterator[tuple[Token, int]]:
        """Yields the names that the statement defines by AS, with their indices."""
        for index, token in enumerate(self._statement.tokens):
            if token.is_name and self._statement[index - 1].is_word("AS"):
                yield token, index

    def _check_kind(self) -> None:
        statement = self._statement
        start = 0
        while statement[start].is_symbol("("):
            start += 1
        first = statement[start]
        if not first.is_word(*_READING):
            raise QueryError(
                f"a query may only read, not {first.text.upper() or 'nothing'}: "
                f"begin with {', '.join(_READING)}"
            )
        if first.is_word("EXPLAIN"):
            self._check_explain(start)
        elif first.is_word("SHOW"):
            self._check_show(start)
        elif first.is_word("DESCRIBE", "DESC") and not statement[start + 1].is_word("TABLE"):
            raise QueryError("DESCRIBE describes only tables and subqueries")
        elif first.is_word("EXISTS") and statement[start + 1].is_word("DATABASE"):
            self._check_database(statement[start + 2])

    def _check_explain(self, start: int) -> None:
        """Rejects an EXPLAIN of anything but a SELECT."""
        statement = self._statement
        index = start + 1
        while statement[index].is_word("SYNTAX", "PLAN", "PIPELINE", "ESTIMATE", "QUERY", "TREE"):
            index += 1
        while statement[index + 1].is_symbol("="):
            index += 3
            if statement[index].is_symbol(","):
                index += 1
        if not statement[index].is_word("SELECT", "WITH") and not statement[index].is_symbol("("):
            raise QueryError("EXPLAIN explains only a SELECT")

    def _check_show(self, start: int) -> None:
        """Rejects a SHOW of anything but tables and databases, or of another database."""
        statement = self._statement
        index = start + 1
        while statement[index].is_word("FULL", "EXTENDED"):
            index += 1
        if not statement[index].is_word(*_SHOW):
            raise QueryError(
                f"SHOW {statement[index].text.upper()} is not available to queries; "
                f"SHOW shows {', '.join(_SHOW)}"
            )
        if statement[index].is_word("CREATE"):
            self._check_show_create(index + 1)
            return
        origins = [
            number + 1
            for number in range(index, len(statement.tokens))
            if statement[number].is_word("FROM")
        ]
        if statement[index].is_word("COLUMNS") and len(origins) == 2:
            self._check_table(statement[origins[1]], statement[origins[0]])
        elif origins and not statement[index].is_word("COLUMNS"):
            self._check_database(statement[origins[0]])

    def _check_show_create(self, index: int) -> None:
        created = self._statement[index]
        if created.is_word("DATABASE"):
            self._check_database(self._statement[index + 1])
        elif not created.is_word("TABLE", "VIEW", "DICTIONARY"):
            raise QueryError(f"SHOW CREATE {created.text.upper()} is not available to queries")

    def _check_clauses(self) -> None:
        statement = self._statement
        for index, token in enumerate(statement.tokens):
            following = statement[index + 1]
            if token.is_word("INTO") and following.is_word("OUTFILE"):
                raise QueryError(
                    "remove INTO OUTFILE: the answer is returned to the client, as Arrow"
                )
            if token.text == "FORMAT" and following.is_name:
                raise QueryError("remove FORMAT: the answer is returned to the client, as Arrow")
            is_assignment = following.is_name and statement[index + 2].is_symbol("=")
            if token.is_word("SETTINGS") and is_assignment:
                raise QueryError("remove SETTINGS: a query runs with the server's settings")
            if token.is_word("PARALLEL") and following.is_word("WITH"):
                raise QueryError("remove PARALLEL WITH: a query is one statement")

    def _check_name(self, index: int, token: Token) -> None:
        following = self._statement[index + 1]
        if following.is_symbol("("):
            self._check_called(index, token)
        elif following.is_symbol(".") and not self._statement[index - 1].is_symbol("."):
            self._check_table(token, self._statement[index + 2])

    def _check_called(self, index: int, token: Token) -> None:
        name = token.text.lower()
        if token.kind is Kind.WORD and token.text in _KEYWORDS:
            return
        if self._has_column_names(index):
            return
        if name.startswith("dict"):
            self._check_dictionary(index, token)
        elif name == "merge":
            self._check_merge(index)
        elif not is_function(token.text) and name not in TABLE_FUNCTIONS:
            is_lambda = token.text in self._defined and name not in self._names.functions
            if not is_lambda:
                raise QueryError(
                    f"{token.text[:100]}() is not available to queries, which may only compute "
                    "from the tables of InfraSight"
                )

    def _has_column_names(self, index: int) -> bool:
        """Returns whether the statement names columns: `t(a) AS (SELECT 1)`, `FROM x AS t(a)`."""
        statement = self._statement
        end = statement.closing[index + 1]
        is_query_name = statement[end + 1].is_word("AS") and statement[end + 2].is_symbol("(")
        if not is_query_name and not statement[index - 1].is_word("AS"):
            return False
        content = statement.tokens[index + 2 : end]
        return all(token.is_name or token.is_symbol(",") for token in content)

    def _check_dictionary(self, index: int, token: Token) -> None:
        if token.text.lower() not in self._names.functions:
            raise QueryError(f"{token.text[:100]}() is not available to queries")
        argument = self._statement[index + 2]
        own = (_DICTIONARY, f"{self._database}.{_DICTIONARY}")
        ends = self._statement[index + 3].is_symbol(",")
        if argument.kind is not Kind.STRING or argument.text not in own or not ends:
            raise QueryError(f"{token.text}() is available to queries with '{_DICTIONARY}' only")

    def _check_merge(self, index: int) -> None:
        """Rejects merge() unless its tables are those of the own database."""
        first = self._statement[index + 2]
        after = self._statement[index + 3]
        if after.is_symbol(")"):
            is_own = first.kind is Kind.STRING
        elif first.is_name:
            is_own = first.text == self._database and first.text not in self._defined
        else:
            is_own = first.kind is Kind.STRING and first.text == self._database
        if not is_own or not after.is_symbol(",", ")"):
            raise QueryError(f"merge() is available to queries for the database {self._database}")

    def _check_table(self, database: Token, table: Token) -> None:
        """Rejects a name in two parts if the first is a database and the table is not allowed."""
        name = database.text
        if name == self._database:
            return
        allowed = _SCHEMA_DATABASES.get(name.lower())
        if allowed is not None:
            if table.text.lower() not in allowed:
                raise QueryError(f"the table {name}.{table.text[:100]} is not available to queries")
        elif name in self._names.databases:
            raise QueryError(
                f"the database {name} is not available to queries; if {name} is an alias, rename it"
            )

    def _check_database(self, database: Token) -> None:
        if database.text != self._database and database.text.lower() not in _SCHEMA_DATABASES:
            raise QueryError(f"the database {database.text[:100]} is not available to queries")

    def _check_positions(self) -> None:
        """Rejects names of functions without a call, where ClickHouse could apply the function."""
        clauses: list[str] = [""]
        statement = self._statement
        for index, token in enumerate(statement.tokens):
            if token.is_symbol("(", "["):
                clauses.append("")
            elif token.is_symbol(")", "]"):
                clauses.pop()
            elif not self._stands_alone(index, token):
                continue
            elif token.is_word("SELECT", "BY", *_AFTER_LIST_ELEMENT) and token.text.isupper():
                if not token.is_word("ASC", "DESC"):
                    clauses[-1] = token.text
            elif not self._is_harmless(index, token, clauses[-1]):
                raise QueryError(
                    f"{token.text[:100]} is also the name of a function that is not available to "
                    "queries; rename it, or write table.column"
                )

    def _stands_alone(self, index: int, token: Token) -> bool:
        """Returns whether a token is a name in one part that is not called."""
        is_part = self._statement[index - 1].is_symbol(".")
        return token.is_name and not is_part and not self._statement[index + 1].is_symbol("(", ".")

    def _is_harmless(self, index: int, token: Token, clause: str) -> bool:
        name = token.text.lower()
        if name in WITHOUT_ARGUMENTS or name not in self._names.functions:
            return True
        if is_function(token.text):
            return True
        previous = self._statement[index - 1]
        following = self._statement[index + 1]
        if previous.is_word("AS"):
            return True
        # An element of SELECT, GROUP BY or ORDER BY by itself is the argument of nothing.
        is_first = previous.is_word("SELECT", "DISTINCT", "BY") or previous.is_symbol(",")
        is_last = following.kind is Kind.END or following.is_symbol(",", ")")
        is_last = is_last or following.is_word(*_AFTER_LIST_ELEMENT)
        return clause in ("SELECT", "BY") and is_first and is_last
