"""Settings that change while the agent runs, by the file and by SIGHUP."""

import os
import signal
from pathlib import Path

from infrasight_testbed.system import execute, running_system, until


def test_reload_applies_changes_and_rejects_mistakes(tmp_path: Path) -> None:
    """A changed file adds a filter, SIGHUP removes it; a mistake is one line that names the key."""
    file = tmp_path / "agent.toml"
    file.write_text('probes = ["execve"]\n')
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent("--config", str(file))
        execute("mark-reload", 5)
        file.write_text(
            'probes = ["execve"]\noutbox_memory = 67108864\n'
            '[filters.execve]\nexclude_comm = ["true"]\n'
        )
        until(lambda: "settings changed" in agent.log(), "the file has been read again")
        execute("mark-reload", 5, 100)
        file.write_text('probes = ["execve"]\n[filters.execve]\nexclude_pid = ["x"]\n')
        until(lambda: "settings not changed" in agent.log(), "the mistake has been seen")
        execute("mark-reload", 5, 200)
        file.write_text('probes = ["execve"]\n')
        os.kill(agent.pid, signal.SIGHUP)
        until(lambda: agent.log().count("settings changed") == 2, "the signal has been heard")
        execute("mark-reload", 5, 300)
        assert agent.ready()
        assert agent.metric("infrasight_events_filtered_total") >= 10
        assert agent.stop() == 0
        log = agent.log().splitlines()
        found = sorted(
            int(row["number"]) for row in system.rows("mark-reload", "argv[3] AS number")
        )
    assert found == [*range(5), *range(300, 305)]
    (mistake,) = [line for line in log if "settings not changed" in line]
    assert "filters.execve.exclude_pid" in mistake
    assert any("take effect at the next start" in line and "outbox_memory" in line for line in log)
    assert "Traceback" not in "".join(log)
    assert (
        sum(
            "agent connected" in line for line in (tmp_path / "server.log").read_text().splitlines()
        )
        == 3
    )
