"""The resource definitions: what the API server accepts, rejects, defaults and merges."""

from typing import Any

import pytest
import yaml
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.operator_process import API_VERSION

HASH = f"sha256:{'0' * 64}"
SERVER = {"address": "server:7443", "plaintext": True}
MINIMAL = {"agent": {"image": "agent"}, "server": SERVER}


def apply(
    control_plane: ControlPlane,
    namespace: str,
    kind: str,
    spec: dict[str, Any],
    name: str = "",
    manager: str = "kubectl",
) -> None:
    """Applies an object server-side, as one of several field managers."""
    name = name or ("infrasight" if kind == "InfraSight" else "sample")
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    options = ("--server-side", f"--field-manager={manager}", "-n", namespace, "-f", "-")
    control_plane.kubectl("apply", *options, text=yaml.safe_dump(body))


def test_installation_gets_defaults(control_plane: ControlPlane, namespace: str) -> None:
    """Image and server suffice; the stored object shows the defaults of all other fields."""
    apply(control_plane, namespace, "InfraSight", MINIMAL)
    agent = control_plane.get("infrasight", "infrasight", namespace)["spec"]["agent"]
    assert agent["security"]["capabilities"] == ["BPF", "PERFMON"]
    assert agent["security"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert agent["hostPaths"] == {
        "cgroup": "/sys/fs/cgroup",
        "tracing": "/sys/kernel/tracing",
        "etc": "/etc",
        "run": "/run",
        "spool": "/var/lib/infrasight-agent",
    }
    assert agent["settings"]["blockMemory"] == "64Mi"
    assert agent["settings"]["spoolBytes"] == "1Gi"
    assert agent["maxUnavailable"] == "10%"


def test_policy_gets_defaults(control_plane: ControlPlane, namespace: str) -> None:
    """A probe is enabled and the priority is 0 by default."""
    apply(
        control_plane,
        namespace,
        "ProbePolicy",
        {"probes": [{"name": "execve", "options": {"anything": {"at": ["all"]}}}]},
    )
    spec = control_plane.get("probepolicy", "sample", namespace)["spec"]
    probe = {"name": "execve", "enabled": True, "options": {"anything": {"at": ["all"]}}}
    assert spec == {"priority": 0, "probes": [probe]}


@pytest.mark.parametrize(
    ("expected", "spec"),
    [
        ("its name is infrasight", MINIMAL),
        ("not both", {**MINIMAL, "server": {"address": "s:1"}}),
        (
            "not both",
            {
                **MINIMAL,
                "server": {"address": "s:1", "plaintext": True, "tls": {"secretName": "x"}},
            },
        ),
        ("spec.server.address", {**MINIMAL, "server": {"address": "https://s", "plaintext": True}}),
        ("spec.agent.image", {"agent": {}, "server": SERVER}),
        ("spec.agent.maxUnavailable", {**MINIMAL, "agent": {"image": "a", "maxUnavailable": "0%"}}),
        ("spec.agent.maxUnavailable", {**MINIMAL, "agent": {"image": "a", "maxUnavailable": 0}}),
        (
            "spec.agent.settings.blockMemory",
            {**MINIMAL, "agent": {"image": "a", "settings": {"blockMemory": "64 MB"}}},
        ),
        (
            "localhostProfile requires",
            {
                **MINIMAL,
                "agent": {"image": "a", "security": {"seccompProfile": {"type": "Localhost"}}},
            },
        ),
        (
            "spec.agent.hostPaths.tracing",
            {**MINIMAL, "agent": {"image": "a", "hostPaths": {"tracing": "sys"}}},
        ),
        ("unknown field", {**MINIMAL, "agents": {}}),
    ],
)
def test_invalid_installation_is_rejected(
    control_plane: ControlPlane, namespace: str, expected: str, spec: dict[str, Any]
) -> None:
    """The error names the field or the remedy."""
    name = "another" if expected.startswith("its name") else ""
    pattern = "agents" if "unknown" in expected else expected.replace(".", r"\.")
    with pytest.raises(ToolError, match=pattern):
        apply(control_plane, namespace, "InfraSight", spec, name)


@pytest.mark.parametrize(
    ("expected", "spec"),
    [
        (r"probes\[0\].name", {"probes": [{"name": "Exec ve"}]}),
        ("Duplicate value|duplicate entries", {"probes": [{"name": "execve"}, {"name": "execve"}]}),
        (
            r"filters.includePid\[0\]",
            {"probes": [{"name": "execve", "filters": {"includePid": [0]}}]},
        ),
        (
            r"filters.excludePath\[0\]",
            {"probes": [{"name": "open", "filters": {"excludePath": ["etc"]}}]},
        ),
        (
            r"filters.includeComm\[0\]",
            {"probes": [{"name": "open", "filters": {"includeComm": ["a-name-too-long-"]}}]},
        ),
        ("includeNothing", {"probes": [{"name": "open", "filters": {"includeNothing": [1]}}]}),
        (r"packages\[0\].version", {"packages": [{"name": "x", "version": ">=1"}]}),
        (r"packages\[0\].version", {"packages": [{"name": "x"}]}),
        (r"packages\[0\].name", {"packages": [{"name": "X_y", "version": "1"}]}),
        (
            r"packages\[0\].hashes\[0\]",
            {"packages": [{"name": "x", "version": "1", "hashes": ["md5:0"]}]},
        ),
        (
            "In and NotIn need values",
            {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        ),
        (
            "Exists and DoesNotExist take none",
            {
                "nodeSelector": {
                    "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]
                }
            },
        ),
    ],
)
def test_invalid_policy_is_rejected(
    control_plane: ControlPlane, namespace: str, expected: str, spec: dict[str, Any]
) -> None:
    """The error names the field or the remedy."""
    with pytest.raises(ToolError, match=expected):
        apply(control_plane, namespace, "ProbePolicy", spec)


def test_policy_limits_are_accepted(control_plane: ControlPlane, namespace: str) -> None:
    """The extremes are valid: every kind of version, cgroup ids over 2^63, every filter."""
    versions = ("1", "1.2.3", "2.0rc1", "1.0.post1", "1.0.dev3", "1!2.0", "1.0+local.1")
    filters = {
        "includePid": [1, 4194303],
        "includeUid": [0, 4294967295],
        "includeComm": ["fifteen-letters"],
        "includeCgroup": [1, "18446744073709551615"],
        "excludePath": ["/"],
    }
    packages = [
        {"name": f"p-{n}", "version": version, "hashes": [HASH]}
        for n, version in enumerate(versions)
    ]
    apply(
        control_plane,
        namespace,
        "ProbePolicy",
        {"probes": [{"name": "open", "filters": filters}], "packages": packages},
    )
    spec = control_plane.get("probepolicy", "sample", namespace)["spec"]
    assert spec["probes"][0]["filters"] == filters
    assert len(spec["packages"]) == len(versions)


def test_several_managers_share_one_policy(control_plane: ControlPlane, namespace: str) -> None:
    """Two field managers each own a probe; one that removes its probe leaves the other's."""
    apply(control_plane, namespace, "ProbePolicy", {"probes": [{"name": "execve"}]}, manager="one")
    apply(
        control_plane,
        namespace,
        "ProbePolicy",
        {"probes": [{"name": "open", "enabled": True}]},
        manager="two",
    )
    assert {
        p["name"] for p in control_plane.get("probepolicy", "sample", namespace)["spec"]["probes"]
    } == {"execve", "open"}
    with pytest.raises(ToolError, match="conflict"):
        apply(
            control_plane,
            namespace,
            "ProbePolicy",
            {"probes": [{"name": "open", "enabled": False}]},
            manager="three",
        )
    apply(control_plane, namespace, "ProbePolicy", {"priority": 1}, manager="one")
    assert [
        p["name"] for p in control_plane.get("probepolicy", "sample", namespace)["spec"]["probes"]
    ] == ["open"]


def test_status_is_a_subresource(control_plane: ControlPlane, namespace: str) -> None:
    """A write to the object does not change its status."""
    apply(control_plane, namespace, "ProbePolicy", {"probes": []})
    patch = '{"status":{"observedGeneration":7}}'
    control_plane.kubectl(
        "patch", "probepolicy", "sample", "-n", namespace, "--type=merge", "-p", patch
    )
    assert "status" not in control_plane.get("probepolicy", "sample", namespace)


def test_kubectl_shows_columns_and_explanations(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Short names, printer columns and `kubectl explain` work."""
    apply(control_plane, namespace, "ProbePolicy", {"probes": []})
    assert "CONFLICT" in control_plane.kubectl("get", "pp", "-n", namespace)
    apply(control_plane, namespace, "InfraSight", MINIMAL)
    assert "FAILING" in control_plane.kubectl("get", "isight", "-n", namespace)
    assert "the older policy wins" in control_plane.kubectl("explain", "probepolicy").replace(
        "\n", " "
    ).replace("    ", "")


def test_every_field_has_a_description(control_plane: ControlPlane) -> None:
    """Every property of the three resources has a description."""

    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, inner in schema.get("properties", {}).items():
            if path and "description" not in inner:
                found.append(f"{path}.{name}")
            if name != "metadata":
                found += undescribed(inner, f"{path}.{name}")
        return found + (undescribed(schema["items"], f"{path}[]") if "items" in schema else [])

    for plural in ("infrasights", "probepolicies", "nodeprobes"):
        definition = control_plane.get("crd", f"{plural}.infrasight.io")
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert undescribed(schema["properties"]["spec"], f"{plural}.spec") == []
        assert undescribed(schema["properties"]["status"], f"{plural}.status") == []
