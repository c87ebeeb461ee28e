"""`infrasight probes` and `infrasight doctor`."""

import json
from pathlib import Path

import infrasight_probe_sample
import pyarrow as pa
import pytest
from infrasight_testbed.command import run
from infrasight_testbed.event_server import EventServer

PLUGINS = {
    "broken": "raise RuntimeError('no such\\nthing')",
    "older": "infrasight_api = 0",
    "tracks": """
from infrasight_core import hookimpl
infrasight_api = 1
@hookimpl
def load_bpf(kernel, options):
    raise ValueError("nothing to track")
@hookimpl
def decode(columns):
    return {}
""",
    "lists": """
from infrasight_core import hookimpl
infrasight_api = 1
@hookimpl
def enrich(batch, context):
    return {}
""",
}

WANTS = """
from attrs import evolve
from infrasight_core import KernelFunction, hookimpl
import infrasight_probe_sample.plugin as sample
infrasight_api = 1
schema = sample.schema
@hookimpl
def load_bpf(kernel, options):
    program = sample.load_bpf(kernel, options)
    function = KernelFunction("f", "no_such_function", True, "its rows are poor")
    return evolve(program, attach=(function, *program.attach))
"""


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    """A folder with four installed plugins, for PYTHONPATH."""
    for name, source in PLUGINS.items():
        (tmp_path / f"{name}_plugin.py").write_text(source)
    info = tmp_path / "third_party-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(
        "[infrasight]\n" + "".join(f"{n} = {n}_plugin\n" for n in PLUGINS)
    )
    return str(tmp_path)


def test_probes_lists_plugins_and_failures(plugins: str) -> None:
    """One line for each plugin: its distribution, its hooks, and the failed hook and reason."""
    done = run("probes", "--format", "json", PYTHONPATH=plugins)
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, done.stderr) == (0, "")
    assert {(rows[n]["distribution"], rows[n]["version"]) for n in PLUGINS} == {
        ("third-party", "2.5")
    }
    assert (rows["lists"]["status"], rows["lists"]["hooks"]) == ("loaded", ["enrich"])
    assert (rows["broken"]["status"], rows["broken"]["failed_hook"]) == ("failed", "import")
    assert (rows["tracks"]["failed_hook"], rows["tracks"]["reason"]) == (
        "load_bpf",
        "ValueError: nothing to track",
    )
    assert rows["broken"]["reason"] == "RuntimeError: no such thing"
    assert "is built for plugin API 0; this infrasight-core has 1" in rows["older"]["reason"]


def test_probes_ddl_prints_the_whole_statement() -> None:
    """With `--ddl` the output is the CREATE TABLE statement of one probe, complete."""
    done = run("probes", "--ddl", "execve")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CREATE TABLE IF NOT EXISTS execve_events (\n  time DateTime64")
    assert "\n  filename String CODEC(ZSTD(1)),\n" in done.stdout
    assert done.stdout.endswith("\n  ttl_only_drop_parts = 1;\n")


def test_probes_ddl_names_what_has_no_table(plugins: str) -> None:
    """An enricher, an unknown name and a broken plugin end in one line on stderr and status 1."""
    enricher = run("probes", "--ddl", "users")
    unknown = run("probes", "--ddl", "nowhere")
    broken = run("probes", "--ddl", "broken", PYTHONPATH=plugins)
    assert enricher.stderr == "infrasight: --ddl: users is an enricher; only probes have tables\n"
    assert "'nowhere'" in unknown.stderr
    assert "RuntimeError: no such thing" in broken.stderr
    assert {enricher.returncode, unknown.returncode, broken.returncode} == {1}


def test_doctor_reports_failures_with_remedies(tmp_path: Path) -> None:
    """An absent loader and an unreachable server fail with remedies; the status is 1."""
    done = run(
        "doctor",
        "--format",
        "json",
        "--server",
        "127.0.0.1:1",
        INFRASIGHT_LOADER_PYTHON=str(tmp_path / "none"),
    )
    found = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert (found["bcc"]["status"], "python3-bpfcc" in found["bcc"]["remedy"]) == ("fail", True)
    assert (found["server"]["status"], "infrasight-server" in found["server"]["remedy"]) == (
        "fail",
        True,
    )
    assert found["tracepoints"]["status"] == found["optional tracepoints"]["status"] == "ok"
    assert {
        "kernel",
        "architecture",
        "BTF",
        "tracefs",
        "bpffs",
        "capabilities",
        "lockdown",
        "libbpf",
        "32-bit calls",
        "io_uring",
    } <= found.keys()


def test_doctor_checks_a_server() -> None:
    """With a server that answers, that check is ok."""
    with EventServer() as server:
        server.answer = lambda sql: iter((pa.table({"1": [1]}),))
        lines = run("doctor", "--format", "json", server=server).stdout.splitlines()
    assert json.loads(lines[-1]) == {
        "name": "server",
        "status": "ok",
        "found": f"{server.address} answers",
        "remedy": "",
    }


def test_doctor_attaches_to_the_kernel_functions_of_probes(tmp_path: Path) -> None:
    """An unknown function: a warning with its name, the reason and the probe's consequence."""
    (tmp_path / "wants_plugin.py").write_text(WANTS)
    info = tmp_path / "wants-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wants\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[infrasight]\nwants = wants_plugin\n")
    path = f"{tmp_path}:{Path(infrasight_probe_sample.__file__).parents[1]}"
    checks = map(json.loads, run("doctor", "--format", "json", PYTHONPATH=path).stdout.splitlines())
    found = {check["found"]: check for check in checks if check["name"] == "kernel function"}
    wanted = found["no_such_function: the kernel has no such function"]
    assert (wanted["status"], wanted["remedy"]) == ("warn", "without it (wants) its rows are poor")
