"""The queries that the documentation prints: each runs as it stands there, and the process tree is the right one."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.system import System, running_system

QUERIES = re.findall(r"```sql\n(.*?)```", (Path(__file__).parents[1] / "docs/queries.md").read_text(), re.DOTALL)
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


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_each_runs(system: System, number: int) -> None:
    """Every query of the page is answered."""
    assert isinstance(system.query(QUERIES[number]), list)
