"""`infrasight packages`: what policies want is installed with real pip from a real index, and an agent runs it."""

import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import infrasight_probe_sample
import pytest
from attrs import frozen
from infrasight.v1.control_pb2 import Configuration, Package
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.package_index import PackageIndex
from infrasight_testbed.system import BIN, running_system, until

NUMPY = importlib.metadata.version("numpy")


@pytest.fixture
def operator() -> Iterator[ControlServer]:
    """An operator."""
    with ControlServer() as server:
        yield server


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    """An empty index."""
    with PackageIndex(tmp_path / "index") as served:
        yield served


@frozen
class Done:
    """A run of the command.

    Attributes:
        status: How it ended.
        said: stderr.
        installed: Of its report.
        failures: Of its report, by name.
    """

    status: int
    said: str
    installed: list[tuple[str, str]]
    failures: dict[str, str]


def install(
    operator: str, target: Path, environment: Mapping[str, str], *options: str, timeout: int = 100
) -> Done:
    """Runs the command."""
    command: list[str | Path] = [
        BIN / "infrasight",
        "packages",
        "--operator",
        operator,
        "--node",
        "node-a",
    ]
    command += ["--target", target, "--timeout", str(timeout), *options]
    environ = {**os.environ, **environment}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads((target / "report.json").read_text())
    installed = [(package["name"], package["version"]) for package in report["installed"]]
    return Done(
        done.returncode,
        done.stderr,
        installed,
        {each["name"]: each["reason"] for each in report["failures"]},
    )


def wanted(*packages: tuple[str, str] | tuple[str, str, str]) -> Configuration:
    """A configuration with packages: name, version and, for some, a hash."""
    return Configuration(
        digest="a",
        settings="{}",
        packages=[Package(name=n, version=v, hashes=h) for n, v, *h in packages],
    )


def names(target: Path) -> set[str]:
    """What lies in the folder, but for metadata."""
    return {path.name for path in target.iterdir() if path.suffix != ".dist-info"} - {"report.json"}


