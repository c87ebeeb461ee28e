"""Every SQL query in the documents runs as printed, and the process tree is correct."""

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
from infrasight_testbed.execve_batches import batch, hello, table
from infrasight_testbed.system import System, running_system

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("infrasight-*/README.md"))]
QUERIES = [
    query
    for page in PAGES
    for query in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if "CREATE TABLE" not in query
]
SCRIPT = "/bin/sh -c '/bin/true tree a; /bin/true tree b; exit 0'; /bin/true tree c; exit 0"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that has recorded the script."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        running.start_server()
        agent = running.start_agent(every_probe=True)
        subprocess.run(["/bin/sh", "-c", SCRIPT], check=True)
        assert agent.stop() == 0
        yield running


def test_the_process_tree(system: System) -> None:
    """A shell that starts a shell and a program, two of them below it: indented under each other, in order of time."""
    (tree,) = (query for query in QUERIES if "RECURSIVE" in query)
    (root,) = system.query(
        f"SELECT process_key AS key FROM execve_events WHERE argv[3] = '{SCRIPT.replace(chr(39), chr(92) + chr(39))}'"
    )
    rows = system.query(re.sub(r"process_key = \d+", f"process_key = {root['key']}", tree))
    assert [row["program"] for row in rows] == [
        f"/bin/sh -c {SCRIPT}",
        "  /bin/sh -c /bin/true tree a; /bin/true tree b; exit 0",
        "    /bin/true tree a",
        "    /bin/true tree b",
        "  /bin/true tree c",
    ]


def test_rows_that_went_without_a_container(system: System) -> None:
    """A row flagged `container_name_missing` is found by its pod, image and label once they are told; before, by none."""
    words = ("'web-'", "FINAL WHERE labels", "has(quality", "labels['app'] AS")
    page = {word: next(query for query in QUERIES if word in query) for word in words}
    now = pa.scalar(time.time_ns(), pa.int64())
    columns = {
        "time": pa.repeat(now, 3).cast(pa.timestamp("ns", "UTC")),
        "container_id": constant("c1", 3, pa.string()),
        "quality": pa.array([["container_name_missing"]] * 3, pa.list_(pa.string())).cast(
            pa.list_(pa.field("item", pa.dictionary(pa.int32(), pa.string()), nullable=False))
        ),
    }
    with AgentClient(system.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("late-rows", table(3, **columns)))
        assert agent.answers(1) == {"late-rows": "stored"}
        assert [
            row["name"] for row in system.query(page["has(quality"]) if row["container_id"] == "c1"
        ] == [""]
        assert system.query(page["'web-'"]) == system.query(page["FINAL WHERE labels"]) == []
        news = Container(
            container_id="c1",
            name=b"web",
            image=b"nginx:1",
            pod_name=b"web-1",
            pod_namespace=b"default",
        )
        news.labels["app"] = "web"
        news.time.GetCurrentTime()
        agent.send(Batch(batch_id="news", containers=[news]))
        assert agent.answers(1) == {"news": "stored"}
    (now_known,) = (row for row in system.query(page["has(quality"]) if row["container_id"] == "c1")
    assert (now_known["name"], now_known["image"], now_known["events"]) == ("web", "nginx:1", 3)
    assert len(system.query(page["'web-'"])) == len(system.query(page["FINAL WHERE labels"])) == 3
    assert {row["app"]: row["executions"] for row in system.query(page["labels['app'] AS"])}[
        "web"
    ] == 3


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_each_runs(system: System, number: int) -> None:
    """Every query in the documents runs."""
    assert isinstance(system.query(QUERIES[number]), list)
