"""The canary of a real agent: its events arrive, are accounted for, and are not stored."""

import os
import subprocess
from pathlib import Path

import pytest
from infrasight_testbed.system import execute, running_system, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
PROBES = ("accept", "chmod", "connect", "execve", "open")
UNACCOUNTED = "SELECT sum(abs(difference)) AS n FROM accounting WHERE probe != 'dispatcher'"


def test_canary_events_arrive_and_are_accounted_for(tmp_path: Path) -> None:
    """Under load and with filters that no event of the agent passes, every canary arrives."""
    settings = tmp_path / "agent.toml"
    settings.write_text('[filters.all]\ninclude_comm = ["true", "python3"]\nexclude_uid = [1]\n')
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent(
            "--config",
            str(settings),
            every_probe=True,
            environment={"INFRASIGHT_AGENT_CANARY_INTERVAL": "2"},
        )

        def arrived(probe: str) -> float:
            return agent.metric(
                f'infrasight_canary_events_total{{outcome="arrived",probe="{probe}"}}'
            )

        def have_arrived() -> bool:
            subprocess.run(["/bin/true", "canary-load"], check=True)
            return all(arrived(probe) >= 3 for probe in PROBES)

        until(have_arrived, "three canary events of every probe arrive")
        assert agent.ready(), agent.log()[-2000:]  # no map differs from what the agent wrote
        execute("mark-canary", 10)
        assert agent.stop() == 0
        assert len(system.rows("mark-canary")) == 10
        (unaccounted,) = system.query(UNACCOUNTED)
        assert int(unaccounted["n"]) == 0
        for table, column in (
            ("open_events", "path"),
            ("chmod_events", "path"),
            ("execve_events", "filename"),
            ("connect_events", "unix_path"),
            ("accept_events", "unix_path"),
        ):
            (stored,) = system.query(
                f"SELECT count() AS n FROM {table} WHERE {column} LIKE '%infrasight-canary%'"
            )
            assert int(stored["n"]) == 0, table
