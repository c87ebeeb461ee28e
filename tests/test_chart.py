"""The Helm chart without a cluster: what it renders is valid, modest in its rights, without secrets; errors are refused."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed import chart_values as values
from infrasight_testbed.chart import (
    CHART,
    ChartError,
    Manifest,
    environment,
    named,
    pods,
    render,
    template,
)
from infrasight_testbed.manifest_schemas import judge, write_schemas

each = pytest.mark.parametrize("name", values.ALL)


@pytest.fixture(scope="module")
def rendered(cluster_tools: Path) -> dict[str, list[Manifest]]:
    """What it makes of each of the values."""
    return {name: render(cluster_tools, value) for name, value in values.ALL.items()}


def test_helm_finds_no_fault(cluster_tools: Path) -> None:
    """`helm lint --strict` passes."""
    done = subprocess.run(
        [cluster_tools / "helm", "lint", "--strict", CHART],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_is_valid(cluster_tools: Path, tmp_path: Path) -> None:
    """Whatever is switched on or off, every object fits the schema of its kind, ours included; a wrong field would be told."""
    write_schemas(tmp_path, CHART / "crds")
    everything = "\n---\n".join(
        template(cluster_tools, value, release=f"r-{name.replace('_', '-')}")
        for name, value in values.ALL.items()
    )
    assert judge(cluster_tools, tmp_path, everything) == []
    assert (
        judge(cluster_tools, tmp_path, template(cluster_tools).replace("replicas: 2", "replica: 2"))
        != []
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
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
        (
            {"probePolicies": {"mine": {"probes": [{"nam": "open"}]}}},
            "/probePolicies/mine/probes/0.*'nam' not allowed",
        ),
        ({"probePolicies": {"Mine": {}}}, "'Mine' does not match"),
        ({"server": {"settings": {"maxBatchBytes": 1 << 30}}}, "/server/settings/maxBatchBytes"),
        (
            values.merged(values.EMBEDDED, values.AUTOSCALING),
            "server.autoscaling.enabled: the embedded store belongs to one server",
        ),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(
    cluster_tools: Path, wrong: dict[str, Any], said: str
) -> None:
    """A value that is misspelt, of another type, or that does not fit the others: helm stops and names it."""
    with pytest.raises(ChartError, match=said):
        render(cluster_tools, wrong)


@each
def test_containers_have_few_rights(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Every container fits Pod Security's `restricted` and has a read-only root; only the operator's pod has a token."""
    for what, pod in pods(rendered[name]):
        assert pod["automountServiceAccountToken"] is what.endswith("-operator"), what
        assert pod["enableServiceLinks"] is False, what
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), what
        assert pod["securityContext"]["runAsNonRoot"], what
        assert pod["securityContext"]["runAsUser"] > 0, what
        assert {next(iter(set(v) - {"name"})) for v in pod["volumes"]} <= {
            "emptyDir",
            "secret",
            "configMap",
            "persistentVolumeClaim",
        }
        for container in pod["containers"] + pod.get("initContainers", []):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"], what
            assert rights["runAsNonRoot"], what
            assert rights["allowPrivilegeEscalation"] is False, what
            assert rights["capabilities"] == {"drop": ["ALL"]}, what
            assert rights["seccompProfile"]["type"] == "RuntimeDefault", what
            assert container["resources"]["limits"]["memory"], what
    assert "privileged:" not in str(rendered[name]).replace("'", "")


@each
def test_no_secret_in_plain_sight(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Passwords and keys are in Secrets; everything else only refers to them."""
    others = [m for m in rendered[name] if m["kind"] != "Secret"]
    secrets = [
        value
        for m in rendered[name]
        if m["kind"] == "Secret"
        for key, value in m["data"].items()
        if key != "ca.crt"
    ]
    text = str(others)
    assert not [value for value in secrets if value in text]
    assert "PRIVATE KEY" not in text
    for _, pod in pods(others):
        for container in pod["containers"]:
            assert not [
                v
                for v in environment(container).items()
                if re.search(r"PASSWORD$|TOKEN|SECRET", v[0])
            ]


def test_passwords_are_random(cluster_tools: Path) -> None:
    """Two renderings have different passwords and keys."""
    first, second = (
        {m["metadata"]["name"]: m["data"] for m in render(cluster_tools) if m["kind"] == "Secret"}
        for _ in range(2)
    )
    assert (
        first.keys()
        == second.keys()
        >= {"infrasight-clickhouse", "infrasight-ca", "infrasight-client-tls"}
    )
    assert not [name for name in first if first[name] == second[name]]


@each
def test_what_is_referred_to_is_there(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Secrets, ConfigMaps, claims, accounts and ports that a pod, Service or monitor names exist, or are the user's own."""
    manifests = rendered[name]
    there = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    there |= {("Secret", m["spec"]["secretName"]) for m in manifests if m["kind"] == "Certificate"}
    own = re.compile(r"^(mine|my-\w+|p|c)$")
    for what, pod in pods(manifests):
        named_here = [("ServiceAccount", pod["serviceAccountName"])]
        for volume in pod["volumes"]:
            named_here += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
            named_here += (
                [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
            )
            claim = volume.get("persistentVolumeClaim")
            named_here += [("PersistentVolumeClaim", claim["claimName"])] if claim else []
        assert not [n for n in named_here if n not in there and not own.match(n[1])], what
    ports = {
        port["name"]
        for _, pod in pods(manifests)
        for container in pod["containers"]
        for port in container.get("ports", [])
    }
    for service in (m for m in manifests if m["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        labels = [
            m["spec"]["template"]["metadata"]["labels"]
            for m in manifests
            if m["kind"] in ("Deployment", "StatefulSet")
        ]
        assert sum(service["spec"]["selector"].items() <= label.items() for label in labels) == 1, (
            service["metadata"]["name"]
        )


def test_the_embedded_store_has_one_server(cluster_tools: Path) -> None:
    """Two servers are wanted; with the embedded store it is one, gone before its successor starts, and nothing scales it."""
    manifests = render(cluster_tools, values.EMBEDDED)
    spec = named(manifests, "Deployment", "infrasight-server")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert not [m for m in manifests if m["kind"] in ("PodDisruptionBudget", "StatefulSet")]
    claim = named(manifests, "PersistentVolumeClaim", "infrasight-server")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_value_is_explained(cluster_tools: Path) -> None:
    """values.yaml names every key that the schema allows, so that nobody has to read a schema to find an option."""
    text = (CHART / "values.yaml").read_text()
    properties: list[dict[str, Any]] = [json.loads((CHART / "values.schema.json").read_text())]
    names = set()
    while properties:
        for key, schema in properties.pop().get("properties", {}).items():
            names.add(key)
            properties.append(schema)
    assert not [key for key in sorted(names - {"global"}) if not re.search(rf"\b{key}\b", text)]
