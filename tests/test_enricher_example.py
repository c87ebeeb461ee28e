"""The example of a third-party enricher, `tests/examples/infrasight-enrich-cmdb`, as a wheel."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import Process, System, execute, running_system, until
from infrasight_testbed.wheels import build_wheels, create_environment, site_packages

ROOT = Path(__file__).parents[1]
PACKAGES = (
    ROOT / "infrasight-core",
    ROOT / "infrasight-probe-execve",
    ROOT / "tests/examples/infrasight-enrich-cmdb",
)
CMDB = """kind,name,tag,value
node,node-a,owner,platform
node,node-a,site,Bär
image,shop:1,owner,shop team
node,other,owner,x
"""
INVALID_LINE = "nod,node-a,owner,nobody"
# Stands for a container runtime: a process with the argument `in-shop` runs in an image.
RUNTIME = """
import pyarrow as pa
from infrasight_core import hookimpl, map_distinct

infrasight_api = 1


@hookimpl
def enrich(batch, context):
    images = [
        b"shop:1" if b"in-shop" in argv else b"" for argv in batch.column("argv").to_pylist()
    ]
    return {"container_image": pa.array(images, pa.binary()).dictionary_encode()}
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the core, execve, the example and the stand-in."""
    folder = tmp_path_factory.mktemp("third-party")
    wheels = build_wheels(PACKAGES, folder / "wheels")
    python = create_environment(folder / "venv", wheels)
    site = site_packages(python)
    metadata = site / "a_runtime-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a-runtime\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[infrasight]\na_runtime = a_runtime\n")
    (site / "a_runtime.py").write_text(RUNTIME)
    return python.parent


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A server with an embedded store."""
    with running_system(tmp_path) as running:
        running.start_server()
        yield running


def tags(system: System, marker: str) -> list[dict[str, str]]:
    """Returns the tags of the calls with this argument."""
    return [row["tags"] for row in system.rows(marker, "tags")]


def test_rows_have_the_tags_of_the_cmdb(commands: Path, system: System, tmp_path: Path) -> None:
    """Tags come by node and by image; an invalid file is named and costs no event until fixed."""
    file = tmp_path / "cmdb.csv"
    settings = tmp_path / "agent.toml"
    status = f"127.0.0.1:{free_port()}"
    file.write_text(CMDB, encoding="utf-8")
    settings.write_text(f'probes = ["execve"]\nnode = "node-a"\n[options.cmdb]\nfile = "{file}"\n')
    options = ["--config", str(settings), "--server", system.address, "--status-listen", status]
    command: list[str | Path] = [commands / "infrasight", "agent", *options]
    agent = Process(command, tmp_path / "third-party.log", status)
    try:
        until(agent.ready, "the agent is ready")
        execute("mark-cmdb", 3)
        execute("in-shop", 2)
        until(lambda: len(tags(system, "mark-cmdb")) == 3, "the calls are stored")
        until(lambda: len(tags(system, "in-shop")) == 2, "the calls in the image are stored")
        assert tags(system, "mark-cmdb") == [{"cmdb.owner": "platform", "cmdb.site": "Bär"}] * 3
        assert tags(system, "in-shop") == [{"cmdb.owner": "shop team", "cmdb.site": "Bär"}] * 2

        file.write_text(f"{CMDB}{INVALID_LINE}\n", encoding="utf-8")
        execute("mark-invalid", 4)
        until(lambda: len(tags(system, "mark-invalid")) == 4, "all four are stored")
        assert tags(system, "mark-invalid") == [{}] * 4
        row, *_ = system.rows("mark-invalid", "user, error, quality")
        assert (row["user"], row["error"]) == ("root", "")
        message = f"{file}:6: '{INVALID_LINE}' is not node or image,name,tag,value"
        assert agent.log().count(message) == 1
        failures = 'infrasight_plugin_failures_total{hook="enrich",plugin="cmdb"}'
        assert agent.metric(failures) > 0

        file.write_text(CMDB, encoding="utf-8")
        execute("mark-fixed", 1)
        until(lambda: len(tags(system, "mark-fixed")) == 1, "the call is stored")
        assert tags(system, "mark-fixed")[0]["cmdb.owner"] == "platform"
        owners = system.query(
            "SELECT tags['cmdb.owner'] AS owner, count() AS n FROM execve_events "
            "WHERE owner != '' GROUP BY owner"
        )
        assert {row["owner"] for row in owners} == {"platform", "shop team"}
    finally:
        assert agent.stop() == 0


def test_unknown_option_stops_the_agent_at_its_start(commands: Path, tmp_path: Path) -> None:
    """One line names the option that the plugin does not have; nothing is recorded."""
    settings = tmp_path / "agent.toml"
    settings.write_text('probes = ["execve"]\n[options.cmdb]\nfiel = "x"\n')
    options = ["--config", str(settings), "--status-listen", f"127.0.0.1:{free_port()}"]
    command: list[str | Path] = [commands / "infrasight", "agent", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    message = "unknown key options.cmdb.fiel (the agent's settings): did you mean file?"
    assert message in done.stderr
