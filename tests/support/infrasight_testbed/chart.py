"""Renders the Helm chart without a cluster."""

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[3] / "helm" / "infrasight"
Values = Mapping[str, Any]
Manifest = dict[str, Any]


class ChartError(Exception):
    """helm rejected the values; the text is its error message."""


def template(
    tools: Path, values: Values | None = None, release: str = "infrasight", namespace: str = "watch"
) -> str:
    """The output of `helm template` for these values.

    Raises:
        ChartError: helm rejected the values.
    """
    command: list[str | Path] = [tools / "helm", "template", release, CHART]
    command += ["--namespace", namespace, "--values", "-"]
    done = subprocess.run(
        command, input=json.dumps(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ChartError(done.stderr)
    return done.stdout


def render(
    tools: Path, values: Values | None = None, release: str = "infrasight", namespace: str = "watch"
) -> list[Manifest]:
    """The rendered objects for these values.

    Raises:
        ChartError: helm rejected the values.
    """
    manifests = yaml.safe_load_all(template(tools, values, release, namespace))
    return [manifest for manifest in manifests if manifest]


def find_manifest(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The only object with this kind and name."""
    (manifest,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return manifest


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The spec of each pod that the objects create, with kind and name of its object."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            yield name, manifest["spec"]["template"]["spec"]


def literal_environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a container that have a literal value."""
    variables = container.get("env", [])
    return {entry["name"]: entry["value"] for entry in variables if "value" in entry}


def write_secret_files(secret: Mapping[str, Any], folder: Path) -> Path:
    """Writes a Secret's values into files, as a volume has them; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
    return folder
