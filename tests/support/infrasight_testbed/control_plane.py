"""A real Kubernetes control plane on the loopback; kwok plays the nodes, so no container runs."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed import kubeconfig
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_plane_parts import Part, Parts
from infrasight_testbed.system import until


class ToolError(Exception):
    """kubectl or helm said no; the text is what it said."""


class ControlPlane:
    """etcd, API server with RBAC, controllers, scheduler and kwok.

    Attributes:
        url: Of the API server.
        admin: The kubeconfig of who may do everything.
        ca: The certificate that the API server's comes from.

    Args:
        tools: The folder of the programs.
        folder: For data, logs and credentials; whoever made it removes it.
    """

    def __init__(self, tools: Path, folder: Path) -> None:
        self._tools = tools
        self._folder = folder
        authority = CertificateAuthority(folder / "pki", "infrasight tests")
        self._parts = Parts(tools, folder, authority)
        self.url = self._parts.url
        self.ca = folder / "pki" / "ca.pem"
        self.admin = self._parts.admin

    def start(self, crds: Sequence[Path] = ()) -> None:
        """Starts everything; returns when the controllers work.

        Args:
            crds: Files or folders of definitions, applied before the controllers start: their garbage collector looks for
                new kinds only every half minute.
        """
        self._parts.start(Part.ETCD)
        self.start_api_server()
        for definition in crds:
            self.kubectl("apply", "--server-side", "-f", str(definition))
        if crds:
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        for part in (Part.CONTROLLERS, Part.SCHEDULER, Part.KWOK):
            self._parts.start(part)
        until(
            lambda: self._works("get", "serviceaccount", "default"),
            f"controllers work\n{self.logs()}",
            60,
        )

    def start_api_server(self) -> None:
        """Starts the API server and waits until it is ready."""
        self._parts.start(Part.API_SERVER)
        until(
            lambda: self._works("get", "--raw", "/readyz"),
            f"the API server is ready\n{self.logs()}",
            60,
        )

    def kill_api_server(self) -> None:
        """SIGKILL; what it had stored stays, its clients find nobody."""
        self._parts.kill(Part.API_SERVER)

    def stop(self) -> None:
        """Kills all of it, clients first: an API server whose etcd is gone may hang for ever."""
        self._parts.stop()

    def logs(self) -> str:
        """The last words of each part."""
        return self._parts.logs()

    def _works(self, *arguments: str) -> bool:
        self._parts.fail_if_ended()
        command: list[str | Path] = [
            self._tools / "kubectl",
            f"--kubeconfig={self.admin}",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def kubectl(self, *arguments: str, text: str | None = None, config: Path | None = None) -> str:
        """What kubectl says; as the administrator, or with another's kubeconfig.

        Args:
            arguments: Of the command; each test names its namespace (`-n`).
            text: For its standard input (`-f -`).
            config: The other kubeconfig.

        Raises:
            ToolError: It was refused.
        """
        return self._tool("kubectl", arguments, text, config or self.admin)

    def helm(self, *arguments: str, config: Path | None = None) -> str:
        """What helm says; as the administrator, or with another's kubeconfig.

        Raises:
            ToolError: It failed.
        """
        return self._tool("helm", arguments, None, config or self.admin)

    def _tool(self, name: str, arguments: Sequence[str], text: str | None, config: Path) -> str:
        home = {
            f"HELM_{kind}_HOME": str(self._folder / "helm" / kind.lower())
            for kind in ("CACHE", "CONFIG", "DATA")
        }
        command: list[str | Path] = [self._tools / name, f"--kubeconfig={config}", *arguments]
        env = {**os.environ, **home}
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=env, timeout=120, check=False
        )
        if done.returncode != 0:
            raise ToolError(f"{name} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as it stands.

        Raises:
            ToolError: There is none.
        """
        found: dict[str, Any] = json.loads(
            self.kubectl("get", kind, name, "-n", namespace, "-o", "json")
        )
        return found

    def objects(self, kind: str, namespace: str = "default", *options: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", kind, "-n", namespace, "-o", "json", *options)
        )["items"]
        return found

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        """Makes the objects be so.

        Raises:
            ToolError: One was refused.
        """
        self.kubectl("apply", "-n", namespace, "-f", "-", text=yaml.safe_dump_all(objects))

    def add_node(self, name: str, **labels: str) -> None:
        """Adds a node and waits until it is Ready."""
        own = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
        metadata = {
            "name": name,
            "labels": own | labels,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        }
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=60s")

    def remove_node(self, name: str) -> None:
        """Removes a node and, as nobody else would at once, the pods on it."""
        self.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")

    def account(self, name: str, namespace: str) -> Path:
        """A kubeconfig with a new token of a ServiceAccount, as its pods would have it."""
        token = self.kubectl("create", "token", name, "-n", namespace, "--duration=24h").strip()
        return kubeconfig.with_token(
            self._folder / f"{namespace}-{name}.kubeconfig", self.url, self.ca, token, namespace
        )


@contextmanager
def running_control_plane(tools: Path, crds: Sequence[Path] = ()) -> Iterator[ControlPlane]:
    """A control plane that leaves neither process nor file."""
    with tempfile.TemporaryDirectory(prefix="infrasight-cluster-") as folder:
        control_plane = ControlPlane(tools, Path(folder))
        try:
            control_plane.start(crds)
            yield control_plane
        finally:
            control_plane.stop()
