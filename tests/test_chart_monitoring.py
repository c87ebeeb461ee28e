"""The chart's dashboard queries columns that exist, and its alerts use metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from infrasight_testbed.chart import CHART
from infrasight_testbed.system import System, execute, running_system

DASHBOARD: dict[str, Any] = json.loads((CHART / "dashboards" / "infrasight.json").read_text())
QUERIES: dict[str, str] = {
    panel["title"]: panel["targets"][0]["rawSql"] for panel in DASHBOARD["panels"]
}
VARIABLES: dict[str, str] = {
    v["name"]: v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"
}
ALERTS = CHART / "files" / "alerts.yaml"


def expand(sql: str, **chosen: str) -> str:
    """Expands the macros of Grafana's plugin: the last hour, with chosen nodes and namespaces."""
    sql = re.sub(
        r"\$__timeFilter\(([\w.]+)\)",
        r"\1 >= now() - INTERVAL 1 HOUR AND \1 <= now() + INTERVAL 1 MINUTE",
        sql,
    )
    sql = re.sub(
        r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 60 second)", sql
    )
    for name in VARIABLES:
        value = f"'{chosen[name]}'" if name in chosen else ""
        condition = rf"\$__conditionalAll\(([\w.]+ IN \()\$\{{{name}:singlequote\}}\), \${name}\)"
        sql = re.sub(condition, rf"\g<1>{value})" if value else "1=1", sql)
    assert "$" not in sql, sql
    return sql


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that has recorded events with every probe."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        running.start_server()
        agent = running.start_agent(every_probe=True)
        execute("dashboard", 5)
        assert agent.stop() == 0
        yield running


@pytest.mark.parametrize("title", QUERIES)
def test_panel_query_succeeds(system: System, title: str) -> None:
    """The panel's query succeeds, for all nodes and namespaces and for one of each."""
    for chosen in ({}, {"node": "node-a", "namespace": "default"}):
        assert isinstance(system.query(expand(QUERIES[title], **chosen)), list)


def test_panels_show_recorded_events(system: System) -> None:
    """The panels show events, node and program; no event is unaccounted for or on another node."""
    assert system.query(expand(QUERIES["Events"]))[0]["events"] >= 5
    assert system.query(expand(QUERIES["Nodes"])) == [{"nodes": 1}]
    assert system.query(expand(QUERIES["Unaccounted"])) == [{"events": 0}]
    assert {row["probe"] for row in system.query(expand(QUERIES["Events by probe"]))} >= {
        "execve",
        "open",
    }
    programs = {
        row["exe"]: row["executions"] for row in system.query(expand(QUERIES["Programs executed"]))
    }
    assert programs[str(Path("/bin/true").resolve())] >= 5
    assert system.query(expand(QUERIES["Programs executed"], node="elsewhere")) == []


@pytest.mark.parametrize("name", VARIABLES)
def test_variable_query_succeeds(system: System, name: str) -> None:
    """The query of a variable returns its choices."""
    rows = system.query(VARIABLES[name])
    assert name != "node" or rows == [{"node": "node-a"}]


def test_alerts_use_existing_metrics() -> None:
    """Each metric in an alert exists in the code, with the labels that the alert groups by."""
    sources = CHART.parents[1].glob("infrasight-*/src/**/*.py")
    code = "\n".join(source.read_text() for source in sources)
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        metrics = re.findall(r"infrasight_\w+", rule["expr"])
        assert metrics, rule["alert"]
        grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
        required = {label for group in grouped for label in group.split(", ")}
        for metric in metrics:
            name = metric.removesuffix("_total")
            (labels,) = re.findall(rf'\(\s*"{name}",(?:\s*"[^"]*")+(?:,\s*\[([^\]]*)\])?', code)
            existing = set(re.findall(r'"(\w+)"', labels))
            assert required - {"namespace", "pod"} <= existing, rule["alert"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Debian's package prometheus is not installed"
)
def test_promtool_accepts_the_alerts() -> None:
    """`promtool check rules` reports nothing."""
    done = subprocess.run(
        ["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
