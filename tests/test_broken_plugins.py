"""A failing plugin affects only itself: each hook, in a real agent and server, beside a probe."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from infrasight_testbed.system import BIN, System, execute, running_system, until

# A broken plugin is the probe `sample` with one hook that raises.
_WHOLE = """\
from infrasight_probe_sample.plugin import *
from infrasight_core import hookimpl
infrasight_api = 1
"""
_RAISES = '@hookimpl\ndef {hook}({arguments}):\n    raise RuntimeError("broken on purpose")\n'
BROKEN = {
    "import": 'raise RuntimeError("broken on purpose")\n',
    "api": _WHOLE + "infrasight_api = 99\n",
    "schema": _WHOLE + _RAISES.format(hook="schema", arguments=""),
    "load_bpf": _WHOLE + _RAISES.format(hook="load_bpf", arguments="kernel, options"),
    "decode": _WHOLE + _RAISES.format(hook="decode", arguments="columns"),
    "enrich": _WHOLE + _RAISES.format(hook="enrich", arguments="batch, context"),
}
NOT_LOADED = ("import", "api", "schema")
LOADED = ("load_bpf", "decode", "enrich")
slow = pytest.mark.slow(reason="the command test shows quickly that such a plugin is left out")


def installed(folder: Path, name: str, source: str) -> dict[str, str]:
    """Installs a module as a plugin into a new folder; returns the environment that finds it."""
    metadata = folder / f"broken_{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(f"[infrasight]\nbroken = broken_{name}\n")
    (folder / f"broken_{name}.py").write_text(source)
    support = Path(__file__).parent / "support"
    return {**os.environ, "PYTHONPATH": f"{folder}:{support}"}


def listed_plugins(environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """The rows of `infrasight probes --format json` by name."""
    done = subprocess.run(
        [BIN / "infrasight", "probes", "--format", "json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("hook", NOT_LOADED)
def test_probes_command_lists_a_failed_plugin_with_its_reason(tmp_path: Path, hook: str) -> None:
    """`infrasight probes` lists it as failed, with hook and reason, and execve as loaded."""
    plugins = listed_plugins(installed(tmp_path, hook, BROKEN[hook]))
    assert plugins["execve"]["status"] == "loaded"
    assert plugins["broken"]["status"] == "failed"
    reason = "99" if hook == "api" else "broken on purpose"
    assert reason in json.dumps(plugins["broken"])


@pytest.mark.parametrize(
    "hook", [*LOADED, *(pytest.param(hook, marks=slow) for hook in NOT_LOADED)]
)
def test_failing_plugin_does_not_affect_other_probes(tmp_path: Path, hook: str) -> None:
    """With a plugin that raises in this hook all execve events are stored."""
    environment = installed(tmp_path / "plugins", hook, BROKEN[hook])
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent(
            "--probe", "execve", "--probe", "broken", ready=False, environment=environment
        )
        until(lambda: "stream open" in agent.log(), "the stream is open")
        execute(f"mark-{hook}", 10)
        until(lambda: stored_rows(system, f"mark-{hook}") == 10, "all ten are stored")
        label = "import" if hook == "api" else hook
        metric = f'infrasight_plugin_failures_total{{hook="{label}",plugin="broken"}}'
        assert agent.metric(metric) > 0
        assert agent.stop() == 0
        if hook == "decode":
            assert "decode_failed" in agent.log()


def stored_rows(system: System, marker: str) -> int:
    """The number of marked calls in the table."""
    sql = f"SELECT count() AS n FROM execve_events WHERE argv[2] = '{marker}'"
    return int(system.query(sql)[0]["n"])
