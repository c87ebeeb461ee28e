"""The guard accepts statements that only read, as both kinds of store parse them."""

from pathlib import Path

from infrasight_core.errors import QueryError
from infrasight_server.query import guard
from infrasight_server.store.clickhouse import Store

ACCEPTED = [
    "SELECT 1",
    "select 1;",
    "  -- a comment\n/* another */ (SELECT 1 AS a)",
    "FROM numbers(3) SELECT number",
    "WITH 1 AS x, y AS (SELECT 2 AS z) SELECT x, z FROM y",
    "SELECT number FROM numbers(2) UNION ALL SELECT * FROM generate_series(1, 2)",
    "SELECT 'url(''http://x'')', 'file(', 'INTO OUTFILE', 'a;b' -- file('/etc/passwd')",
    "SELECT 1 AS `file`, 2 AS format, 3 AS `INTO OUTFILE` ORDER BY `file`",
    "SELECT format('{} {}', 'a', 'b'), [1, 2][1], arrayMap(x -> x + 1, [1]) "
    "FROM view(SELECT 1) LIMIT 0",
    "SELECT * FROM values('a UInt8, b String', (1, 'x'))",
    "SELECT $a$ file('/etc/passwd') $a$ AS heredoc, 1_000, 0x1F, 'it''s \\' \\\\'",
    "SELECT count() FROM system.parts WHERE name LIKE '%file(%'",
    "SHOW TABLES",
    "SHOW DATABASES",
    "DESCRIBE TABLE system.one",
    "DESC system.one",
    "EXPLAIN SELECT 1",
    "EXISTS TABLE system.one",
    "SHOW COLUMNS FROM one FROM system",
]
REJECTED = [
    ("", "Empty query"),
    ("-- nothing", "Empty query"),
    ("SELEC 1", "Syntax error"),
    ("SELECT 1; SELECT 2", "Multi-statements are not allowed"),
    ("SELECT 1; DROP TABLE t", "Multi-statements are not allowed"),
    ("INSERT INTO t VALUES (1)", "a query may only read, not INSERT"),
    ("WITH 1 AS x INSERT INTO t SELECT x", "not INSERT"),
    ("CREATE TABLE t (a UInt8) ENGINE = Memory", "not CREATE"),
    ("DROP TABLE t", "not DROP"),
    ("ALTER TABLE t DELETE WHERE 1", "not ALTER"),
    ("DELETE FROM t WHERE 1", "not DELETE"),
    ("TRUNCATE TABLE t", "not TRUNCATE"),
    ("OPTIMIZE TABLE t FINAL", "not OPTIMIZE"),
    ("RENAME TABLE a TO b", "not RENAME"),
    ("SYSTEM SHUTDOWN", "not SYSTEM"),
    ("KILL QUERY WHERE 1", "not KILL"),
    ("SET readonly = 0", "not SET"),
    ("USE system", "not USE"),
    ("GRANT ALL ON *.* TO someone", "not GRANT"),
    ("SELECT * FROM file('/etc/passwd', 'LineAsString')", "file() reaches outside the store"),
    ("SELECT file('/etc/passwd')", "file() reaches outside"),
    ("SELECT FILE ( '/etc/passwd' )", "reaches outside"),
    ("SELECT * FROM /* c */ file /* c */ -- d\n ('/etc/passwd')", "file() reaches outside"),
    ("SELECT * FROM `file`('/etc/passwd', 'LineAsString')", "file() reaches outside"),
    ("SELECT * FROM `fi\\x6ce`('/etc/passwd', 'LineAsString')", "file() reaches outside"),
    ("SELECT * FROM \"file\"('/etc/passwd')", "file() reaches outside"),
    ("SELECT ‘ -- ’, file('/etc/passwd')", "file() reaches outside"),
    ("SELECT '\\'', file('/etc/passwd'), '\\''", "file() reaches outside"),
    (
        "SELECT 1 WHERE 1 IN (SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a UInt8'))",
        "url() reaches outside",
    ),
    ("SELECT * FROM s3('http://127.0.0.1/bucket/x')", "s3() reaches outside"),
    ("SELECT * FROM remote('127.0.0.1', system.one)", "remote() reaches outside"),
    ("SELECT * FROM cluster('default', system.one)", "cluster() reaches outside"),
    ("SELECT * FROM mysql('127.0.0.1:3306', 'd', 't', 'u', 'p')", "mysql() reaches outside"),
    ("SELECT * FROM executable('x', 'TSV', 'a UInt8')", "executable() reaches outside"),
    ("SELECT * FROM sqlite('/tmp/x', 't')", "sqlite() reaches outside"),
    ("DESCRIBE TABLE url('http://127.0.0.1/')", "url() reaches outside"),
    ("EXPLAIN SELECT * FROM file('/etc/passwd')", "file() reaches outside"),
    ("SELECT 1 INTO OUTFILE '/tmp/infrasight-test'", "remove INTO OUTFILE"),
    (
        "(SELECT 1) UNION ALL (SELECT 2) INTO OUTFILE '/tmp/infrasight-test' FORMAT CSV",
        "remove INTO OUTFILE",
    ),
    ("SELECT 1 FORMAT JSON", "remove FORMAT"),
]


def guard_and_run(store: Store, sql: str) -> None:
    """Runs a statement if the guard accepts it."""
    statement = store.formatted(sql)
    guard.check(statement, store.table_functions())
    list(store.query(statement))


def test_reading_statements_are_accepted_and_run(store: Store) -> None:
    """Common and unusual ways to read pass the guard, and the store answers them."""
    failures = {}
    for sql in ACCEPTED:
        try:
            guard_and_run(store, sql)
        except QueryError as error:
            failures[sql] = str(error)
    assert not failures


def test_other_statements_are_rejected_with_the_reason(store: Store) -> None:
    """Statements that write or reach outside are rejected, however they are written."""
    failures = {}
    for sql, reason in REJECTED:
        try:
            guard_and_run(store, sql)
            failures[sql] = "was accepted"
        except QueryError as error:
            if reason not in str(error):
                failures[sql] = str(error)
    assert not failures
    assert not Path("/tmp/infrasight-test").exists()


def test_unknown_table_functions_are_rejected(store: Store) -> None:
    """Every table function is rejected by name, except for a few harmless ones."""
    functions = store.table_functions()
    assert {"file", "url", "s3", "remote", "mysql", "executable"} <= functions
    accepted = set()
    for name in functions:
        try:
            guard.check(f"SELECT *\nFROM {name}('x')", functions)
            accepted.add(name)
        except QueryError as error:
            assert "reaches outside" in str(error)  # noqa: PT017
    assert accepted <= guard._HARMLESS_TABLE_FUNCTIONS
