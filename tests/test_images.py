"""The images: built as they are shipped, run with no more rights than a pod has, from the kernel to the store."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.agent_pod import agent_template
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.images import STORE, build, image
from infrasight_testbed.pod_container import PodContainer
from infrasight_testbed.podman import IMAGE, Podman, running_podman
from infrasight_testbed.system import System, execute, running_system, until

pytestmark = [
    pytest.mark.slow(reason="builds the images, for minutes"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and recording need root"),
    pytest.mark.timeout(900),  # building them is part of it
]
NODE = "node-1"
FIELDS = {"spec.nodeName": NODE, "metadata.name": "infrasight-agent-x"}


@pytest.fixture(scope="module")
def images() -> Path:
    """The store with all images in it."""
    print(build())
    return STORE


@pytest.fixture(scope="module")
def podman(images: Path) -> Iterator[Podman]:
    """A podman that has the images."""
    with running_podman(images) as running:
        yield running


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A server with an embedded store."""
    with running_system(tmp_path) as running:
        running.start_server()
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For the volumes of a pod."""
    (made := tmp_path / "volumes").mkdir()
    return made


def agent(system: System, podman: Podman, folder: Path) -> PodContainer:
    """The agent's container, which sends to this server."""
    template = agent_template(image("agent"), system.address, podman.run_folder)
    told = {
        "INFRASIGHT_AGENT_STATUS_LISTEN": f"127.0.0.1:{free_port()}"
    }  # the network is the host's here, and others use it
    return PodContainer.of(template, "agent", folder, FIELDS, told)


def test_agent_records_the_host_and_its_containers(
    system: System, podman: Podman, folder: Path
) -> None:
    """With the rights of the operator's pod and nothing else the agent's image records programs of the host and of containers,
    those that were there before it too, by the pids and ids that the host knows; what it does itself it does not record."""
    marker = uuid.uuid4().hex
    loop = f"while :; do /bin/true mark-{marker}; sleep 0.2; done"
    before = podman.run("--name", f"before-{marker}", command=("sh", "-c", loop))
    container = agent(system, podman, folder)
    options = [
        "--detach",
        "--network=host",
        "--cgroup-parent",
        f"/{podman.cgroup}",
        *container.podman_options(folder),
    ]
    running = podman("run", *options, image("agent"), *container.args)

    def streams() -> bool:
        log = podman.log(running)
        assert podman("inspect", "--format", "{{.State.Running}}", running) == "true", log
        return "stream open" in log

    until(streams, "the agent records and streams")
    after = podman.run("--name", f"after-{marker}", command=("/bin/true", f"mark-{marker}"))
    host = subprocess.Popen(["/bin/true", f"mark-{marker}"])
    host.wait()
    execute(f"mark-{marker}", 5)
    rows = "SELECT pid, node, argv, exe, user, container_id, container.name AS name, container.image AS image FROM execve_events "
    rows += f"WHERE argv[2] = 'mark-{marker}'"
    until(
        lambda: {before, after, ""} <= {row["container_id"] for row in system.query(rows)},
        "every container has rows",
    )
    until(
        lambda: (
            {row["name"] for row in system.query(rows)}
            == {f"before-{marker}", f"after-{marker}", ""}
        ),
        "containers have names",
    )
    found = system.query(rows)
    assert {row["image"] for row in found if row["container_id"]} == {IMAGE}
    assert {(row["node"], row["user"]) for row in found} == {(NODE, "root")}
    assert host.pid in {row["pid"] for row in found if not row["container_id"]}
    assert len([row for row in found if not row["container_id"]]) == 6
    own = system.query(f"SELECT argv FROM execve_events WHERE container_id = '{running}'")
    assert own == [], "the agent's own work was recorded"
    podman("stop", "--time", "60", running)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", running) == "0", podman.log(running)
    for name in (before, running):
        podman("rm", "--force", "--time", "0", name)


@pytest.mark.parametrize("name", ["server", "operator"])
def test_others_are_not_root_and_explain_themselves(podman: Podman, name: str) -> None:
    """The server's and the operator's image run as a user without rights, on a read-only root, and hold no tool that builds."""
    options = (
        "--rm",
        "--network=none",
        "--read-only",
        "--cap-drop=all",
        "--cgroup-parent",
        f"/{podman.cgroup}",
    )
    assert "Usage:" in podman("run", *options, image(name), "--help")
    look = "id -u; for tool in cc gcc make pip uv; do command -v $tool; done; true"
    assert podman("run", *options, "--entrypoint", "sh", image(name), "-c", look) == "65532"


def test_server_stores_answers_and_ends(system: System, podman: Podman, folder: Path) -> None:
    """The server's image, not root, on a read-only root, takes an agent's events, answers a query, and SIGTERM ends it well."""
    address = f"127.0.0.1:{free_port()}"
    (data := folder / "data").mkdir()
    os.chown(data, 65532, 65532)
    options = [
        "--detach",
        "--network=host",
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop=all",
        "--cgroup-parent",
    ]
    options += [
        f"/{podman.cgroup}",
        f"--volume={data}:/var/lib/infrasight",
        "--tmpfs=/tmp",
        "--security-opt=no-new-privileges",
    ]
    told = ("--listen", address, "--status-listen", f"127.0.0.1:{free_port()}")
    running = podman("run", *options, image("server"), *told)
    system.address = address
    agent = system.start_agent()
    execute(marker := f"mark-{uuid.uuid4().hex}", 5)
    assert agent.stop() == 0
    assert [row["argv"][2] for row in system.rows(marker)] == [str(number) for number in range(5)]
    podman("stop", "--time", "60", running)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", running) == "0", podman.log(running)
    podman("rm", running)
