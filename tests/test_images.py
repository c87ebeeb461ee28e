"""The images as they are shipped, run with exactly the privileges of a pod."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.agent_pod import agent_template
from infrasight_testbed.images import (
    PODMAN,
    ROOT,
    STORE,
    TAG,
    build_images,
    image_name,
    remove_image,
)
from infrasight_testbed.pod_container import PodContainer
from infrasight_testbed.podman import IMAGE, Podman, running_podman
from infrasight_testbed.ports import free_port
from infrasight_testbed.seccomp_profile import PROFILES
from infrasight_testbed.system import System, execute, loopback_address, running_system, until

pytestmark = [
    pytest.mark.slow(reason="builds the images, for minutes"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and recording need root"),
    pytest.mark.timeout(900),  # includes building the images
]
NODE = "node-1"
FIELDS = {"spec.nodeName": NODE, "metadata.name": "infrasight-agent-x"}


@pytest.fixture(scope="module")
def images() -> Path:
    """The image store, with all images."""
    print(build_images())
    return STORE


@pytest.fixture(scope="module")
def podman(images: Path) -> Iterator[Podman]:
    """A podman with the images."""
    with running_podman(images) as running:
        yield running


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A server with an embedded store."""
    with running_system(tmp_path) as running:
        running.address = loopback_address()
        running.start_server()
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder for the volumes of a pod."""
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    return volumes


def seccomp_option(component: str) -> str:
    """The option for the chart's seccomp profile of a component."""
    return f"seccomp={PROFILES / component}.json"


def agent_container(system: System, podman: Podman, folder: Path) -> PodContainer:
    """The agent's container, which sends to this server; it has the chart's seccomp profile."""
    security = {
        "seccompProfile": {"type": "Localhost", "localhostProfile": "infrasight/agent.json"}
    }
    template = agent_template(
        image_name("agent"), system.address, podman.run_folder, security=security
    )
    # The network is the host's, where other processes may use the default port.
    overrides = {"INFRASIGHT_AGENT_STATUS_LISTEN": f"127.0.0.1:{free_port()}"}
    return PodContainer.from_template(template, "agent", folder, FIELDS, overrides)


def test_agent_image_records_host_and_containers(
    system: System, podman: Podman, folder: Path
) -> None:
    """With the operator's pod's privileges, and fewer calls, the agent records host and containers.

    Containers that started before the agent are included; events have the host's pids and ids. The
    agent does not record itself.
    """
    marker = uuid.uuid4().hex
    loop = f"while :; do /bin/true mark-{marker}; sleep 0.2; done"
    before = podman.run("--name", f"before-{marker}", command=("sh", "-c", loop))
    container = agent_container(system, podman, folder)
    options = ["--detach", "--network=host", f"--cgroup-parent=/{podman.cgroup}"]
    options += container.podman_options(folder)
    agent = podman("run", *options, image_name("agent"), *container.args)

    def is_streaming() -> bool:
        log = podman.log(agent)
        assert podman("inspect", "--format", "{{.State.Running}}", agent) == "true", log
        return "stream open" in log

    until(is_streaming, "the agent records and streams")
    after = podman.run("--name", f"after-{marker}", command=("/bin/true", f"mark-{marker}"))
    host = subprocess.Popen(["/bin/true", f"mark-{marker}"])
    host.wait()
    execute(f"mark-{marker}", 5)
    rows = (
        "SELECT pid, node, argv, exe, user, container_id, "
        "container.name AS name, container.image AS image "
        f"FROM execve_events WHERE argv[2] = 'mark-{marker}'"
    )
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
    events = system.query(rows)
    assert {row["image"] for row in events if row["container_id"]} == {IMAGE}
    assert {(row["node"], row["user"]) for row in events} == {(NODE, "root")}
    assert host.pid in {row["pid"] for row in events if not row["container_id"]}
    assert len([row for row in events if not row["container_id"]]) == 6
    own = system.query(f"SELECT argv FROM execve_events WHERE container_id = '{agent}'")
    assert own == [], "the agent recorded itself"
    podman("stop", "--time", "60", agent)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", agent) == "0", podman.log(agent)
    for name in (before, agent):
        podman("rm", "--force", "--time", "0", name)


