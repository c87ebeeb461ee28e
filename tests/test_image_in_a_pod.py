"""The agent's image in a pod of the CRI, with the privileges of the operator's pod."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.agent_pod import agent_template
from infrasight_testbed.containerd import IMAGE, Containerd, running_containerd
from infrasight_testbed.images import build_images, image_name, podman
from infrasight_testbed.pod_container import PodContainer
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import loopback_address, running_system, until

pytestmark = [
    pytest.mark.slow(reason="builds an image, for minutes"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and recording need root"),
    pytest.mark.timeout(900),  # includes building the image
]
START_SECONDS = 400.0  # the agent compiles every probe, beside other tests
NODE = "node-1"
FIELDS = {"spec.nodeName": NODE, "metadata.name": "infrasight-agent-x"}


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    """A containerd with the agent's image."""
    print(build_images("agent"))
    archive = tmp_path / "agent.tar"
    podman("save", "--format", "docker-archive", "--output", str(archive), image_name("agent"))
    with running_containerd(shared=True) as running:
        running.load_image(archive)
        archive.unlink()
        yield running


def test_agent_in_a_pod_records_node_and_pods(containerd: Containerd, tmp_path: Path) -> None:
    """Under the default seccomp profile the agent records the host and another pod with its names.

    SIGTERM, which the runtime sends first, ends the agent with status 0.
    """
    marker = uuid.uuid4().hex
    pod = containerd.run_pod("work-1", namespace="shop")
    folder = tmp_path / "volumes"
    folder.mkdir()
    with running_system(tmp_path) as system:
        system.address = loopback_address()
        system.start_server()
        template = agent_template(image_name("agent"), system.address, containerd.socket.parents[1])
        # The network is the host's, where other processes may use the default port.
        overrides = {"INFRASIGHT_AGENT_STATUS_LISTEN": f"127.0.0.1:{free_port()}"}
        container = PodContainer.from_template(template, "agent", folder, FIELDS, overrides)
        config = container.cri_config()
        config.log_path = "agent.log"
        agent_pod = containerd.run_pod("infrasight-agent-x")
        agent = containerd.run_config(agent_pod, "agent", config, image_name("agent"))
        log = containerd.socket.parents[1] / "logs/agent.log"
        until(
            lambda: "stream open" in log.read_text(),
            f"the agent records and streams: {log}",
            START_SECONDS,
        )
        busy = containerd.run(pod, "busy", "true", f"mark-{marker}", image=IMAGE)
        host = subprocess.Popen(["/bin/true", f"mark-{marker}"])
        host.wait()
        rows = (
            "SELECT pid, node, container_id, "
            "container.pod_name AS pod, container.pod_namespace AS namespace "
            f"FROM execve_events WHERE argv[2] = 'mark-{marker}'"
        )
        expected = {(busy, "work-1", "shop"), ("", "", "")}
        until(
            lambda: (
                {(row["container_id"], row["pod"], row["namespace"]) for row in system.query(rows)}
                == expected
            ),
            "the rows of host and pod exist, with the names of the pod",
        )
        events = system.query(rows)
        assert {row["node"] for row in events} == {NODE}
        assert host.pid in {row["pid"] for row in events if not row["container_id"]}
        assert system.query(f"SELECT argv FROM execve_events WHERE container_id = '{agent}'") == []
        assert containerd.stop(agent, seconds=60) == 0, log.read_text()
