"""Validates manifests with kubeconform, against the schemas of Kubernetes and of the CRDs."""

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

_KUBERNETES = "1.37.0"
# No schema of these kinds is available here.
_SKIPPED_KINDS = ("Certificate", "Issuer", "ServiceMonitor", "PodMonitor", "PrometheusRule")


def write_schemas(folder: Path, definitions: Path) -> None:
    """Writes the schemas.

    Args:
        folder: The target folder.
        definitions: The folder of CustomResourceDefinitions.
    """
    package = Path(kubernetes_validate.__file__).parent
    source = package / "kubernetes-json-schema" / f"v{_KUBERNETES}-local-strict"
    for file in source.glob("*.json"):
        text = file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#')
        schema = json.loads(text)
        schema.pop("$id", None)
        (folder / file.name).write_text(json.dumps(schema))
    for file in definitions.glob("*.yaml"):
        definition = yaml.safe_load(file.read_text())["spec"]
        kind = definition["names"]["kind"].lower()
        group = definition["group"].split(".")[0]
        for version in definition["versions"]:
            schema = _make_strict(version["schema"]["openAPIV3Schema"])
            (folder / f"{kind}-{group}-{version['name']}.json").write_text(json.dumps(schema))


def _make_strict(schema: Any) -> Any:
    """Makes unknown fields errors, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [_make_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _make_strict(value) for key, value in schema.items()}
    # `metadata` has no properties in a definition; the API server knows them.
    has_properties = isinstance(strict.get("properties"), dict)
    if has_properties and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("type", None)
    return strict


def find_violations(tools: Path, schemas: Path, manifests: str) -> list[str]:
    """Validates manifests; returns one line per invalid object."""
    command: list[str | Path] = [tools / "kubeconform", "-strict", "-output", "json"]
    command += ["-skip", ",".join(_SKIPPED_KINDS)]
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command += ["-schema-location", location, "-"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    resources = json.loads(done.stdout).get("resources") or []
    violations = [
        f"{resource['kind']} {resource['name']}: {resource['msg']}"
        for resource in resources
        if resource["status"] not in ("statusValid", "statusSkipped")
    ]
    assert done.returncode == 0 or violations, done.stderr
    return violations
