"""A release of the chart on the testbed's control plane."""

import json
from pathlib import Path
from typing import Any

from infrasight_testbed.chart import CHART, Values
from infrasight_testbed.control_plane import ControlPlane

_SECONDS = "90s"


class Release:
    """The release `infrasight` in one namespace.

    Args:
        control_plane: Where.
        namespace: In which namespace, which exists.
        folder: For files of values.
    """

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self._control_plane = control_plane
        self.namespace = namespace
        self._folder = folder

    def install(self, values: Values, *options: str) -> str:
        """Installs it, or makes it be so; what helm says, with the chart's notes.

        Raises:
            ToolError: It was refused, or is not ready in time.
        """
        file = self._folder / "values.json"
        file.write_text(json.dumps(values))
        return self._helm(
            "upgrade",
            "--install",
            "infrasight",
            str(CHART),
            "--values",
            str(file),
            *(options or ("--wait",)),
        )

    def run(self, *arguments: str) -> str:
        """`helm <first argument> infrasight …`, what it says.

        Raises:
            ToolError: It failed.
        """
        return self._helm(arguments[0], "infrasight", *arguments[1:])

    def _helm(self, *arguments: str) -> str:
        return self._control_plane.helm(
            *arguments, "--namespace", self.namespace, "--timeout", _SECONDS
        )

    def secrets(self) -> dict[str, dict[str, str]]:
        """The chart's secrets by name, without Helm's own."""
        found = self._control_plane.objects("secrets", self.namespace)
        return {
            s["metadata"]["name"]: s["data"] for s in found if s["type"] != "helm.sh/release.v1"
        }

    def remains(self) -> set[tuple[str, str]]:
        """Everything in the namespace that is not there in every namespace, by kind and name."""
        kinds = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,pvc,pdb,isight,pp,nprobes"
        found: list[dict[str, Any]] = self._control_plane.objects(kinds, self.namespace)
        everywhere = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
        return {(item["kind"], item["metadata"]["name"]) for item in found} - everywhere
