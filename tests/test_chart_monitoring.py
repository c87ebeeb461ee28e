"""The chart's dashboard asks what the store has, and its alerts watch metrics that there are."""

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


def expanded(sql: str, **chosen: str) -> str:
    """A query as Grafana's plugin sends it: of the last hour, with nodes and namespaces chosen, or all of them."""
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
    """A system that has recorded something by every probe."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        running.start_server()
        agent = running.start_agent(every_probe=True)
        execute("dashboard", 5)
        assert agent.stop() == 0
        yield running


@pytest.mark.parametrize("title", QUERIES)
def test_each_panel_is_answered(system: System, title: str) -> None:
    """The panel's query runs as it stands, for everything and for one node and namespace."""
    for chosen in ({}, {"node": "node-a", "namespace": "default"}):
        assert isinstance(system.query(expanded(QUERIES[title], **chosen)), list)


def test_the_panels_show_what_was_recorded(system: System) -> None:
    """Events, their node, the program, and that nothing is unaccounted for; another node has none of it."""
    assert system.query(expanded(QUERIES["Events"]))[0]["events"] >= 5
    assert system.query(expanded(QUERIES["Nodes"])) == [{"nodes": 1}]
    assert system.query(expanded(QUERIES["Unaccounted"])) == [{"events": 0}]
    assert {row["probe"] for row in system.query(expanded(QUERIES["Events by probe"]))} >= {
        "execve",
        "open",
    }
    programs = {
        row["exe"]: row["executions"]
        for row in system.query(expanded(QUERIES["Programs executed"]))
    }
    assert programs[str(Path("/bin/true").resolve())] >= 5
    assert system.query(expanded(QUERIES["Programs executed"], node="elsewhere")) == []


@pytest.mark.parametrize("name", VARIABLES)
def test_each_variable_is_answered(system: System, name: str) -> None:
    """What a person may choose from is there."""
    rows = system.query(VARIABLES[name])
    assert name != "node" or rows == [{"node": "node-a"}]


def test_alerts_watch_metrics_that_there_are() -> None:
    """Every metric that an alert's expression names is counted by our code, with the labels that it groups by."""
    made = "\n".join(f.read_text() for f in CHART.parents[1].glob("infrasight-*/src/**/*.py"))
    for rule in (
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ):
        (metric,) = re.findall(r"infrasight_\w+", rule["expr"])
        (said,) = re.findall(
            rf'\(\s*"{metric.removesuffix("_total")}",\s*"[^"]*"(?:,\s*\[([^\]]*)\])?', made
        )
        grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
        wanted = set(grouped[0].split(", ")) if grouped else set()
        assert wanted - {"namespace", "pod"} <= set(re.findall(r'"(\w+)"', said)), rule["alert"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Debian's package prometheus is not installed"
)
def test_promtool_takes_the_alerts() -> None:
    """`promtool check rules` finds no fault."""
    done = subprocess.run(
        ["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
