"""The DaemonSet that the operator builds from an installation."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from infrasight_operator.errors import ObjectError
from infrasight_operator.manifests.daemonset import DIGEST_ANNOTATION, daemon_set
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.quantities import parse_bytes, resolve_max_unavailable

GOLDEN = Path(__file__).with_name("agent_daemonset.yaml")
FULL: dict[str, Any] = {
    "agent": {
        "image": "registry.example/infrasight/agent:1.0",
        "imagePullSecrets": [{"name": "pull"}],
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "768Mi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "system-node-critical",
        "podAnnotations": {"example.com/team": "a"},
        "settings": {"blockMemory": "32Mi", "stopSeconds": 10, "logLevel": "debug"},
        "options": {"reverse_dns": {"server": "10.0.0.10"}},
    },
    "server": {
        "address": "infrasight-server.infrasight.svc:7443",
        "tls": {"secretName": "infrasight-agent-tls"},
    },
    "packageIndex": {
        "secretName": "index-login",
        "caConfigMap": "index-ca",
        "allowUnhashedPackages": True,
    },
}
MINIMAL: dict[str, Any] = {
    "agent": {"image": "agent"},
    "server": {"address": "server:7443", "plaintext": True},
}


def build(spec: dict[str, Any]) -> dict[str, Any]:
    """The manifest for a spec."""
    metadata = {
        "name": "infrasight",
        "namespace": "infrasight",
        "uid": "11111111-2222-3333-4444-555555555555",
        "generation": 1,
    }
    installation = Installation.from_object({"metadata": metadata, "spec": spec})
    return daemon_set(installation, "infrasight-operator.infrasight.svc:7446")


def build_with(**agent: Any) -> dict[str, Any]:
    """The manifest for the minimal spec with these fields of the agents."""
    return build({**MINIMAL, "agent": {**MINIMAL["agent"], **agent}})


def digest(manifest: dict[str, Any]) -> str:
    """The digest in a manifest's annotation."""
    return str(manifest["metadata"]["annotations"][DIGEST_ANNOTATION])


def test_manifest_equals_reviewed_manifest() -> None:
    """The manifest equals `agent_daemonset.yaml`, so every change of it is deliberate."""
    manifest = build(FULL)
    assert manifest == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("spec", [FULL, MINIMAL])
def test_pod_has_least_privileges(spec: dict[str, Any]) -> None:
    """Every pod has no token, no privilege, no writable root and no host namespace.

    The host's directories are read-only, except for the agent's own with its spool.
    """
    pod = build(spec)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod.keys()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    host = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
    for container in (*pod["containers"], *pod["initContainers"]):
        rights = container["securityContext"]
        assert rights["privileged"] is rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"]["drop"] == ["ALL"]
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] in host]
        writable = {mount["name"] for mount in mounts if not mount.get("readOnly")}
        assert writable <= {"spool"}
    assert pod["containers"][0]["securityContext"]["capabilities"]["add"] == ["BPF", "PERFMON"]
    assert "add" not in pod["initContainers"][0]["securityContext"]["capabilities"]
    assert not host & {mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]}


def test_digest_changes_with_the_pod_template() -> None:
    """Each change of the pods changes the digest; the same installation has the same digest."""
    digests = [
        digest(build(MINIMAL)),
        digest(build_with(image="b")),
        digest(build_with(options={"users": {"etc": "/x"}})),
        digest(build_with(podLabels={"a": "b"})),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(build(MINIMAL)) == digests[0]


def test_host_paths_can_be_disabled() -> None:
    """Without /etc user names are not resolved; without /run no runtime socket is mounted.

    Without a folder for the spool, events wait in memory alone.
    """
    paths = {"etc": "", "run": "", "spool": ""}
    pod = build_with(hostPaths=paths)["spec"]["template"]["spec"]
    variables = {
        variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]
    }
    assert variables["INFRASIGHT_AGENT_DISABLE"] == "users"
    assert not any(name.startswith("INFRASIGHT_AGENT_OPTIONS") for name in variables)
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert not {"/host/etc", "/host/run", "/var/lib/infrasight-agent"} & mounts
    assert variables["INFRASIGHT_AGENT_SPOOL__FOLDER"] == "none"


def test_installation_overrides_enricher_options() -> None:
    """An option that the installation sets is not overridden by the operator's default."""
    pod = build_with(options={"users": {"etc": "/elsewhere"}})["spec"]["template"]["spec"]
    names = {variable["name"] for variable in pod["containers"][0]["env"]}
    assert "INFRASIGHT_AGENT_OPTIONS__USERS__ETC" not in names
    assert {"INFRASIGHT_AGENT_OPTIONS__CONTAINERS__HOST", "INFRASIGHT_AGENT_CONFIG"} < names


def test_object_of_older_schema_is_rejected() -> None:
    """An object that does not match the schema is rejected with the name of the field."""
    with pytest.raises(ObjectError, match=r"InfraSight infrasight: .*stop_seconds"):
        build_with(settings={"stopSeconds": "soon"})


@pytest.mark.parametrize(
    ("max_unavailable", "nodes", "expected"),
    [("10%", 3, 1), ("10%", 11, 2), ("50%", 4, 2), (3, 100, 3), ("1%", 0, 1), ("100%", 7, 7)],
)
def test_max_unavailable_rounds_up(max_unavailable: int | str, nodes: int, expected: int) -> None:
    """A percentage of the nodes is rounded up and is at least one."""
    assert resolve_max_unavailable(max_unavailable, nodes) == expected


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("64Mi", 64 << 20), ("1Gi", 1 << 30), ("4096", 4096), (8192, 8192), ("8Ki", 8192)],
)
def test_memory_sizes_are_converted_to_bytes(quantity: int | str, expected: int) -> None:
    """Memory sizes in Kubernetes notation are converted to bytes for the agent."""
    assert parse_bytes(quantity) == expected
