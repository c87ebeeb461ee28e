"""The resources' definitions: what the API server lets in, completes and refuses, and how it merges what several apply."""

from typing import Any

import pytest
import yaml
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.operator_process import API_VERSION

HASH = f"sha256:{'0' * 64}"
SERVER = {"address": "server:7443", "plaintext": True}
LEAST = {"agent": {"image": "agent"}, "server": SERVER}


def apply(
    control_plane: ControlPlane,
    namespace: str,
    kind: str,
    spec: dict[str, Any],
    name: str = "",
    manager: str = "kubectl",
) -> None:
    """Server-side apply, as one of several who write."""
    name = name or ("infrasight" if kind == "InfraSight" else "sample")
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    options = ("--server-side", f"--field-manager={manager}", "-n", namespace, "-f", "-")
    control_plane.kubectl("apply", *options, text=yaml.safe_dump(body))


def test_an_installation_is_completed(control_plane: ControlPlane, namespace: str) -> None:
    """Image and server suffice; the rest stands in the object, so that people see what holds."""
    apply(control_plane, namespace, "InfraSight", LEAST)
    agent = control_plane.get("infrasight", "infrasight", namespace)["spec"]["agent"]
    assert agent["security"]["capabilities"] == ["BPF", "PERFMON"]
    assert agent["security"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert agent["hostPaths"] == {
        "cgroup": "/sys/fs/cgroup",
        "tracing": "/sys/kernel/tracing",
        "etc": "/etc",
        "run": "/run",
    }
    assert agent["settings"]["blockMemory"] == "64Mi"
    assert agent["maxUnavailable"] == "10%"


def test_a_policy_is_completed(control_plane: ControlPlane, namespace: str) -> None:
    """A probe that is named is enabled; the priority is 0."""
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
    ("words", "spec"),
    [
        ("its name is infrasight", LEAST),
        ("not both", {**LEAST, "server": {"address": "s:1"}}),
        (
            "not both",
            {**LEAST, "server": {"address": "s:1", "plaintext": True, "tls": {"secretName": "x"}}},
        ),
        ("spec.server.address", {**LEAST, "server": {"address": "https://s", "plaintext": True}}),
        ("spec.agent.image", {"agent": {}, "server": SERVER}),
        ("spec.agent.maxUnavailable", {**LEAST, "agent": {"image": "a", "maxUnavailable": "0%"}}),
        ("spec.agent.maxUnavailable", {**LEAST, "agent": {"image": "a", "maxUnavailable": 0}}),
        (
            "spec.agent.settings.blockMemory",
            {**LEAST, "agent": {"image": "a", "settings": {"blockMemory": "64 MB"}}},
        ),
        (
            "localhostProfile goes with",
            {
                **LEAST,
                "agent": {"image": "a", "security": {"seccompProfile": {"type": "Localhost"}}},
            },
        ),
        (
            "spec.agent.hostPaths.tracing",
            {**LEAST, "agent": {"image": "a", "hostPaths": {"tracing": "sys"}}},
        ),
        ("unknown field", {**LEAST, "agents": {}}),
    ],
)
def test_installations_that_are_refused(
    control_plane: ControlPlane, namespace: str, words: str, spec: dict[str, Any]
) -> None:
    """Each with words that name the field, or what to do."""
    name = "another" if words.startswith("its name") else ""
    with pytest.raises(
        ToolError, match=words.replace(".", r"\.") if "unknown" not in words else "agents"
    ):
        apply(control_plane, namespace, "InfraSight", spec, name)


@pytest.mark.parametrize(
    ("words", "spec"),
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
def test_policies_that_are_refused(
    control_plane: ControlPlane, namespace: str, words: str, spec: dict[str, Any]
) -> None:
    """Each with words that name the field, or what to do."""
    with pytest.raises(ToolError, match=words):
        apply(control_plane, namespace, "ProbePolicy", spec)


def test_what_policies_may_say(control_plane: ControlPlane, namespace: str) -> None:
    """The ends of what is allowed: versions of every kind, cgroups over 2^63, every filter."""
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


def test_several_may_write_one_policy(control_plane: ControlPlane, namespace: str) -> None:
    """Two managers each apply a probe of their own; both stand there, and what one takes back leaves the other's."""
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


def test_a_status_does_not_change_with_the_spec(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Who may write specs only cannot write statuses: these are a subresource."""
    apply(control_plane, namespace, "ProbePolicy", {"probes": []})
    patch = '{"status":{"observedGeneration":7}}'
    control_plane.kubectl(
        "patch", "probepolicy", "sample", "-n", namespace, "--type=merge", "-p", patch
    )
    assert "status" not in control_plane.get("probepolicy", "sample", namespace)


def test_people_find_their_way(control_plane: ControlPlane, namespace: str) -> None:
    """Short names work, columns show what counts, and every field of a policy is explained."""
    apply(control_plane, namespace, "ProbePolicy", {"probes": []})
    assert "CONFLICT" in control_plane.kubectl("get", "pp", "-n", namespace)
    apply(control_plane, namespace, "InfraSight", LEAST)
    assert "FAILING" in control_plane.kubectl("get", "isight", "-n", namespace)
    assert "the older policy holds" in control_plane.kubectl("explain", "probepolicy").replace(
        "\n", " "
    ).replace("    ", "")


def test_every_field_is_described(control_plane: ControlPlane) -> None:
    """No property of the three resources lacks a description."""

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
