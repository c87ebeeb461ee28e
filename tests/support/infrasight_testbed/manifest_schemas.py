"""Schemas that kubeconform judges manifests by: Kubernetes' own, and those of the chart's resource definitions."""

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

_KUBERNETES = "1.37.0"
_OTHERS = (
    "Certificate",
    "Issuer",
    "ServiceMonitor",
    "PodMonitor",
    "PrometheusRule",
)  # of whose kinds no schema is at hand


def write_schemas(folder: Path, definitions: Path) -> None:
    """Fills a folder with the schemas.

    Args:
        folder: Where they go.
        definitions: The folder of CustomResourceDefinitions.
    """
    source = (
        Path(kubernetes_validate.__file__).parent
        / "kubernetes-json-schema"
        / f"v{_KUBERNETES}-local-strict"
    )
    for file in source.glob("*.json"):
        schema = json.loads(
            file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#')
        )
        schema.pop("$id", None)
        (folder / file.name).write_text(json.dumps(schema))
    for file in definitions.glob("*.yaml"):
        definition = yaml.safe_load(file.read_text())["spec"]
        group = definition["group"].split(".")[0]
        for version in definition["versions"]:
            name = f"{definition['names']['kind'].lower()}-{group}-{version['name']}.json"
            (folder / name).write_text(json.dumps(_strict(version["schema"]["openAPIV3Schema"])))


def _strict(schema: Any) -> Any:
    """The same, but an unknown field is an error, as it is to the API server with strict validation."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    # `metadata` has no properties here; the API server knows them.
    if isinstance(made.get("properties"), dict) and not made.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
    return made


def judge(tools: Path, schemas: Path, manifests: str) -> list[str]:
    """What is wrong with manifests; empty when nothing is."""
    command: list[str | Path] = [
        tools / "kubeconform",
        "-strict",
        "-output",
        "json",
        "-skip",
        ",".join(_OTHERS),
    ]
    command += [
        "-schema-location",
        f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json",
        "-",
    ]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout).get("resources") or []
    wrong = [
        f"{r['kind']} {r['name']}: {r['msg']}"
        for r in found
        if r["status"] not in ("statusValid", "statusSkipped")
    ]
    assert done.returncode == 0 or wrong, done.stderr
    return wrong
