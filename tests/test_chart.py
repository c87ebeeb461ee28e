"""The Helm chart without a cluster: valid objects, least privileges, rejected mistakes."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from attrs import fields
from infrasight_core.net.tls import ListenerTls
from infrasight_server.settings import ServerSettings
from infrasight_testbed import chart_values as values
from infrasight_testbed.chart import (
    CHART,
    ChartError,
    Manifest,
    find_manifest,
    literal_environment,
    pod_specs,
    render,
    template,
)
from infrasight_testbed.manifest_schemas import find_violations, write_schemas

for_all_values = pytest.mark.parametrize("name", values.ALL)


@pytest.fixture(scope="module")
def rendered(cluster_tools: Path) -> dict[str, list[Manifest]]:
    """The rendered objects for each set of values."""
    return {name: render(cluster_tools, value) for name, value in values.ALL.items()}


def test_helm_lint_passes(cluster_tools: Path) -> None:
    """`helm lint --strict` reports nothing."""
    done = subprocess.run(
        [cluster_tools / "helm", "lint", "--strict", CHART],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rendered_objects_match_their_schemas(cluster_tools: Path, tmp_path: Path) -> None:
    """With all values every object matches its schema, and a misspelled field would be found."""
    write_schemas(tmp_path, CHART / "crds")
    manifests = "\n---\n".join(
        template(cluster_tools, value, release=f"r-{name.replace('_', '-')}")
        for name, value in values.ALL.items()
    )
    assert find_violations(cluster_tools, tmp_path, manifests) == []
    misspelled = template(cluster_tools).replace("replicas: 2", "replica: 2")
    assert find_violations(cluster_tools, tmp_path, misspelled) != []


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"server": {"replica": 3}}, "/server.*'replica' not allowed"),
        ({"server": {"replicas": "two"}}, "/server/replicas.*want integer"),
        ({"agent": {"privileged": True}}, "/agent.*'privileged' not allowed"),
        (
            {"agent": {"settings": {"blockmemory": "1Mi"}}},
            "/agent/settings.*'blockmemory' not allowed",
        ),
        ({"server": {"image": {"digest": "latest"}}}, "/server/image/digest"),
        ({"store": {"type": "sqlite"}}, "/store/type.*'clickhouse', 'external', 'embedded'"),
        ({"store": {"type": "external"}}, "/store/external/url"),
        (
            values.merged(values.EXTERNAL, {"store": {"external": {"url": "http://u:secret@h/"}}}),
            "/store/external/url",
        ),
        ({"certificates": {"mode": "existing"}}, "/certificates/existing/agent"),
        ({"certificates": {"crl": {"configMap": "a", "secret": "b"}}}, "/certificates/crl"),
        (
            values.merged(values.REVOCATION, values.PLAINTEXT),
            "certificates.crl: certificates.mode is plaintext",
        ),
        ({"server": {"settings": {"querySlots": 0}}}, "/server/settings/querySlots"),
        ({"server": {"settings": {"diskLimit": 85}}}, "/server/settings/diskLimit"),
        (
            {"server": {"settings": {"probeTtlDays": {"open": 0}}}},
            "/server/settings/probeTtlDays/open",
        ),
        (
            {"server": {"security": {"seccompProfile": {"type": "Localhost"}}}},
            "/server/security/seccompProfile.*localhostProfile",
        ),
        (
            {"probePolicies": {"mine": {"probes": [{"nam": "open"}]}}},
            "/probePolicies/mine/probes/0.*'nam' not allowed",
        ),
        ({"probePolicies": {"Mine": {}}}, "'Mine' does not match"),
        ({"server": {"settings": {"maxBatchBytes": 1 << 30}}}, "/server/settings/maxBatchBytes"),
        (
            values.merged(values.EMBEDDED, values.AUTOSCALING),
            "server.autoscaling.enabled: only one server can use the embedded store",
        ),
    ],
    ids=str,
)
def test_invalid_values_are_rejected_by_name(
    cluster_tools: Path, invalid: dict[str, Any], message: str
) -> None:
    """A value that is misspelled, of the wrong type or inconsistent is rejected by its name."""
    with pytest.raises(ChartError, match=message):
        render(cluster_tools, invalid)


def expected_profile(name: str, owner: str) -> dict[str, str]:
    """The seccomp profile that a set of values gives the pods of an object."""
    component = values.ALL[name].get(owner.rpartition("-")[2], {})
    default = {"type": "RuntimeDefault"}
    profile: dict[str, str] = component.get("security", {}).get("seccompProfile", default)
    return profile


@for_all_values
def test_containers_have_least_privileges(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Every container meets `restricted` with a read-only root; only the operator has a token."""
    for owner, pod in pod_specs(rendered[name]):
        assert pod["automountServiceAccountToken"] is owner.endswith("-operator"), owner
        assert pod["enableServiceLinks"] is False, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), owner
        assert pod["securityContext"]["runAsNonRoot"], owner
        assert pod["securityContext"]["runAsUser"] > 0, owner
        allowed = {"name", "emptyDir", "secret", "configMap", "persistentVolumeClaim"}
        assert all(volume.keys() <= allowed for volume in pod["volumes"]), owner
        for container in pod["containers"] + pod.get("initContainers", []):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"], owner
            assert rights["runAsNonRoot"], owner
            assert rights["allowPrivilegeEscalation"] is False, owner
            assert rights["capabilities"] == {"drop": ["ALL"]}, owner
            profile = pod["securityContext"]["seccompProfile"]
            assert profile == expected_profile(name, owner), owner
            assert rights["seccompProfile"] == profile, owner
            assert container["resources"]["limits"]["memory"], owner
    assert "privileged:" not in str(rendered[name]).replace("'", "")


