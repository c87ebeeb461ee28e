"""A query proves completeness: seen = filtered + dropped + rejected + stored, to the event."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import BIN, Process, System, execute, running_system, until

SUMMED = (
    *("seen", "filtered", "block_full", "heap_full", "submitted", "read", "decoded", "sent"),
    *("rejected", "stored", "waiting", "in_progress", "skipped", "outbox_full"),
)
WORKLOADS = Path(__file__).parent / "support/workloads"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A system on the embedded store, its server started."""
    with running_system(tmp_path) as running:
        running.start_server()
        yield running


@pytest.fixture(scope="session")
def open_storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `open_storm PROCESSES CALLS`."""
    program = tmp_path_factory.mktemp("storm") / "open_storm"
    subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "open_storm.c"], check=True)
    return program


def accounts(system: System) -> dict[str, dict[str, Any]]:
    """The view's sums by probe; `wrong` adds up the absolute differences."""
    sums = ", ".join(f"sum(a.{name}) AS {name}" for name in SUMMED)
    rows = system.query(
        f"SELECT probe, {sums}, sum(abs(difference)) AS wrong, uniq(run) AS runs, "
        "min(ended_run) AS ended FROM "
        "(SELECT *, max(ended) OVER (PARTITION BY probe, run) AS ended_run FROM accounting) AS a "
        "WHERE probe != 'dispatcher' GROUP BY probe"
    )
    return {row["probe"]: row for row in rows}


