"""A stranger's enricher, installed as one does: `tests/examples/infrasight-enrich-cmdb`, beside the packages' own wheels."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.system import Process, System, execute, running_system, until

ROOT = Path(__file__).parents[1]
PACKAGES = [
    ROOT / name
    for name in (
        "infrasight-core",
        "infrasight-probe-execve",
        "tests/examples/infrasight-enrich-cmdb",
    )
]
CMDB = "kind,name,tag,value\nnode,node-a,owner,platform\nnode,node-a,site,Bär\nimage,shop:1,owner,shop team\nnode,other,owner,x\n"
# Stands where a container's runtime would be: what marks itself `in-shop` runs in an image.
RUNTIME = """
import pyarrow as pa
from infrasight_core import hookimpl, map_distinct

infrasight_api = 1


@hookimpl
def enrich(batch, context):
    inside = [b"in-shop" in argv for argv in batch.column("argv").to_pylist()]
    return {"container_image": pa.array([b"shop:1" if i else b"" for i in inside], pa.binary()).dictionary_encode()}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a virtual environment with the wheels of core, execve and the example."""
    folder = tmp_path_factory.mktemp("stranger")
    for package in PACKAGES:
        command = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "wheel",
            "--directory",
            str(folder / "wheels"),
        ]
        subprocess.run(command, cwd=package, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    asked: list[str | Path] = [
        python,
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
    ]
    site = Path(subprocess.check_output(asked, text=True).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    uv = Path(sys.executable).with_name("uv")
    wheels = list((folder / "wheels").glob("*.whl"))
    subprocess.run(
        [uv, "pip", "install", "--offline", "--no-deps", "--python", python, *wheels], check=True
    )
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
    """The tags of the marked calls."""
    return [row["tags"] for row in system.rows(marker, "tags")]


def test_rows_carry_what_the_cmdb_says(environment: Path, system: System, tmp_path: Path) -> None:
    """Owners by node and by image; a mistake is named with file and line and costs no event; mended, they are back."""
    file, config, status = (
        tmp_path / "cmdb.csv",
        tmp_path / "agent.toml",
        f"127.0.0.1:{free_port()}",
    )
    file.write_text(CMDB, encoding="utf-8")
    config.write_text(f'probes = ["execve"]\nnode = "node-a"\n[options.cmdb]\nfile = "{file}"\n')
    command: list[str | Path] = [
        environment / "infrasight",
        "agent",
        "--config",
        config,
        "--server",
        system.address,
    ]
    agent = Process([*command, "--status-listen", status], tmp_path / "stranger.log", status)
    try:
        until(agent.ready, "the agent is ready")
        execute("mark-cmdb", 3)
        execute("in-shop", 2)
        until(
            lambda: len(tags(system, "mark-cmdb")) == 3 and len(tags(system, "in-shop")) == 2,
            "all five are stored",
        )
        assert tags(system, "mark-cmdb") == [{"cmdb.owner": "platform", "cmdb.site": "Bär"}] * 3
        assert tags(system, "in-shop") == [{"cmdb.owner": "shop team", "cmdb.site": "Bär"}] * 2

        file.write_text(CMDB + "nod,node-a,owner,nobody\n", encoding="utf-8")
        execute("mark-broken", 4)
        until(lambda: len(tags(system, "mark-broken")) == 4, "all four are stored")
        assert tags(system, "mark-broken") == [{}] * 4
        (row, *_) = system.rows("mark-broken", "user, error, quality")
        assert (row["user"], row["error"]) == ("root", "")
        assert (
            agent.log().count(
                f"{file}:6: 'nod,node-a,owner,nobody' is not node or image,name,tag,value"
            )
            == 1
        )
        assert agent.metric('infrasight_plugin_failures_total{hook="enrich",plugin="cmdb"}') > 0

        file.write_text(CMDB, encoding="utf-8")
        execute("mark-mended", 1)
        until(lambda: len(tags(system, "mark-mended")) == 1, "it is stored")
        assert tags(system, "mark-mended")[0]["cmdb.owner"] == "platform"
        owners = system.query(
            "SELECT tags['cmdb.owner'] AS owner, count() AS n FROM execve_events WHERE owner != '' GROUP BY owner"
        )
        assert {row["owner"] for row in owners} == {"platform", "shop team"}
    finally:
        assert agent.stop() == 0


def test_a_mistake_in_the_options_stops_the_start(environment: Path, tmp_path: Path) -> None:
    """An option that the plugin does not have is named in one line, before anything is recorded."""
    config = tmp_path / "agent.toml"
    config.write_text('probes = ["execve"]\n[options.cmdb]\nfiel = "x"\n')
    command: list[str | Path] = [
        environment / "infrasight",
        "agent",
        "--config",
        config,
        "--status-listen",
        f"127.0.0.1:{free_port()}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    assert "unknown key options.cmdb.fiel (the agent's settings): did you mean file?" in done.stderr
