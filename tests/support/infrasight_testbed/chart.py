"""The Helm chart: what it renders, without a cluster."""

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
    """helm refused; the text is what it said."""


def template(
    tools: Path, values: Values | None = None, release: str = "infrasight", namespace: str = "watch"
) -> str:
    """What `helm template` prints for these values.

    Raises:
        ChartError: The values, or what comes of them, are refused.
    """
    command: list[str | Path] = [
        tools / "helm",
        "template",
        release,
        CHART,
        "--namespace",
        namespace,
        "--values",
        "-",
    ]
    done = subprocess.run(
        command, input=json.dumps(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ChartError(done.stderr)
    return done.stdout


def render(
    tools: Path, values: Values | None = None, release: str = "infrasight", namespace: str = "watch"
) -> list[Manifest]:
    """The objects that it makes for these values.

    Raises:
        ChartError: The values, or what comes of them, are refused.
    """
    return [
        manifest
        for manifest in yaml.safe_load_all(template(tools, values, release, namespace))
        if manifest
    ]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of that kind and name."""
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The spec of every pod that the objects bring about, with the object's name."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield (
                f"{manifest['kind']} {manifest['metadata']['name']}",
                manifest["spec"]["template"]["spec"],
            )


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a container whose values stand in the manifest."""
    return {
        variable["name"]: variable["value"]
        for variable in container.get("env", [])
        if "value" in variable
    }


def secret_files(secret: Mapping[str, Any], folder: Path) -> Path:
    """A secret's values as files, as they are mounted; the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
    return folder
