"""A Helm release of the chart on the test control plane."""

import json
from pathlib import Path
from typing import Any

from infrasight_testbed.chart import CHART, Values
from infrasight_testbed.control_plane import ControlPlane

_TIMEOUT = "90s"
_NAMESPACED_KINDS = (
    "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,"
    "pvc,pdb,isight,pp,nprobes"
)


class Release:
    """The release `infrasight` in one namespace.

    Attributes:
        namespace: The namespace.

    Args:
        control_plane: The cluster.
        namespace: An existing namespace.
        folder: The folder for values files.
    """

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self._control_plane = control_plane
        self.namespace = namespace
        self._folder = folder

    def install(self, values: Values, *options: str) -> str:
        """Installs or upgrades the release; returns helm's output with the chart's notes.

        Raises:
            ToolError: helm failed, or the release is not ready in time.
        """
        file = self._folder / "values.json"
        file.write_text(json.dumps(values))
        arguments = ("upgrade", "--install", "infrasight", str(CHART), "--values", str(file))
        return self._helm(*arguments, *(options or ("--wait",)))

    def run(self, *arguments: str) -> str:
        """Runs `helm <first argument> infrasight …`; returns its output.

        Raises:
            ToolError: helm failed.
        """
        return self._helm(arguments[0], "infrasight", *arguments[1:])

    def _helm(self, *arguments: str) -> str:
        options = ("--namespace", self.namespace, "--timeout", _TIMEOUT)
        return self._control_plane.helm(*arguments, *options)

    def secrets(self) -> dict[str, dict[str, str]]:
        """The data of the chart's Secrets by name, without Helm's own Secrets."""
        secrets = self._control_plane.objects("secrets", self.namespace)
        return {
            secret["metadata"]["name"]: secret["data"]
            for secret in secrets
            if secret["type"] != "helm.sh/release.v1"
        }

    def objects(self) -> set[tuple[str, str]]:
        """Kind and name of all objects in the namespace, without those of every namespace."""
        objects: list[dict[str, Any]] = self._control_plane.objects(
            _NAMESPACED_KINDS, self.namespace
        )
        in_every_namespace = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
        return {(item["kind"], item["metadata"]["name"]) for item in objects} - in_every_namespace