@pytest.mark.parametrize("name", ["server", "operator"])
def test_server_and_operator_images_run_unprivileged(podman: Podman, name: str) -> None:
    """Both images run as an unprivileged user on a read-only root, and have no build tools."""
    options = ["--rm", "--network=none", "--read-only", "--cap-drop=all"]
    options.append("--security-opt=no-new-privileges")
    options.append(f"--cgroup-parent=/{podman.cgroup}")
    profile = f"--security-opt={seccomp_option(name)}"
    assert "Usage:" in podman("run", *options, profile, image_name(name), "--help")
    options.append("--entrypoint=sh")
    script = "id -u; for tool in cc gcc make pip uv; do command -v $tool; done; true"
    assert podman("run", *options, image_name(name), "-c", script) == "65532"


def test_server_image_stores_and_answers(
    system: System, podman: Podman, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stores an agent's events, answers a query and exits with status 0 on SIGTERM.

    It has the chart's seccomp profile, under which a reader also runs in its container, while a
    call that is not allowed fails there.
    """
    address = f"127.0.0.1:{free_port()}"
    data = folder / "data"
    data.mkdir()
    os.chown(data, 65532, 65532)
    options = ["--detach", "--network=host", f"--cgroup-parent=/{podman.cgroup}"]
    options += ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp"]
    options += ["--cap-drop=all", "--security-opt=no-new-privileges"]
    options.append(f"--security-opt={seccomp_option('server')}")
    options.append(f"--volume={data}:/var/lib/infrasight")
    arguments = ["--listen", address, "--plaintext"]
    arguments += ["--status-listen", f"127.0.0.1:{free_port()}"]
    server = podman("run", *options, image_name("server"), *arguments)
    system.address = address
    monkeypatch.setenv("INFRASIGHT_AGENT_SERVER_USER", "65532")
    monkeypatch.setenv("INFRASIGHT_SERVER_USER", "65532")
    agent = system.start_agent()
    marker = f"mark-{uuid.uuid4().hex}"
    execute(marker, 5)
    assert agent.stop() == 0
    assert [row["argv"][2] for row in system.rows(marker)] == [str(number) for number in range(5)]
    reader = ("infrasight", "query", "--plaintext", "--server", address, "SELECT 1 AS one")
    assert podman("exec", server, *reader) == '{"one":1}'
    script = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"
    script += "; libc.unshare(0x10000000); print(ctypes.get_errno())"
    assert podman("exec", server, "python3", "-c", script) == str(errno.ENOSYS)
    podman("stop", "--time", "60", server)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", server) == "0", podman.log(server)
    podman("rm", server)


def test_two_builds_give_the_same_image() -> None:
    """Built twice without a cache, the operator's image has the same digest."""
    outputs = []
    for _ in range(2):
        outputs.append(build_images("operator", tag=f"{TAG}-again", options=("--no-cache",)))
        remove_image(f"{image_name('operator')}-again")
    digests = {output.split()[-1] for output in outputs}
    assert len(digests) == 1, outputs
    assert digests.pop().startswith("sha256:")


def test_images_have_a_bill_of_materials(images: Path) -> None:
    """The bill lists what an image holds; every Python package is locked or of this repository."""
    command = [sys.executable, str(ROOT / "tools" / "sbom.py"), "--image", image_name("agent")]
    command += ["--podman", shlex.join(PODMAN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    file = ROOT / done.stdout.partition(":")[0]
    components = json.loads(file.read_text(encoding="utf-8"))["components"]
    urls = {component["purl"].partition("@")[0] for component in components}
    assert {"pkg:pypi/infrasight-core", "pkg:pypi/pyarrow", "pkg:deb/debian/libc6"} <= urls
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    python = {url.partition("pkg:pypi/")[2] for url in urls if url.startswith("pkg:pypi/")}
    assert {name for name in python - locked if not name.startswith("infrasight-")} == set()
