"""The guard accepts statements that only read, as both kinds of store parse them."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import process_time

import pytest
from infrasight_core.errors import QueryError
from infrasight_server.query import guard
from infrasight_server.query.allowed_names import AGGREGATES, FUNCTIONS, is_function
from infrasight_server.query.guard import Guard, StoreNames
from infrasight_server.settings import ServerSettings
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.execve_batches import SCHEMA

DATABASE = "guarded"
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
    # Our tables, by their names and with the database.
    "SELECT * FROM execve_events",
    f"SELECT * FROM {DATABASE}.execve_events",
    f"SELECT {DATABASE}.execve_events.pid FROM {DATABASE}.execve_events",
    f"SELECT `{DATABASE}`.`execve_events`.`pid` FROM `{DATABASE}`.`execve_events` LIMIT 1",
    "SELECT e.user, e.container.name, e.labels['app'] FROM execve_events AS e",
    "SELECT labels, container FROM execve_events",
    "SELECT * FROM accounting",
    "SELECT * FROM missing",
    "SELECT * FROM accounts FINAL",
    "SELECT * FROM rejections",
    "SELECT * FROM containers FINAL",
    "SELECT * FROM containers_known",
    "SELECT pid IN (SELECT pid FROM execve_events) FROM execve_events",
    "SELECT 1 WHERE (1, 2) IN ((1, 2), (3, 4))",
    "SELECT * FROM execve_events AS a JOIN execve_events AS b USING (node, pid)",
    "SELECT * FROM execve_events AS a ASOF LEFT JOIN execve_events AS b "
    "ON a.node = b.node AND a.time > b.time",
    "SELECT * FROM merge('.*_events')",
    f"SELECT _table, count() FROM merge({DATABASE}, '^[a-z]+_events$') GROUP BY _table",
    f"SELECT count() FROM merge('{DATABASE}', '.*_events')",
    "SELECT dictGet('containers_known', 'name', ('a', 'b'))",
    f"SELECT dictGetOrDefault('{DATABASE}.containers_known', 'name', ('a', 'b'), '')",
    "SELECT dictHas('containers_known', ('a', 'b'))",
    # Names that functions have too.
    "SELECT user, tid, pid FROM execve_events WHERE user = 'root' AND tid > 1",
    "SELECT filename AS file, count() FROM execve_events GROUP BY file ORDER BY file DESC",
    "SELECT DISTINCT file FROM (SELECT filename AS file FROM execve_events) AS t",
    "SELECT t.file, lower(t.file) FROM (SELECT filename AS file FROM execve_events) AS t",
    "SELECT 1 AS url, 2 AS s3, 3 AS remote, 4 AS input, url + s3 + remote + input",
    "SELECT 1 AS cluster, 2 AS format, cluster + format",
    "SELECT settings FROM (SELECT 1 AS settings) AS format",
    "SELECT 1 AS system, 2 AS `default`, system + `default`",
    "SELECT hostname FROM (SELECT 1 AS hostname) WHERE hostname = 1",
    # Clauses and operators.
    "SELECT INTERVAL 1 DAY, CASE 1 WHEN 2 THEN 3 ELSE 4 END, 1 ? 2 : 3, 1::String, CAST(1 AS Int8)",
    "SELECT CASE WHEN 1 = 2 THEN 3 ELSE 4 END, EXTRACT(year FROM now()), 'a' || 'b', NOT 1",
    "SELECT TRIM(BOTH 'a' FROM 'b'), SUBSTRING('abc' FROM 2), POSITION('a' IN 'b'), NULL IS NULL",
    "SELECT 1 BETWEEN 1 AND 2 AND 3 NOT BETWEEN 4 AND 5, 'a' LIKE 'b', 'a' NOT ILIKE 'b'",
    "SELECT DATE '2026-01-01', TIMESTAMP '2026-01-01 00:00:00', (1, 2).1, [1][1], -1, - -1, 1.5e-3",
    "SELECT count(DISTINCT pid), count(*), countIf(pid > 1) FROM execve_events",
    "SELECT sumIf(pid, pid > 1), uniqExactIf(pid, 1), quantilesTimingWeightedIf(0.5)(pid, 1, 1), "
    "groupUniqArrayArray(argv), sumOrNullIf(pid, 0), maxMap(map(1, 2)) FROM execve_events",
    "SELECT quantile(0.9)(duration_ns), topK(3)(comm), argMax(argv, time) FROM execve_events",
    "SELECT sum(pid) FILTER (WHERE pid > 1) FROM execve_events",
    "SELECT pid, row_number() OVER w, sum(pid) OVER (PARTITION BY node ORDER BY time "
    "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM execve_events WINDOW w AS (ORDER BY time)",
    "SELECT DISTINCT ON (a) * EXCEPT (b) REPLACE (1 AS a) APPLY (sum) FROM (SELECT 1 AS a, 2 AS b)",
    "SELECT COLUMNS('pid|tid') APPLY toString FROM execve_events",
    "SELECT * APPLY(x -> toString(x)) FROM (SELECT 1)",
    "SELECT arrayMap(upper, ['a']), arrayFilter((x, y) -> x > y, [1], [2])",
    "SELECT a FROM (SELECT 1 AS a) GROUP BY GROUPING SETS ((a), ()) HAVING 1 ORDER BY a",
    "SELECT a FROM (SELECT 1 AS a) GROUP BY a WITH ROLLUP WITH TOTALS",
    "SELECT a FROM (SELECT 1 AS a) ORDER BY a WITH FILL FROM 1 TO 5 STEP 1 LIMIT 1 BY a LIMIT 3",
    "SELECT number FROM numbers(3) INTERSECT SELECT 1",
    "SELECT number FROM numbers(3) EXCEPT SELECT 1 UNION DISTINCT SELECT 2",
    "SELECT x, y FROM (SELECT [1, 2] AS x) ARRAY JOIN x AS y",
    "SELECT x, y FROM (SELECT [1, 2] AS x) LEFT ARRAY JOIN x AS y",
    "SELECT a, t.b FROM (SELECT 1, 2) AS t(a, b)",
    "WITH t(a, b) AS (SELECT 1, 2), x -> x + 1 AS increase SELECT increase(a) FROM t",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT * FROM t",
    "SELECT (SELECT count() FROM execve_events), EXISTS(SELECT 1)",
    "SELECT 1 = ANY (SELECT 1), 1 > ALL (SELECT 1), NOT EXISTS (SELECT 1)",
    "SELECT pid, grouping(pid) FROM execve_events GROUP BY CUBE (pid)",
    "SELECT number FROM numbers(5) LIMIT 2 OFFSET 1",
    "SELECT * FROM (SELECT 1 AS a) AS l FULL OUTER JOIN (SELECT 1 AS a) AS r ON l.a = r.a",
    "SELECT pid FROM execve_events PREWHERE pid > 1 WHERE tid > 1",
    "SELECT 'ünïcode', '\\xff' AS bytes, 'a\\tb' AS `ünï`",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "SELECT repeat('  ', 3), arrayWithConstant(3, 'a'), toString(generateUUIDv4()) != ''",
    "SELECT version(), currentDatabase(), currentUser(), now64(9), today()",
    # What clients and dashboards ask.
    "SELECT name, type FROM system.columns WHERE database = currentDatabase()",
    "SELECT name FROM system.databases",
    "SELECT name, engine FROM system.tables WHERE NOT is_temporary",
    "SELECT name FROM system.functions LIMIT 5",
    "SELECT table_name FROM information_schema.tables",
    "SELECT column_name FROM INFORMATION_SCHEMA.COLUMNS LIMIT 3",
    "SHOW TABLES FROM system LIKE 'one'",
    f"SHOW FULL TABLES FROM {DATABASE}",
    "SHOW CREATE TABLE execve_events",
    f"SHOW CREATE VIEW {DATABASE}.missing",
    f"SHOW CREATE DATABASE {DATABASE}",
    f"SHOW COLUMNS FROM execve_events FROM {DATABASE}",
    "SHOW COLUMNS FROM execve_events LIKE 'p%'",
    "DESCRIBE execve_events",
    "DESCRIBE (SELECT 1 AS a)",
    "EXISTS execve_events",
    "EXPLAIN SYNTAX SELECT 1",
    "EXPLAIN PIPELINE SELECT count() FROM execve_events",
    "EXPLAIN PLAN indexes = 1, actions = 1 SELECT * FROM execve_events WHERE pid = 1",
    "EXPLAIN QUERY TREE run_passes = 0 SELECT 1",
    "SELECT toStartOfInterval(toDateTime(time), INTERVAL 60 second) AS time, count() AS events "
    "FROM execve_events WHERE time >= toDateTime(1) AND time <= toDateTime(2) "
    "AND node IN ('a', 'b') GROUP BY time ORDER BY time",
    "SELECT toDateTime64(time, 3) AS log_time, comm, toJSONString(map('a', user)) AS labels "
    "FROM execve_events ORDER BY time DESC LIMIT 100",
]
NOT_AVAILABLE = "not available to queries"
REJECTED = [
    ("", "Empty query"),
    ("-- nothing", "Empty query"),
    ("SELEC 1", "Syntax error"),
    ("SELECT 1; SELECT 2", "Multi-statements are not allowed"),
    ("SELECT 1; DROP TABLE t", "Multi-statements are not allowed"),
    ("INSERT INTO t VALUES (1)", "a query may only read, not INSERT"),
    ("WITH 1 AS x INSERT INTO t SELECT x", "not INSERT"),
    ("INSERT INTO FUNCTION file('/tmp/infrasight-test') SELECT 1", "not INSERT"),
    ("CREATE TABLE t (a UInt8) ENGINE = Memory", "not CREATE"),
    ("CREATE TEMPORARY TABLE t (a UInt8)", "not CREATE"),
    ("CREATE FUNCTION f AS x -> x", "not CREATE"),
    ("DROP TABLE t", "not DROP"),
    ("UNDROP TABLE t", "not UNDROP"),
    ("ALTER TABLE t DELETE WHERE 1", "not ALTER"),
    ("DELETE FROM t WHERE 1", "not DELETE"),
    ("UPDATE t SET a = 1 WHERE 1", "not UPDATE"),
    ("TRUNCATE TABLE t", "not TRUNCATE"),
    ("OPTIMIZE TABLE t FINAL", "not OPTIMIZE"),
    ("CHECK TABLE execve_events", "not CHECK"),
    ("ATTACH TABLE t", "not ATTACH"),
    ("DETACH TABLE t", "not DETACH"),
    ("EXCHANGE TABLES a AND b", "not EXCHANGE"),
    ("RENAME TABLE a TO b", "not RENAME"),
    ("BACKUP TABLE execve_events TO File('/tmp/infrasight-test')", "not BACKUP"),
    ("SYSTEM SHUTDOWN", "not SYSTEM"),
    ("SYSTEM FLUSH LOGS", "not SYSTEM"),
    ("KILL QUERY WHERE 1", "not KILL"),
    ("SET readonly = 0", "not SET"),
    ("USE system", "not USE"),
    ("GRANT ALL ON *.* TO someone", "not GRANT"),
    ("EXECUTE AS someone SELECT 1", "not EXECUTE"),
    ("BEGIN TRANSACTION", "not BEGIN"),
    # Files, programs and other servers, by table functions.
    ("SELECT * FROM file('/etc/passwd', 'LineAsString')", "file() is not available"),
    ("SELECT * FROM /* c */ file /* c */ -- d\n ('/etc/passwd')", "file() is not available"),
    ("SELECT * FROM `file`('/etc/passwd', 'LineAsString')", "file() is not available"),
    ("SELECT * FROM `fi\\x6ce`('/etc/passwd', 'LineAsString')", "file() is not available"),
    ("SELECT * FROM \"file\"('/etc/passwd')", "file() is not available"),
    ("SELECT * FROM FILE('/etc/passwd')", "FILE() is not available"),
    ("SELECT 1 IN file('/etc/passwd')", "file() is not available"),
    ("SELECT 1 IN (SELECT * FROM file('/etc/passwd'))", "file() is not available"),
    ("SELECT 1, (SELECT line FROM file('/etc/passwd', 'LineAsString') LIMIT 1)", "file() is not"),
    ("SELECT 1 UNION ALL SELECT * FROM file('/etc/passwd')", "file() is not available"),
    ("WITH t AS (SELECT * FROM file('/etc/passwd')) SELECT * FROM t", "file() is not available"),
    ("SELECT * FROM execve_events, file('/etc/passwd')", "file() is not available"),
    ("SELECT * FROM execve_events JOIN file('/etc/passwd') AS f ON 1", "file() is not available"),
    ("SELECT * FROM (SELECT * FROM (SELECT * FROM file('/etc/passwd')))", "file() is not"),
    ("SELECT * FROM view(SELECT * FROM file('/etc/passwd'))", "file() is not available"),
    ("SELECT 1 EXCEPT SELECT * FROM file('/etc/passwd')", "file() is not available"),
    ("SELECT count() FROM execve_events HAVING 1 IN file('/etc/passwd')", "file() is not"),
    ("SELECT 1 ORDER BY (SELECT * FROM file('/etc/passwd'))", "file() is not available"),
    ("SELECT 1 LIMIT (SELECT count() FROM file('/etc/passwd'))", "file() is not available"),
    ("SELECT 1 WHERE EXISTS(SELECT * FROM file('/etc/passwd'))", "file() is not available"),
    ("SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a UInt8'))", NOT_AVAILABLE),
    ("DESCRIBE TABLE file('/etc/passwd')", "file() is not available"),
    ("DESCRIBE TABLE (SELECT * FROM file('/etc/passwd'))", "file() is not available"),
    ("EXPLAIN SELECT * FROM file('/etc/passwd')", "file() is not available"),
    ("EXPLAIN PIPELINE SELECT * FROM file('/etc/passwd')", "file() is not available"),
    ("EXPLAIN AST SELECT 1", "EXPLAIN explains only a SELECT"),
    ("EXPLAIN AST DROP TABLE t", "EXPLAIN explains only a SELECT"),
    ("EXPLAIN SYNTAX INSERT INTO t SELECT 1", "EXPLAIN explains only a SELECT"),
    ("EXPLAIN CURRENT TRANSACTION", "EXPLAIN explains only a SELECT"),
    ("SELECT * FROM (EXPLAIN SELECT 1)", "viewExplain() is not available"),
    (
        "SELECT 1 WHERE 1 IN (SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a UInt8'))",
        "url() is not available",
    ),
    ("DESCRIBE TABLE url('http://127.0.0.1/')", "url() is not available"),
    ("SELECT * FROM s3('http://127.0.0.1/bucket/x')", "s3() is not available"),
    ("SELECT * FROM gcs('http://127.0.0.1/bucket/x')", "gcs() is not available"),
    ("SELECT * FROM azureBlobStorage('x', 'y', 'z')", "azureBlobStorage() is not available"),
    ("SELECT * FROM hdfs('hdfs://x', 'TSV', 'a UInt8')", "hdfs() is not available"),
    ("SELECT * FROM iceberg('http://x')", "iceberg() is not available"),
    ("SELECT * FROM icebergLocal('/etc')", "icebergLocal() is not available"),
    ("SELECT * FROM deltaLakeLocal('/etc')", "deltaLakeLocal() is not available"),
    ("SELECT * FROM remote('127.0.0.1', system.one)", "remote() is not available"),
    ("SELECT * FROM remoteSecure('127.0.0.1', 'system', 'one')", "remoteSecure() is not available"),
    ("SELECT * FROM cluster('default', system.one)", "cluster() is not available"),
    ("SELECT * FROM clusterAllReplicas('default', system.one)", NOT_AVAILABLE),
    ("SELECT * FROM mysql('127.0.0.1:3306', 'd', 't', 'u', 'p')", "mysql() is not available"),
    ("SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')", "postgresql() is not"),
    ("SELECT * FROM mongodb('127.0.0.1:1', 'd', 't', 'u', 'p', 'a')", "mongodb() is not"),
    ("SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')", "redis() is not available"),
    ("SELECT * FROM odbc('DSN=x', 'd', 't')", "odbc() is not available"),
    ("SELECT * FROM jdbc('x', 'd', 't')", "jdbc() is not available"),
    ("SELECT * FROM sqlite('/tmp/x', 't')", "sqlite() is not available"),
    ("SELECT * FROM executable('x', 'TSV', 'a UInt8')", "executable() is not available"),
    ("SELECT * FROM input('a UInt8')", "input() is not available"),
    ("SELECT * FROM dictionary('containers_known')", "dictionary() is not available"),
    ("SELECT * FROM loop(execve_events)", "loop() is not available"),
    ("SELECT * FROM eval('SELECT 1')", "eval() is not available"),
    ("SELECT * FROM python('x')", "python() is not available"),
    ("SELECT * FROM fuzzQuery('SELECT 1')", "fuzzQuery() is not available"),
    ("SELECT * FROM mergeTreeIndex('x', 'y')", "mergeTreeIndex() is not available"),
    ("SELECT * FROM noSuchTableFunction(1)", "noSuchTableFunction() is not available"),
    # Functions, called.
    ("SELECT file('/etc/passwd')", "file() is not available"),
    ("SELECT FILE ( '/etc/passwd' )", "is not available"),
    ("SELECT ‘ -- ’, file('/etc/passwd')", "file() is not available"),
    ("SELECT '\\'', file('/etc/passwd'), '\\''", "file() is not available"),
    ("SELECT $a$ ' $a$, file('/etc/passwd') -- '", "file() is not available"),
    ("SELECT 1 -- \r, file('/etc/passwd')\n, file('/etc/passwd')", "file() is not available"),
    ("SELECT arrayMap(x -> file(x), ['/etc/passwd'])", "file() is not available"),
    ("WITH x -> file(x) AS f SELECT f('/etc/passwd')", "file() is not available"),
    ("SELECT 1 AS file, file('/etc/passwd')", "file() is not available"),
    ("SELECT * REPLACE (file(a) AS a) FROM (SELECT '/etc/passwd' AS a)", "file() is not"),
    ("SELECT sum(length(file('/etc/passwd'))) OVER ()", "file() is not available"),
    ("SELECT CAST(file('/etc/passwd') AS String)", "file() is not available"),
    ("SELECT file('/etc/passwd')::String", "file() is not available"),
    ("SELECT CASE WHEN 1 THEN file('/etc/passwd') END", "file() is not available"),
    ("SELECT 1 ? file('/etc/passwd') : ''", "file() is not available"),
    ("SELECT [file('/etc/passwd')], (1, file('/etc/passwd'))", "file() is not available"),
    ("SELECT 1 GROUP BY file('/etc/passwd')", "file() is not available"),
    ("SELECT 1 LIMIT length(file('/etc/passwd'))", "file() is not available"),
    ("SELECT a FROM (SELECT 1 AS a) ARRAY JOIN [file('/etc/passwd')] AS b", "file() is not"),
    ("SELECT 1 AS a ORDER BY a WITH FILL TO length(file('/etc/passwd'))", "file() is not"),
    ("SELECT 1 QUALIFY file('/etc/passwd') != ''", "file() is not available"),
    ("SELECT 1 FROM execve_events SAMPLE length(file('/etc/passwd'))", ""),
    ("SELECT sleep(1)", "sleep() is not available"),
    ("SELECT sleepEachRow(1) FROM numbers(9)", "sleepEachRow() is not available"),
    ("SELECT catboostEvaluate('/etc/passwd', 1)", "catboostEvaluate() is not available"),
    ("SELECT evalMLMethod(1, 2)", "evalMLMethod() is not available"),
    ("SELECT joinGet('t', 'a', 1)", "joinGet() is not available"),
    ("SELECT aiGenerate('x')", "aiGenerate() is not available"),
    ("SELECT getSetting('max_threads')", "getSetting() is not available"),
    ("SELECT getServerSetting('x')", "getServerSetting() is not available"),
    ("SELECT getMacro('x')", "getMacro() is not available"),
    ("SELECT getClientHTTPHeader('x')", "getClientHTTPHeader() is not available"),
    ("SELECT hostName(), FQDN()", "hostName() is not available"),
    ("SELECT serverUUID()", "serverUUID() is not available"),
    ("SELECT tcpPort()", "tcpPort() is not available"),
    ("SELECT uptime()", "uptime() is not available"),
    ("SELECT buildId()", "buildId() is not available"),
    ("SELECT showCertificate()", "showCertificate() is not available"),
    ("SELECT filesystemAvailable()", "filesystemAvailable() is not available"),
    ("SELECT addressToLine(1)", "addressToLine() is not available"),
    ("SELECT addressToSymbol(1)", "addressToSymbol() is not available"),
    ("SELECT logTrace('x')", "logTrace() is not available"),
    ("SELECT currentRoles(), enabledProfiles()", "currentRoles() is not available"),
    ("SELECT hasColumnInTable('system', 'users', 'name')", "hasColumnInTable() is not available"),
    ("SELECT zookeeperSessionUptime()", "zookeeperSessionUptime() is not available"),
    ("SELECT regionToName(1)", "regionToName() is not available"),
    ("SELECT finalizeAggregation(unhex('00'))", "finalizeAggregation() is not available"),
    ("SELECT formatQuery('SELECT 1')", "formatQuery() is not available"),
    ("SELECT __getScalar('x')", "__getScalar() is not available"),
    ("SELECT @@version", "globalVariable() is not available"),
    ("SELECT noSuchFunction(1)", "noSuchFunction() is not available"),
    ("SELECT noSuchIf(1)", "noSuchIf() is not available"),
    ("SELECT If(1, 2, 3), ArrayIf(1)", "ArrayIf() is not available"),
    ("SELECT system.file('/etc/passwd')", NOT_AVAILABLE),
    ("SELECT (1, 2).file('/etc/passwd')", ""),
    ("WITH 1 AS t SELECT t.file('/etc/passwd')", NOT_AVAILABLE),
    ("WITH file('/etc/passwd') AS (SELECT 1) SELECT 1", ""),
    ("SELECT 1 AS file('/etc/passwd')", ""),
    # Functions by their names alone.
    ("SELECT * APPLY(file) FROM (SELECT '/etc/passwd' AS p)", "file is also the name"),
    ("SELECT * APPLY file FROM (SELECT '/etc/passwd' AS p)", "file is also the name"),
    ("SELECT * APPLY `file` FROM (SELECT '/etc/passwd' AS p)", "file is also the name"),
    ("SELECT * APPLY(x -> file(x)) FROM (SELECT '/etc/passwd' AS p)", "file() is not available"),
    ("SELECT COLUMNS('p') APPLY file FROM (SELECT '/etc/passwd' AS p)", "file is also the name"),
    ("SELECT COLUMNS(p) APPLY(file) FROM (SELECT '/etc/passwd' AS p)", "file is also the name"),
    ("SELECT t.* APPLY(file) FROM (SELECT '/etc/passwd' AS p) AS t", "file is also the name"),
    ("SELECT * EXCEPT q APPLY(file) FROM (SELECT '/etc/passwd' AS p, 1 AS q)", "file is also"),
    ("SELECT arrayMap(file, ['/etc/passwd'])", "file is also the name"),
    ("SELECT arrayMap(`file`, ['/etc/passwd'])", "file is also the name"),
    ("SELECT arrayMap(\"file\", ['/etc/passwd'])", "file is also the name"),
    ("SELECT arrayMap(`fi\\x6ce`, ['/etc/passwd'])", "file is also the name"),
    ("SELECT arrayMap((file), ['/etc/passwd'])", "file is also the name"),
    ("WITH file AS f SELECT arrayMap(f, ['/etc/passwd'])", "file is also the name"),
    ("SELECT file AS f, arrayMap(f, ['/etc/passwd'])", "file is also the name"),
    ("SELECT f FROM (SELECT arrayMap(file, ['/etc/passwd']) AS f)", "file is also the name"),
    ("SELECT 1 AS file, (SELECT arrayMap(file, ['/etc/passwd']))", "file is also the name"),
    ("SELECT arrayFold(file, ['/etc/passwd'], '')", "file is also the name"),
    ("SELECT mapApply(file, map('a', '/etc/passwd'))", "file is also the name"),
    ("SELECT file('/etc/passwd') AS f FROM (SELECT 1 AS file)", "file() is not available"),
    ("SELECT filename AS file FROM execve_events WHERE file = 'x'", "file is also the name"),
    ("SELECT arrayMap(sleepEachRow, [1])", "sleepEachRow is also the name"),
    ("SELECT arrayMap(dictGet, ['other'], ['a'], [1])", "dictGet is also the name"),
    ("SELECT arrayMap(joinGet, ['t'], ['a'], [1])", "joinGet is also the name"),
    ("SELECT arrayMap(getSetting, ['max_threads'])", "getSetting is also the name"),
    # Other dictionaries, databases and the tables of system.
    ("SELECT dictGet('other', 'a', 1)", "with 'containers_known' only"),
    ("SELECT dictGet('other.containers_known', 'a', 1)", "with 'containers_known' only"),
    ("SELECT dictGet(concat('ot', 'her'), 'a', 1)", "with 'containers_known' only"),
    ("SELECT dictGet('containers_known' || 'x', 'a', 1)", "with 'containers_known' only"),
    ("SELECT dictHas(lower('OTHER'), 1)", "with 'containers_known' only"),
    ("SELECT DICTGET('other', 'a', 1)", ""),
    ("SELECT * FROM system.users", "the table system.users is not available"),
    ("SELECT * FROM `system`.`users`", "the table system.users is not available"),
    ("SELECT * FROM system.processes", "the table system.processes is not available"),
    ("SELECT * FROM system.query_log", "the table system.query_log is not available"),
    ("SELECT * FROM system.settings", "the table system.settings is not available"),
    ("SELECT * FROM system.server_settings", "is not available"),
    ("SELECT * FROM system.certificates", "is not available"),
    ("SELECT * FROM system.named_collections", "is not available"),
    ("SELECT * FROM system.dictionaries", "is not available"),
    ("SELECT * FROM system.stack_trace", "is not available"),
    ("SELECT * FROM system.session_log", "is not available"),
    ("SELECT 1 IN system.users", "the table system.users is not available"),
    ("SELECT in(1, system.users)", "the table system.users is not available"),
    ("SELECT * FROM system.one, system.users", "the table system.users is not available"),
    ("SELECT system.users.name FROM system.users", "the table system.users is not available"),
    ("SELECT * FROM view(SELECT * FROM system.users)", "the table system.users is not available"),
    ("DESCRIBE system.users", "the table system.users is not available"),
    ("SHOW CREATE TABLE system.users", "the table system.users is not available"),
    ("SHOW COLUMNS FROM users FROM system", "the table system.users is not available"),
    ("EXISTS TABLE system.users", "the table system.users is not available"),
    ("SELECT * FROM information_schema.engines", "is not available"),
    ("SELECT * FROM default.anything", "the database default is not available"),
    ("SELECT * FROM `default`.`anything`", "the database default is not available"),
    ("SELECT 1 AS `default`, * FROM default.anything", "the database default is not available"),
    ("SELECT 1 IN default.anything", "the database default is not available"),
    ("SHOW TABLES FROM default", "the database default is not available"),
    ("SHOW CREATE DATABASE default", "the database default is not available"),
    ("EXISTS DATABASE default", "the database default is not available"),
    ("SELECT * FROM merge('system', 'us.*')", "merge() is available"),
    ("SELECT * FROM merge(system, 'us.*')", "merge() is available"),
    (f"WITH 'system' AS {DATABASE} SELECT * FROM merge({DATABASE}, 'us.*')", "merge() is"),
    ("SELECT * FROM merge(REGEXP('sys.*'), 'us.*')", "merge() is available"),
    ("SELECT * FROM merge(concat('sys', 'tem'), 'us.*')", "merge() is available"),
    # Other SHOW statements.
    ("SHOW GRANTS", "SHOW GRANTS is not available"),
    ("SHOW PROCESSLIST", "SHOW PROCESSLIST is not available"),
    ("SHOW ACCESS", "SHOW ACCESS is not available"),
    ("SHOW USERS", "SHOW USERS is not available"),
    ("SHOW SETTINGS LIKE 'max%'", "SHOW SETTINGS is not available"),
    ("SHOW CREATE USER default", "SHOW CREATE USER is not available"),
    ("SHOW CLUSTERS", "SHOW CLUSTERS is not available"),
    ("SHOW DICTIONARIES", "SHOW DICTIONARIES is not available"),
    ("SHOW FILESYSTEM CACHES", ""),
    # Clauses.
    ("SELECT 1 INTO OUTFILE '/tmp/infrasight-test'", "remove INTO OUTFILE"),
    (
        "(SELECT 1) UNION ALL (SELECT 2) INTO OUTFILE '/tmp/infrasight-test' FORMAT CSV",
        "remove INTO OUTFILE",
    ),
    ("SELECT 1 FORMAT JSON", "remove FORMAT"),
    ("SELECT 1 SETTINGS max_memory_usage = 0", "remove SETTINGS"),
    ("SELECT 1 settings readonly = 0", "remove SETTINGS"),
    ("SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)", "remove SETTINGS"),
    ("SELECT 1 UNION ALL SELECT 2 SETTINGS max_threads = 64", "remove SETTINGS"),
    ("WITH t AS (SELECT 1 SETTINGS max_threads = 64) SELECT * FROM t", "remove SETTINGS"),
    ("SHOW TABLES SETTINGS max_threads = 64", ""),
    ("SELECT 1 PARALLEL WITH SELECT 2", "remove PARALLEL WITH"),
    ("SELECT {x:Identifier} FROM execve_events", "neither parameters nor"),
    ("SELECT * FROM {x:Identifier}", "neither parameters nor"),
    ("SELECT {x:String}", "neither parameters nor"),
    ("SELECT 1 AS `a\\nb`", "neither parameters nor"),
    # What costs too much.
    ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "depth"),
    ("SELECT " + "[" * 150 + "1" + "]" * 150, "nested too deeply"),
    ("SELECT " + "(SELECT " * 150 + "1" + ")" * 150, "depth"),
    ("SELECT " + "-(" * 200 + "1" + ")" * 200, "nested too deeply"),
    ("SELECT " + "1+" * 5000 + "1", "too deep"),
    ("SELECT '" + "a" * (64 << 10) + "'", "at most 65,536 are allowed"),
    ("SELECT x" + " BETWEEN 1 AND 2" * 26, "too many BETWEEN"),
    ("SELECT " + "(" * 26 + "x" + " BETWEEN 1 AND 2)" * 26, "too many BETWEEN"),
    ("SELECT x" + " between/**/1 AND 2" * 26, "too many BETWEEN"),
]
FORBIDDEN = [
    ("SELECT ", "file", "('/etc/passwd')"),
    ("SELECT arrayMap(", "file", ", ['/etc/passwd'])"),
    ("SELECT * APPLY ", "file", " FROM (SELECT '/etc/passwd' AS p)"),
    ("SELECT * FROM ", "file", "('/etc/passwd', 'LineAsString')"),
    ("SELECT 1 IN ", "file", "('/etc/passwd', 'LineAsString')"),
    ("SELECT * FROM ", "url", "('http://127.0.0.1:1/', 'LineAsString')"),
    ("SELECT * FROM ", "remote", "('127.0.0.1', system.one)"),
    ("SELECT * FROM ", "executable", "('x', 'TSV', 'a UInt8')"),
    ("SELECT ", "sleep", "(1)"),
    ("SELECT arrayMap(", "sleepEachRow", ", [0])"),
    ("SELECT ", "getSetting", "('max_threads')"),
    ("SELECT ", "dictGet", "('other', 'a', 1)"),
    ("SELECT * FROM ", "merge", "('system', 'users')"),
]


@pytest.fixture
def store(make_settings: Callable[..., ServerSettings]) -> Iterator[Store]:
    """An open store with the tables of one probe."""
    opened = make_settings(database=DATABASE).open_store()
    migrate(opened, {"execve": SCHEMA}, None)
    migrate_accounts(opened, None)
    yield opened
    opened.command(f"DROP DATABASE {DATABASE}")
    opened.close()


def test_reading_statements_are_accepted_and_run(store: Store) -> None:
    """Common and unusual ways to read pass the guard, and the store answers them."""
    judge = Guard(store)
    failures = {}
    for sql in ACCEPTED:
        try:
            list(store.query(judge.judge(sql)))
        except QueryError as error:
            failures[sql] = str(error)
    assert not failures


def test_other_statements_are_rejected_with_the_reason(store: Store) -> None:
    """Statements that write, reach outside or cost too much are rejected, however written."""
    judge = Guard(store)
    failures = {}
    for sql, reason in REJECTED:
        try:
            judge.judge(sql)
            failures[sql[:200]] = "was accepted"
        except QueryError as error:
            if reason not in str(error):
                failures[sql[:200]] = str(error)
    assert not failures
    assert not Path("/tmp/infrasight-test").exists()


def test_variants_of_forbidden_names_are_rejected(store: Store) -> None:
    """Case, quotes, escapes, spaces and comments do not hide a name from the guard."""
    judge = Guard(store)
    generator = random.Random(0)
    accepted = []
    for _ in range(20):
        for before, name, after in FORBIDDEN:
            sql = before + disguised(name, generator) + spacing(generator) + after
            try:
                judge.judge(sql)
                accepted.append(sql)
            except QueryError:
                continue
    assert accepted == []


def test_random_statements_are_accepted_or_rejected() -> None:
    """Whatever the parser might return, the guard raises no other error."""
    generator = random.Random(1)
    names = StoreNames(frozenset({"file", "upper", "dictget"}), frozenset({"default", "system"}))
    words = ["SELECT", "FROM", "WITH", "AS", "SHOW", "CREATE", "TABLES", "COLUMNS", "EXPLAIN", "BY"]
    words += ["DESCRIBE", "TABLE", "EXISTS", "DATABASE", "INTO", "OUTFILE", "SETTINGS", "FORMAT"]
    words += ["file", "upper", "dictGet", "merge", "system", "default", "`a b`", "'x'", "1", "1.5"]
    words += [*"()[],.=+-*", "->", "\x00", "{", "`", "'"]
    outcomes = set()
    for _ in range(20_000):
        text = " ".join(generator.choices(words, k=generator.randrange(1, 14)))
        try:
            guard.check(f"{generator.choice(words)} {text}", DATABASE, names)
            outcomes.add("accepted")
        except QueryError:
            outcomes.add("rejected")
    assert outcomes == {"accepted", "rejected"}


def disguised(name: str, generator: random.Random) -> str:
    """Returns a name in some of the ways in which ClickHouse reads it as the same."""
    escaped = "".join(
        f"\\x{ord(letter):02x}" if generator.random() < 0.3 else letter for letter in name
    )
    shape = generator.choice(["plain", "backquoted", "quoted", "case"])
    if shape == "backquoted":
        return f"`{escaped}`"
    if shape == "quoted":
        return f'"{escaped}"'
    if shape == "case":
        return "".join(generator.choice([letter.upper(), letter]) for letter in name)
    return name


def spacing(generator: random.Random) -> str:
    """Returns what may stand between a name and what follows."""
    pieces = [" ", "\t", "\n", "\r\n", "/* ' */", "/* ( */", "-- '\n", "-- (\n", "#! x\n", "\u00a0"]
    return "".join(generator.choices(pieces, k=generator.randrange(4)))


def test_every_function_of_the_store_is_allowed_or_considered(store: Store) -> None:
    """A new version's functions are rejected until somebody has looked at them."""
    rejected = {name for name in store.functions() if not is_function(name)}
    families = re.compile(
        "ai[A-Z]|AI[A-Z]|dict|__|region|timeSeries|numericIndexedVector|naiveBayes|filesystem|"
        "current|enabled|default|initial|transaction|getS|getM|getOS|addressTo|tumble|hop|nothing|pg|"
        "formatQuery|obfuscateQuery|stochastic"
    )
    assert {name for name in rejected if not families.match(name)} <= CONSIDERED
    assert {"file", "sleep", "joinGet", "getSetting", "hostName"} <= rejected
    assert len(FUNCTIONS) + len(AGGREGATES) > 1500