def verify(system: System, *options: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """The status, rows by probe and stderr of `infrasight verify`."""
    command: list[str | Path] = [BIN / "infrasight", "verify", "--server", system.address, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        done.returncode,
        {row["probe"]: row for row in map(json.loads, done.stdout.splitlines())},
        done.stderr,
    )


def flagged_missing(system: System) -> dict[str, int]:
    """The number of execve's rows with a flag `<column>_missing`, by column."""
    rows = system.query(
        "SELECT arrayJoin(quality) AS flag, count() AS n FROM execve_events GROUP BY flag"
    )
    return {
        row["flag"].removesuffix("_missing"): row["n"]
        for row in rows
        if row["flag"].endswith("_missing")
    }


def test_every_event_seen_is_stored_and_verified(system: System) -> None:
    """From each probe's first event to its last the difference is 0, and verify succeeds."""
    agent = system.start_agent(every_probe=True)
    execute("mark-accounts", 50)
    until(lambda: "execve" in verify(system)[1], "the first account of execve is stored")
    status, rows, errors = verify(system)
    assert (status, errors) == (0, "")
    assert all(row["difference"] == 0 for row in rows.values())
    lacking = flagged_missing(system)
    assert set(rows["execve"]["missing_fields"]) <= set(lacking)
    assert all(
        count <= lacking[field] for field, count in rows["execve"]["missing_fields"].items()
    )  # more came meanwhile
    assert (
        0
        <= agent.metric("infrasight_events_with_missing_fields_total")
        <= agent.metric("infrasight_events_read_total")
    )
    assert agent.stop() == 0
    found = accounts(system)
    assert set(found) >= {"accept", "execve", "open", "chmod"}
    for row in found.values():
        assert (row["wrong"], row["waiting"], row["in_progress"], row["skipped"], row["ended"]) == (
            0,
            0,
            0,
            0,
            True,
        )
        assert (
            row["stored"]
            == row["sent"]
            == row["decoded"]
            == row["read"]
            == row["submitted"]
            == row["seen"] - row["filtered"]
        )
        counted = system.query(f"SELECT count() AS n FROM {row['probe']}_events")
        assert counted[0]["n"] == row["stored"]
    assert found["execve"]["stored"] >= 50
    assert found["accept"]["filtered"] > 0  # the agent's own: its status pages were asked for


@pytest.mark.alone
def test_overflowing_blocks_are_accounted_for(system: System, open_storm: Path) -> None:
    """Small blocks overflow in a storm: the difference is 0, and stored rows are complete."""
    agent = system.start_agent(
        "--probe", "open", environment={"INFRASIGHT_AGENT_BLOCK_MEMORY": "300000"}
    )
    calls = 100_000
    storm = [
        subprocess.Popen([open_storm, str(calls)], stdout=subprocess.DEVNULL)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    assert [process.wait(300) for process in storm] == [0] * len(storm)
    assert agent.stop() == 0
    assert '"slots": 256' in agent.log()
    row = accounts(system)["open"]
    assert row["block_full"] + row["heap_full"] > 0
    assert (row["wrong"], row["ended"]) == (0, True)
    assert row["seen"] >= len(storm) * calls
    assert row["stored"] == row["seen"] - row["filtered"] - row["block_full"] - row["heap_full"]
    (there,) = system.query(
        "WITH splitByChar('-', path)[2] AS number "
        "SELECT count() AS n, uniqExact(path) AS different, uniqExact(pid) AS processes, "
        "countIf(quality != ['path_user_memory'] OR return_code != -2 "
        "OR path != concat('/storm/', toString(pid), '-', number) "
        "OR flags != bitAnd(toUInt64(number), 0xbf)) AS odd "
        "FROM open_events WHERE startsWith(path, '/storm/')"
    )
    assert there["n"] == there["different"] > 0
    assert there["odd"] == 0
    assert 0 < there["processes"] <= len(storm)
    status, rows, errors = verify(system)
    assert status == 1
    assert rows["open"]["difference"] == 0
    assert "give the blocks more memory" in errors


def reconfigure(agent: Process, file: Path, settings: str) -> None:
    """Changes the agent's file and waits until the agent has applied it."""
    before = agent.log().count("settings changed")
    file.write_text(settings)
    until(lambda: agent.log().count("settings changed") > before, "the settings have changed")


@pytest.mark.slow(reason="starts an agent and probes again and again")
def test_each_restart_of_a_probe_is_an_accounted_run(system: System, tmp_path: Path) -> None:
    """A probe switched off and on, in two agents, has four ended runs with difference 0."""
    file = tmp_path / "agent.toml"
    for _ in range(2):
        file.write_text('probes = ["execve", "open"]\n')
        agent = system.start_agent("--config", str(file))
        for probes in ('["open"]', '["execve", "open"]'):
            execute("mark-runs", 20)
            reconfigure(agent, file, f"probes = {probes}\n")
        execute("mark-runs", 20)
        assert agent.stop() == 0
    found = accounts(system)
    assert (found["execve"]["runs"], found["open"]["runs"]) == (4, 2)
    assert [(row["wrong"], row["ended"]) for row in found.values()] == [(0, True)] * 2
    assert verify(system)[::2] == (0, "")


def test_verify_reports_the_run_of_a_killed_agent(system: System) -> None:
    """After SIGKILL the stored events are accounted for, and verify reports the broken run."""
    agent = system.start_agent("--probe", "execve")
    execute("mark-killed", 50)
    until(lambda: len(system.rows("mark-killed", "pid")) == 50, "they are stored")
    agent.kill()
    agent = system.start_agent("--probe", "execve")
    execute("mark-killed", 10)
    assert agent.stop() == 0
    row = accounts(system)["execve"]
    assert (row["runs"], row["wrong"], row["ended"]) == (2, 0, False)
    status, rows, errors = verify(system)
    assert (status, rows["execve"]["broken_off"], rows["execve"]["difference"]) == (1, 1, 0)
    assert "without a last account" in errors


def test_verify_reports_deleted_and_doubled_rows(tmp_path: Path) -> None:
    """Rows deleted from the store, and doubled rows, are differences of the right size and sign."""
    clickhouse = ClickHouseServer(tmp_path / "clickhouse").start()
    try:
        with running_system(tmp_path, clickhouse.url, "tampered") as system:
            system.start_server()
            agent = system.start_agent("--probe", "execve")
            execute("mark-gone", 10)
            assert agent.stop() == 0
            assert verify(system)[::2] == (0, "")
            for sql, difference, word in (
                (
                    "DELETE FROM execve_events "
                    "WHERE argv[2] = 'mark-gone' AND argv[3] IN ('3', '4')",
                    2,
                    "2 rows too few",
                ),
                (
                    "INSERT INTO execve_events "
                    "SELECT * FROM execve_events WHERE startsWith(argv[2], 'mark-g')",
                    -6,
                    "6 rows too many",
                ),
            ):
                request = urllib.request.Request(
                    f"{clickhouse.url}?database=tampered", sql.encode()
                )
                with urllib.request.urlopen(request, timeout=60):
                    status, rows, errors = verify(system)
                assert (status, rows["execve"]["difference"]) == (1, difference)
                assert word in errors
    finally:
        clickhouse.kill()


@pytest.mark.parametrize("since", ["yesterday", "", "5", "9999999h"])
def test_verify_rejects_a_malformed_time(system: System, since: str) -> None:
    """A malformed time is rejected with an example."""
    status, _, errors = verify(system, "--since", since)
    assert status == 2
    assert "write 90s, 30m, 6h, 7d or 2w" in errors


def test_verify_fails_without_accounts(system: System) -> None:
    """Without any account verify fails, because nothing is proved."""
    status, rows, errors = verify(system)
    assert (status, rows) == (1, {})
    assert "no account in the last 1h" in errors
