"""The agent's image as a kubelet runs it: by the CRI, in a pod sandbox, with the rights of the operator's pod."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.agent_pod import agent_template
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.containerd import IMAGE, Containerd, running_containerd
from infrasight_testbed.images import build, image, podman
from infrasight_testbed.pod_container import PodContainer
from infrasight_testbed.system import running_system, until

pytestmark = [
    pytest.mark.slow(reason="builds an image, for minutes"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and recording need root"),
    pytest.mark.timeout(900),  # building the image is part of it
]
NODE = "node-1"
FIELDS = {"spec.nodeName": NODE, "metadata.name": "infrasight-agent-x"}


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    """A containerd that has the agent's image."""
    print(build("agent"))
    archive = tmp_path / "agent.tar"
    podman("save", "--format", "docker-archive", "--output", str(archive), image("agent"))
    with running_containerd(shared=True) as running:
        running.load_image(archive)
        archive.unlink()
        yield running


def test_it_records_the_node_and_its_pods(containerd: Containerd, tmp_path: Path) -> None:
    """In a pod, under the runtime's default seccomp profile, it records programs of the host and of another pod, whose names it
    has from the runtime; SIGTERM, which the runtime sends first, ends it well."""
    marker, work = uuid.uuid4().hex, containerd.run_pod("work-1", namespace="shop")
    (folder := tmp_path / "volumes").mkdir()
    with running_system(tmp_path) as system:
        system.start_server()
        template = agent_template(image("agent"), system.address, containerd.socket.parents[1])
        told = {
            "INFRASIGHT_AGENT_STATUS_LISTEN": f"127.0.0.1:{free_port()}"
        }  # the network is the host's here
        config = PodContainer.of(template, "agent", folder, FIELDS, told).cri_config()
        config.log_path = "agent.log"
        agent = containerd.run_config(
            containerd.run_pod("infrasight-agent-x"), "agent", config, image("agent")
        )
        log = containerd.socket.parents[1] / "logs/agent.log"
        until(lambda: "stream open" in log.read_text(), f"the agent records and streams: {log}")
        busy = containerd.run(work, "busy", "true", f"mark-{marker}", image=IMAGE)
        host = subprocess.Popen(["/bin/true", f"mark-{marker}"])
        host.wait()
        columns = "pid, node, container_id, container.pod_name AS pod, container.pod_namespace AS namespace"
        rows = f"SELECT {columns} FROM execve_events WHERE argv[2] = 'mark-{marker}'"
        wanted = {(busy, "work-1", "shop"), ("", "", "")}
        until(
            lambda: (
                {(row["container_id"], row["pod"], row["namespace"]) for row in system.query(rows)}
                == wanted
            ),
            "the programs of the host and of the pod have rows, and the pod its names",
        )
        found = system.query(rows)
        assert {row["node"] for row in found} == {NODE}
        assert host.pid in {row["pid"] for row in found if not row["container_id"]}
        assert system.query(f"SELECT argv FROM execve_events WHERE container_id = '{agent}'") == []
        assert containerd.stop(agent, seconds=60) == 0, log.read_text()