def test_no_function_is_both_allowed_and_rejected(store: Store) -> None:
    """Names are compared without regard to case: no rejected one equals an allowed one."""
    functions = store.functions()
    allowed = {name.lower() for name in functions if is_function(name)}
    rejected = {name.lower() for name in functions if not is_function(name)}
    assert allowed & rejected == set()


CONSIDERED = frozenset(
    {
        *("FQDN", "_CAST", "aggThrow", "array_concat_agg", "assignCentroid", "authUser"),
        *("authenticatedUser", "blockSerializedSize", "buildId", "catboostEvaluate", "chdb"),
        *("connectionID", "connectionId", "connection_id", "displayName"),
        *("estimateCompressionRatio", "evalMLMethod", "file", "finalizeAggregation"),
        *("flameGraph", "fullHostName", "fuzzQuery", "generateRandomStructure"),
        *("generateSerialID", "getClientHTTPHeader", "getTypeSerializationStreams"),
        *("globalVariable", "hasColumnInTable", "hasThreadFuzzer", "hierarchicalKMeans"),
        *("highlightQuery", "hostName", "hostname", "icebergBucket", "icebergTruncate"),
        *("initializeAggregation", "isMergeTreePartCoveredBy", "joinGet", "joinGetOrNull"),
        *("logTrace", "mergeTreePartInfo", "nested", "parseQueryToJSON", "partitionID"),
        *("partitionId", "queryID", "query_id", "revision", "runningAccumulate"),
        *("runningConcurrency", "serverUUID", "shardCount", "shardNum", "showCertificate"),
        *("sleep", "sleepEachRow", "structureToCapnProtoSchema", "structureToProtobufSchema"),
        *(
            "tcpPort",
            "tid",
            "uptime",
            "validateNestedArraySizes",
            "windowID",
            "zookeeperSessionUptime",
        ),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "a" * 60_000,
        "SELECT " + "a." * 30_000 + "a",
        "SELECT '" + "\\'" * 30_000,
        "SELECT `" + "`" * 60_000,
        "SELECT " + "1" * 60_000 + "a",
        "SELECT " + "1e" * 30_000,
        "SELECT" + " " * 60_000,
        "SELECT " + "f(" * 90 + "a," * 30_000 + "a" + ")" * 90,
        "EXPLAIN " + "a = 1, " * 9_000,
        "SHOW TABLES " + "FROM a " * 9_000,
        "SELECT sum" + "If" * 30_000 + "(1)",
        "SELECT " + "t(a) AS (" * 90 + "a" + ")" * 90,
    ],
    ids=lambda text: text[:20],
)
def test_long_statements_are_judged_in_linear_time(text: str) -> None:
    """60,000 characters take a fraction of a second; in quadratic time it would be 4 and more."""
    names = StoreNames(frozenset({"file"}), frozenset({"default"}))
    start = process_time()
    with suppress(QueryError):
        guard.check(text, DATABASE, names)
    assert process_time() - start < 2
