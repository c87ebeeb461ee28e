"""The chart, installed with helm in a separate cluster, with local processes as its pods."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed.chart import CHART
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.kubelet import Kubelet
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, WAIT_SECONDS, until

NAMESPACE = "infrasight"


class InstalledChart:
    """An installation of the chart.

    Attributes:
        kubelet: Runs the pods.

    Args:
        control_plane: The cluster.
        folder: The folder for files.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._control_plane = control_plane
        self._folder = folder
        self._server = f"127.0.0.1:{free_port()}"
        self._operator = f"127.0.0.1:{free_port()}"
        self.kubelet = Kubelet(control_plane, NAMESPACE, folder / "pods", self._local_variables)
        self._certificate = folder / "client"

    def _local_variables(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Variables with local addresses, which replace those of the cluster."""
        status = f"127.0.0.1:{free_port()}"
        return {
            "INFRASIGHT_SERVER_LISTEN": self._server,
            "INFRASIGHT_SERVER_STATUS_LISTEN": status,
            "INFRASIGHT_OPERATOR_LISTEN": self._operator,
            "INFRASIGHT_OPERATOR_STATUS_LISTEN": status,
            "INFRASIGHT_AGENT_SERVER": self._server,
            "INFRASIGHT_AGENT_OPERATOR": self._operator,
            "INFRASIGHT_AGENT_STATUS_LISTEN": status,
            "INFRASIGHT_AGENT_OPTIONS__CONTAINERS__HOST": "/",
        }

    def install(self, values: Mapping[str, Any]) -> None:
        """Installs the chart and stores the client certificate."""
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        options = ("-n", NAMESPACE, "--create-namespace", "-f", str(file))
        self._control_plane.helm("install", "infrasight", str(CHART), *options)
        self._certificate.mkdir()
        for name, text in self.get("secret", "infrasight-client-tls")["data"].items():
            (self._certificate / name).touch(mode=0o600)
            (self._certificate / name).write_bytes(base64.b64decode(text))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Reads an object of the installation."""
        return self._control_plane.get(kind, name, NAMESPACE)

    def until(self, done: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits until `done` returns true, and meanwhile starts and stops pods."""

        def sync_and_check() -> bool:
            self.kubelet.sync()
            return done()

        until(sync_and_check, what, seconds)

    def run_command(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """Runs `infrasight NAME` with the client certificate; returns its JSON lines."""
        command: list[str | Path] = [BIN / "infrasight", name, "--server", self._server]
        command.append(f"--tls-certificate={self._certificate / 'tls.crt'}")
        command.append(f"--tls-key={self._certificate / 'tls.key'}")
        command.append(f"--tls-ca={self._certificate / 'ca.crt'}")
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def installed_chart(control_plane: ControlPlane, folder: Path) -> Iterator[InstalledChart]:
    """An installation whose processes are stopped at the end."""
    chart = InstalledChart(control_plane, folder)
    try:
        yield chart
    finally:
        chart.kubelet.stop()
