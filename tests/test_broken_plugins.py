"""A plugin that fails hurts only itself: each hook, in a real agent and server, beside a probe that works."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from infrasight_testbed.system import BIN, System, execute, running_system, until

# What a broken plugin is made of: the probe `sample`, with one hook that raises.
_WHOLE = "from infrasight_probe_sample.plugin import *\nfrom infrasight_core import hookimpl\ninfrasight_api = 1\n"
_RAISES = '@hookimpl\ndef {hook}({arguments}):\n    raise RuntimeError("broken on purpose")\n'
BROKEN = {
    "import": 'raise RuntimeError("broken on purpose")\n',
    "api": _WHOLE + "infrasight_api = 99\n",
    "schema": _WHOLE + _RAISES.format(hook="schema", arguments=""),
    "load_bpf": _WHOLE + _RAISES.format(hook="load_bpf", arguments="kernel, options"),
    "decode": _WHOLE + _RAISES.format(hook="decode", arguments="columns"),
    "enrich": _WHOLE + _RAISES.format(hook="enrich", arguments="batch, context"),
}


def installed(folder: Path, name: str, source: str) -> dict[str, str]:
    """Installs a module as a plugin into a folder of its own; the environment that sees it."""
    metadata = folder / f"broken_{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(f"[infrasight]\nbroken = broken_{name}\n")
    (folder / f"broken_{name}.py").write_text(source)
    support = Path(__file__).parent / "support"
    return {**os.environ, "PYTHONPATH": f"{folder}:{support}"}


def probes(environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """What `infrasight probes --json` says, by name."""
    done = subprocess.run(
        [BIN / "infrasight", "probes", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("hook", ["import", "api", "schema"])
def test_a_plugin_that_cannot_be_loaded_is_named_with_its_reason(tmp_path: Path, hook: str) -> None:
    """`infrasight probes` lists it as failed, with the hook and the reason, and execve as loaded."""
    said = probes(installed(tmp_path, hook, BROKEN[hook]))
    assert said["execve"]["status"] == "loaded"
    assert said["broken"]["status"] == "failed"
    assert ("99" if hook == "api" else "broken on purpose") in json.dumps(said["broken"])


@pytest.mark.parametrize("hook", list(BROKEN))
def test_the_other_probes_go_on(tmp_path: Path, hook: str) -> None:
    """With a plugin that raises in this hook, every execve event is in the table all the same, and the failure is counted."""
    environment = installed(tmp_path / "plugins", hook, BROKEN[hook])
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent(ready=False, every_probe=True, environment=environment)
        until(lambda: "stream open" in agent.log(), "the stream is open")
        execute(f"mark-{hook}", 10)
        until(lambda: count(system, f"mark-{hook}") == 10, "all ten are stored")
        failures = f'infrasight_plugin_failures_total{{hook="{"import" if hook == "api" else hook}",plugin="broken"}}'
        assert agent.metric(failures) > 0
        assert agent.stop() == 0
        if hook == "decode":
            assert "decode_failed" in agent.log()


def count(system: System, marker: str) -> int:
    """How many of the marked calls are in the table."""
    return int(
        system.query(f"SELECT count() AS n FROM execve_events WHERE argv[2] = '{marker}'")[0]["n"]
    )
