"""`infrasight packages` installs packages with pip from an index, and an agent runs them."""

import importlib.metadata
import json
import os
import subprocess
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
class Result:
    """The result of a run of the command.

    Attributes:
        status: The exit status.
        stderr: The text on stderr.
        installed: The names and versions in its report.
        failures: The reasons in its report, by package.
    """

    status: int
    stderr: str
    installed: list[tuple[str, str]]
    failures: dict[str, str]


def install(
    operator: str, target: Path, environment: Mapping[str, str], *options: str, timeout: int = 100
) -> Result:
    """Runs the command and reads its report."""
    command: list[str | Path] = [BIN / "infrasight", "packages", "--operator", operator]
    command += ["--node", "node-a", "--target", target, "--timeout", str(timeout), *options]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads((target / "report.json").read_text())
    installed = [(package["name"], package["version"]) for package in report["installed"]]
    failures = {failure["name"]: failure["reason"] for failure in report["failures"]}
    return Result(done.returncode, done.stderr, installed, failures)


def wanted(*packages: tuple[str, str] | tuple[str, str, str]) -> Configuration:
    """Returns a configuration with packages: name, version and, for some, a hash."""
    return Configuration(
        digest="a",
        settings="{}",
        packages=[Package(name=n, version=v, hashes=h) for n, v, *h in packages],
    )


def names(target: Path) -> set[str]:
    """Returns the names of the modules and packages in the folder."""
    return {path.name for path in target.iterdir() if path.suffix != ".dist-info"} - {"report.json"}


def test_agent_runs_a_probe_that_was_installed_from_the_index(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """A wheel with its hash is installed; the agent records with it and reports the packages."""
    target = tmp_path / "packages"
    source = Path(infrasight_probe_sample.__file__).parent
    needs = ("infrasight-core", "protobuf")
    plugin = 'sample = "infrasight_probe_sample.plugin"'
    absent = f"sha256:{'0' * 64}"
    correct = index.add("infrasight-probe-sample", "1.0", needs, source, plugin=plugin)
    operator.send(wanted(("infrasight-probe-sample", "1.0", correct), ("nonsense", "3.0", absent)))
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
        report = operator.wait(lambda report: report.digest == "b", "the configuration is active")
        assert list(report.running) == ["sample"]
        assert "sample" in report.installed
        packages = [(package.name, package.version) for package in report.packages]
        assert packages == [("infrasight-probe-sample", "1.0")]
        (failure,) = report.failures
        assert (failure.name, failure.is_package) == ("nonsense", True)
        reason = "Could not find a version that satisfies the requirement nonsense==3.0"
        assert reason in failure.reason
        read = 'infrasight_events_read_total{probe="sample"}'
        until(lambda: agent.metric(read) > 0, "the agent records")
        assert agent.stop() == 0


def test_failed_packages_are_named_and_the_others_installed(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """Each failure has its own reason; dependencies are installed, those of the image not copied.

    The failures are a wrong hash, an absent version, conflicts with the image, a package with a
    hash whose requirement is not listed, a module that would be hidden, and an invalid name.
    """
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
    done = install(operator.address, target, index.environment, "--allow-unhashed")
    assert done.status == 0
    assert done.installed == [("demo-good", "1.0"), ("numpy", NUMPY), ("demo-helper", "1.0")], (
        done.failures
    )
    assert names(target) == {"demo_good.py", "demo_helper.py", "demo_alone.py"}
    reasons = {
        "demo-forged": "does not match the given hashes",
        "demo-absent": "Could not find a version that satisfies the requirement demo-absent==1.0",
        "demo-greedy": "demo-greedy 1.0 depends on numpy>=99 and "
        f"The user requested (constraint) numpy=={NUMPY}",
        "demo-alone": "requires demo-missing>=2, which is not installed",
        "demo-taker": "it would hide attr of",
        "pyarrow": "packages of the image are not replaced",
        "demo-good --index-url=x": "is not the name of a package",
    }
    assert done.failures.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in done.failures[name], name


def test_unavailable_index_is_a_failure_and_the_folder_is_emptied(
    operator: ControlServer, index: PackageIndex, tmp_path: Path
) -> None:
    """Packages of an earlier run are deleted; the command succeeds with a report of the failure."""
    target = tmp_path / "packages"
    digest = index.add("demo-one", "1.0")
    operator.send(wanted(("demo-one", "1.0", digest)))
    assert install(operator.address, target, index.environment).installed == [("demo-one", "1.0")]
    index.stop()
    done = install(operator.address, target, index.environment)
    assert (done.status, done.installed, names(target)) == (0, [], set())
    assert "the package index does not answer" in done.failures["demo-one"]
    assert "refused" in done.failures["demo-one"]


def test_unavailable_operator_is_reported(tmp_path: Path) -> None:
    """After its timeout the command succeeds with a report of the failure.

    So it does if the operator does not know the node.
    """
    with ControlServer(started=False) as server:
        done = install(server.address, tmp_path / "packages", {}, timeout=3)
        assert (done.status, done.installed) == (0, [])
        reason = f"no configuration from the operator at {server.address}: UNAVAILABLE"
        assert reason in done.failures["packages"]
        server.start()
        done = install(server.address, tmp_path / "packages", {}, timeout=3)
        assert "'node-a' is not known here" in done.failures["packages"]
        assert set(server.requested_nodes) == {"node-a"}


def test_folder_with_other_files_is_rejected(operator: ControlServer, tmp_path: Path) -> None:
    """A folder with files that the command did not install stays as it is."""
    operator.send(wanted())
    (tmp_path / "precious").write_text("x")
    command = [str(BIN / "infrasight"), "packages", "--operator", operator.address, "--node", "a"]
    command += ["--target", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "name an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_command_connects_by_mutual_tls(tmp_path: Path) -> None:
    """With its certificate it is answered; without one the report has the failure."""
    target = tmp_path / "packages"
    authority = CertificateAuthority(tmp_path / "ca", "ours")
    with ControlServer(authority.issue("operator")) as operator:
        operator.send(wanted())
        files = authority.issue("agent", uris=("agent/node-a",))
        tls = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
        tls += ["--tls-ca", str(files.ca)]
        done = install(operator.address, target, {}, *tls)
        assert (done.status, done.failures) == (0, {})
        done = install(operator.address, target, {}, timeout=3)
        assert "UNAVAILABLE" in done.failures["packages"]
