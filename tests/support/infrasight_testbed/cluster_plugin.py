"""pytest plugin for cluster tests: one control plane, a namespace per test, the tools' build."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infrasight_testbed.cluster_build import ClusterBuild
from infrasight_testbed.control_plane import ControlPlane, running_control_plane

_ROOT = Path(__file__).parents[3]
_BUILD = pytest.StashKey[ClusterBuild]()


def _needs_tools(item: pytest.Item) -> bool:
    return "cluster_tools" in getattr(item, "fixturenames", ())


def pytest_configure(config: pytest.Config) -> None:
    """Creates the session's build; nothing is started yet."""
    config.stash[_BUILD] = ClusterBuild()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """If the tools are missing, starts their build and runs the tests that need them last.

    A worker process does not start the build here: its parent has started it, or the first test
    that needs the tools does.
    """
    if config.option.collectonly or not any(map(_needs_tools, items)):
        return
    build = config.stash[_BUILD]
    is_worker = hasattr(config, "workerinput")
    to_be_built = not build.find() if is_worker else build.start()
    if to_be_built:
        items.sort(key=_needs_tools)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Waits for the build before the test's own time starts."""
    if _needs_tools(item):
        reporter = item.config.pluginmanager.get_plugin("terminalreporter")
        item.config.stash[_BUILD].wait(print if reporter is None else reporter.write_line)
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops a build that is still running; the compiler's cache saves the completed part."""
    config.stash[_BUILD].stop()


@pytest.fixture(scope="session")
def cluster_tools(request: pytest.FixtureRequest) -> Path:
    """The folder of kubectl, helm, kubeconform and the control plane's programs.

    Without them the test is skipped, with the reason.
    """
    build: ClusterBuild = request.config.stash[_BUILD]
    build.wait(print)
    if build.folder is None:
        pytest.skip(build.reason)
    return build.folder


@pytest.fixture(scope="session")
def control_plane(cluster_tools: Path) -> Iterator[ControlPlane]:
    """A real API server with controllers and the chart's definitions, for the whole session."""
    crds = _ROOT / "helm" / "infrasight" / "crds"
    with running_control_plane(cluster_tools, [crds] if crds.is_dir() else []) as running:
        yield running


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace for one test; its deletion is not awaited."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def add_node(control_plane: ControlPlane) -> Iterator[Callable[..., str]]:
    """Adds nodes with labels and unique names; they are removed after the test."""
    added: list[str] = []
    suffix = uuid.uuid4().hex[:8]

    def add(name: str, **labels: str) -> str:
        unique_name = f"{name}-{suffix}"
        added.append(unique_name)
        control_plane.add_node(unique_name, **labels)
        return unique_name

    yield add
    for name in added:
        control_plane.remove_node(name)
