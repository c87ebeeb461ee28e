"""Every SQL query in the documents runs as printed, and two of them return the right rows."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Batch, Container
from infrasight_core import constant
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.documented_queries import queries_of
from infrasight_testbed.execve_batches import batch, hello, table
from infrasight_testbed.system import System, running_system

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("infrasight-*/README.md"))]
QUERIES: list[tuple[Path, str]] = [
    (page.relative_to(ROOT), query.sql) for page in PAGES for query in queries_of(page)
]
SCRIPT = "/bin/sh -c '/bin/true tree a; /bin/true tree b; exit 0'; /bin/true tree c; exit 0"
FLAGS = pa.list_(pa.field("item", pa.dictionary(pa.int32(), pa.string()), nullable=False))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server whose store has every probe's events during the script."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        running.start_server()
        agent = running.start_agent(every_probe=True)
        subprocess.run(["/bin/sh", "-c", SCRIPT], check=True)
        assert agent.stop() == 0
        yield running


def query_with(text: str) -> str:
    """The first documented query that contains a text."""
    return next(query for _, query in QUERIES if text in query)


def test_process_tree_is_indented_in_order_of_time(system: System) -> None:
    """The tree of a shell that starts a shell and three programs has each below its parent."""
    quoted = SCRIPT.replace("'", "\\'")
    select_key = f"SELECT process_key AS key FROM execve_events WHERE argv[3] = '{quoted}'"
    (root,) = system.query(select_key)
    tree = re.sub(r"process_key = \d+", f"process_key = {root['key']}", query_with("RECURSIVE"))
    assert [row["program"] for row in system.query(tree)] == [
        f"/bin/sh -c {SCRIPT}",
        "  /bin/sh -c /bin/true tree a; /bin/true tree b; exit 0",
        "    /bin/true tree a",
        "    /bin/true tree b",
        "  /bin/true tree c",
    ]


def test_rows_get_container_metadata_that_comes_later(system: System) -> None:
    """Three rows without a container name are found by pod, image and label after the update."""
    by_missing_name = query_with("has(quality")
    by_pod = query_with("'web-'")
    by_container = query_with("FINAL WHERE labels")
    by_label = query_with("labels['app'] AS")
    with AgentClient(system.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("late-rows", table(3, **columns_without_name())))
        assert agent.answers(1) == {"late-rows": "stored"}
        assert [row["name"] for row in rows_of_c1(system, by_missing_name)] == [""]
        assert system.query(by_pod) == []
        assert system.query(by_container) == []

        agent.send(Batch(batch_id="update", containers=[container_c1()]))
        assert agent.answers(1) == {"update": "stored"}
    (row,) = rows_of_c1(system, by_missing_name)
    assert (row["name"], row["image"], row["events"]) == ("web", "nginx:1", 3)
    assert len(system.query(by_pod)) == 3
    assert len(system.query(by_container)) == 3
    executions = {row["app"]: row["executions"] for row in system.query(by_label)}
    assert executions["web"] == 3


def columns_without_name() -> dict[str, pa.Array]:
    """The columns of three rows of the container c1 whose name is missing."""
    now = pa.scalar(time.time_ns(), pa.int64())
    return {
        "time": pa.repeat(now, 3).cast(pa.timestamp("ns", "UTC")),
        "container_id": constant("c1", 3, pa.string()),
        "quality": pa.array([["container_name_missing"]] * 3, pa.list_(pa.string())).cast(FLAGS),
    }


def container_c1() -> Container:
    """The metadata of the container c1."""
    container = Container(
        container_id="c1",
        name=b"web",
        image=b"nginx:1",
        pod_name=b"web-1",
        pod_namespace=b"default",
    )
    container.labels["app"] = "web"
    container.time.GetCurrentTime()
    return container


def rows_of_c1(system: System, query: str) -> list[dict[str, object]]:
    """The rows of a query for the container c1."""
    return [row for row in system.query(query) if row["container_id"] == "c1"]


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_documented_query_runs(system: System, number: int) -> None:
    """The store answers the query."""
    page, query = QUERIES[number]
    assert isinstance(system.query(query), list), page