@for_all_values
def test_secret_values_appear_only_in_secrets(
    rendered: dict[str, list[Manifest]], name: str
) -> None:
    """Passwords and keys are in Secrets; all other objects only refer to them."""
    secrets = [manifest for manifest in rendered[name] if manifest["kind"] == "Secret"]
    others = [manifest for manifest in rendered[name] if manifest["kind"] != "Secret"]
    text = str(others)
    assert "PRIVATE KEY" not in text
    for secret in secrets:
        for key, value in secret["data"].items():
            if key != "ca.crt":
                assert value not in text, key
    for _, pod in pod_specs(others):
        for container in pod["containers"]:
            for variable in literal_environment(container):
                assert not re.search(r"PASSWORD$|TOKEN|SECRET", variable)


def test_each_rendering_has_new_passwords(cluster_tools: Path) -> None:
    """Two renderings have different passwords and keys."""

    def render_secrets() -> dict[str, Any]:
        manifests = render(cluster_tools)
        return {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "Secret"}

    first = render_secrets()
    second = render_secrets()
    assert {"infrasight-clickhouse", "infrasight-ca", "infrasight-client-tls"} <= first.keys()
    assert first.keys() == second.keys()
    assert not [name for name in first if first[name] == second[name]]


def references(pod: dict[str, Any]) -> list[tuple[str, str]]:
    """Kind and name of the objects that a pod refers to."""
    names = [("ServiceAccount", pod["serviceAccountName"])]
    for volume in pod["volumes"]:
        if "secret" in volume:
            names.append(("Secret", volume["secret"]["secretName"]))
        if "configMap" in volume:
            names.append(("ConfigMap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            names.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    return names


@for_all_values
def test_referenced_objects_and_ports_exist(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Each Secret, ConfigMap, claim, account and port that a pod or Service names exists."""
    manifests = rendered[name]
    existing = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    for manifest in manifests:
        if manifest["kind"] == "Certificate":
            existing.add(("Secret", manifest["spec"]["secretName"]))
    provided_by_user = re.compile(r"^(mine|my-\w+|p|c)$")
    ports = set()
    for owner, pod in pod_specs(manifests):
        for reference in references(pod):
            assert reference in existing or provided_by_user.match(reference[1]), owner
        for container in pod["containers"]:
            ports |= {port["name"] for port in container.get("ports", [])}
    pod_labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in manifests
        if manifest["kind"] in ("Deployment", "StatefulSet")
    ]
    for manifest in manifests:
        if manifest["kind"] == "Service":
            service = manifest["spec"]
            assert {port["targetPort"] for port in service["ports"]} <= ports
            selected = [
                labels for labels in pod_labels if service["selector"].items() <= labels.items()
            ]
            assert len(selected) == 1, manifest["metadata"]["name"]


def test_every_server_setting_has_a_value(rendered: dict[str, list[Manifest]]) -> None:
    """Together the values set every setting of the server that is of use in a pod."""
    names = {f"TLS__{field.name.upper()}" for field in fields(ListenerTls)}
    names |= {field.name.upper() for field in fields(ServerSettings) if field.name != "tls"}
    names ^= {"PROBE_TTL_DAYS", "PROBE_TTL_DAYS__OPEN"}  # a table, with one variable a probe
    without_value = {
        *("SOCKET_GROUP", "AGENT_USERS", "TOKENS"),  # a pod listens on a port, with TLS
        *("STORE_PASSWORD", "QUERY_PASSWORD"),  # they are in files
        "KEEP_PRIVILEGES",  # for plugins that an own image has; server.env sets it
    }
    found: set[str] = set()
    for manifests in rendered.values():
        for owner, pod in pod_specs(manifests):
            if owner.endswith("-server"):
                found |= literal_environment(pod["containers"][0]).keys()
    prefix = "INFRASIGHT_SERVER_"
    assert {name.removeprefix(prefix) for name in found if name.startswith(prefix)} == (
        names - without_value
    )


def test_limits_arrive_as_they_are_set(rendered: dict[str, list[Manifest]]) -> None:
    """The server's limits, as whole numbers where they are, although Helm reads all as floats."""
    deployment = find_manifest(rendered["limits"], "Deployment", "infrasight-server")
    variables = literal_environment(deployment["spec"]["template"]["spec"]["containers"][0])
    expected = {
        "MAX_DECODED_BYTES": "67108864",
        "MAX_PENDING_BYTES": "8589934592",
        "MAX_AGE_DAYS": "7",
        "PROBE_TTL_DAYS__OPEN": "3",
        "DISK_LIMIT": "0.7",
        "MAX_STREAMS": "300",
        "QUERY_SLOTS": "6",
        "QUERY_SLOTS_PER_PEER": "3",
        "WATCHERS_PER_PEER": "4",
        "QUERY_MEMORY": "4294967296",
    }
    assert {name: variables[f"INFRASIGHT_SERVER_{name}"] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "key", "source"),
    [
        ("revocation", "all.pem", {"configMap": {"name": "my-revocations"}}),
        ("revocation_in_a_secret", "crl.pem", {"secret": {"secretName": "my-revocations"}}),
    ],
)
def test_revocation_lists_are_files_that_follow_their_object(
    rendered: dict[str, list[Manifest]], name: str, key: str, source: dict[str, dict[str, Any]]
) -> None:
    """Server and operator, and no other pod, read the list from a mounted folder.

    A mount with a subPath would stay as it was at the pod's start.
    """
    ((kind, reference),) = source.items()
    file = {"defaultMode": 0o440, "items": [{"key": key, "path": "crl.pem"}]}
    volume = {"name": "crl", kind: {**reference, **file}}
    mount = {"name": "crl", "mountPath": "/etc/infrasight/crl", "readOnly": True}
    readers = set()
    for owner, pod in pod_specs(rendered[name]):
        component = owner.rpartition("-")[2]
        if volume in pod["volumes"]:
            readers.add(component)
            (container,) = pod["containers"]
            assert mount in container["volumeMounts"]
            variable = f"INFRASIGHT_{component.upper()}_TLS__CRL"
            assert literal_environment(container)[variable] == "/etc/infrasight/crl/crl.pem"
        else:
            assert "crl" not in str(pod)
    assert readers == {"server", "operator"}


def test_embedded_store_has_one_server(cluster_tools: Path) -> None:
    """The embedded store forces one server, which stops before its successor starts."""
    manifests = render(cluster_tools, values.EMBEDDED)
    spec = find_manifest(manifests, "Deployment", "infrasight-server")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert not [m for m in manifests if m["kind"] in ("PodDisruptionBudget", "StatefulSet")]
    claim = find_manifest(manifests, "PersistentVolumeClaim", "infrasight-server")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_values_file_documents_every_key(cluster_tools: Path) -> None:
    """values.yaml names every key that the schema allows."""
    text = (CHART / "values.yaml").read_text()
    properties: list[dict[str, Any]] = [json.loads((CHART / "values.schema.json").read_text())]
    names = set()
    while properties:
        for key, schema in properties.pop().get("properties", {}).items():
            names.add(key)
            properties.append(schema)
    assert not [key for key in sorted(names - {"global"}) if not re.search(rf"\b{key}\b", text)]