def test_an_agent_runs_a_probe_that_was_installed_from_the_index(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """A probe's wheel with its hash is installed beside the agent, which records with it and reports both."""
    target = tmp_path / "packages"
    source = Path(infrasight_probe_sample.__file__).parent
    needs = ("infrasight-core", "protobuf")
    plugin = 'sample = "infrasight_probe_sample.plugin"'
    correct = index.add("infrasight-probe-sample", "1.0", needs, source, plugin=plugin)
    operator.send(wanted(("infrasight-probe-sample", "1.0", correct), ("nonsense", "3.0")))
    done = install(operator.address, target, index.environment)
    assert (done.status, done.installed) == (0, [("infrasight-probe-sample", "1.0")]), done
    assert names(target) == {"infrasight_probe_sample"}

    with running_system(tmp_path) as system:
        system.start_server()
        following = ("--operator", operator.address, "--state", str(tmp_path / "state"))
        environment = {"PYTHONPATH": str(target), "INFRASIGHT_AGENT_PACKAGES": str(target)}
        agent = system.start_agent(
            *following, ready=False, every_probe=True, environment=environment
        )
        operator.send(
            Configuration(
                digest="b",
                settings='{"probes": ["sample"], "options": {"sample": {"slots": 1024}}}',
            )
        )
        report = operator.wait(lambda report: report.digest == "b", "the configuration is taken")
        assert list(report.running) == ["sample"]
        assert "sample" in report.installed
        assert [(package.name, package.version) for package in report.packages] == [
            ("infrasight-probe-sample", "1.0")
        ]
        (failure,) = report.failures
        assert (failure.name, failure.is_package) == ("nonsense", True)
        assert (
            "Could not find a version that satisfies the requirement nonsense==3.0"
            in failure.reason
        )
        until(
            lambda: agent.metric('infrasight_events_read_total{probe="sample"}') > 0, "it records"
        )
        assert agent.stop() == 0


def test_what_fails_is_named_and_the_others_are_installed(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """A wrong hash, a version that is not there, a conflict with the image, a hashed one that needs what is not named: each
    fails by itself, with the reason; dependencies come along, the image's own are not copied."""
    target = tmp_path / "packages"
    index.add("demo-helper", "1.0")
    index.add("demo-helper", "2.0")
    index.add("demo-good", "1.0", ("numpy", "demo-helper"))
    index.add("demo-greedy", "1.0", ("numpy>=99",))
    alone = index.add("demo-alone", "1.0", ("demo-missing>=2",))
    index.add("demo-forged", "1.0")
    index.add("demo-taker", "1.0", code="", files="attr")
    operator.send(
        wanted(
            ("demo-forged", "1.0", "sha256:" + "0" * 64),
            ("demo-good", "1.0"),
            ("demo-absent", "1.0"),
            ("demo-greedy", "1.0"),
            ("demo-alone", "1.0", alone),
            ("demo-taker", "1.0"),
            ("numpy", NUMPY),
            ("pyarrow", "0.1"),
            ("demo-good --index-url=x", "1.0"),
            ("demo-helper", "1.0"),
        )
    )
    done = install(operator.address, target, index.environment)
    assert done.status == 0
    assert done.installed == [("demo-good", "1.0"), ("numpy", NUMPY), ("demo-helper", "1.0")], (
        done.failures
    )
    assert names(target) == {"demo_good.py", "demo_helper.py", "demo_alone.py"}
    said = {
        "demo-forged": "does not match the given hashes",
        "demo-absent": "Could not find a version that satisfies the requirement demo-absent==1.0 (from versions: none)",
        "demo-greedy": f"demo-greedy 1.0 depends on numpy>=99 and The user requested (constraint) numpy=={NUMPY}",
        "demo-alone": "requires demo-missing>=2, which is not installed",
        "demo-taker": "it would hide attr of",
        "pyarrow": "packages of the image are not replaced",
        "demo-good --index-url=x": "is not the name of a package",
    }
    assert done.failures.keys() == said.keys()
    for name, words in said.items():
        assert words in done.failures[name], name


def test_an_index_that_is_away_is_named_and_what_was_there_goes(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """The folder is made anew each time; without an index the package fails with why, and the command ends well."""
    target = tmp_path / "packages"
    index.add("demo-one", "1.0")
    operator.send(wanted(("demo-one", "1.0")))
    assert install(operator.address, target, index.environment).installed == [("demo-one", "1.0")]
    index.stop()
    done = install(operator.address, target, index.environment)
    assert (done.status, done.installed, names(target)) == (0, [], set())
    assert "the package index does not answer" in done.failures["demo-one"]
    assert "refused" in done.failures["demo-one"]


def test_an_operator_that_is_away_ends_in_a_report(tmp_path: Path) -> None:
    """After its time the command ends well, with a report that says who did not answer; also where the node is not known."""
    with ControlServer(started=False) as away:
        begun = time.monotonic()
        done = install(away.address, tmp_path / "packages", {}, timeout=3)
        assert (done.status, done.installed) == (0, [])
        assert time.monotonic() - begun < 60
        assert (
            f"no configuration from the operator at {away.address}: UNAVAILABLE"
            in done.failures["packages"]
        )
        away.start()
        done = install(away.address, tmp_path / "packages", {}, timeout=3)
        assert "'node-a' is not known here" in done.failures["packages"]
        assert set(away.requested_nodes) == {"node-a"}


def test_a_folder_with_something_else_is_left_alone(
    operator: ControlServer, tmp_path: Path
) -> None:
    """A folder that holds files of others is refused before anything is removed."""
    operator.send(wanted())
    (tmp_path / "precious").write_text("x")
    command: list[str | Path] = [
        BIN / "infrasight",
        "packages",
        "--operator",
        operator.address,
        "--node",
        "a",
    ]
    done = subprocess.run(
        [*command, "--target", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "name an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_it_asks_by_mutual_tls(tmp_path: Path) -> None:
    """With its certificate it is answered; without, the report says what the connection lacked."""
    ours = CertificateAuthority(tmp_path / "ca", "ours")
    with ControlServer(ours.issue("operator")) as operator:
        operator.send(wanted())
        files = ours.issue("agent")
        tls = (
            "--tls-certificate",
            str(files.certificate),
            "--tls-key",
            str(files.key),
            "--tls-ca",
            str(files.ca),
        )
        done = install(operator.address, tmp_path / "packages", {}, *tls)
        assert (done.status, done.failures) == (0, {})
        assert (
            "UNAVAILABLE"
            in install(operator.address, tmp_path / "packages", {}, timeout=3).failures["packages"]
        )
