"""The Helm chart on a real API server: install, upgrade, roll back, test, uninstall."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.chart import CHART
from infrasight_testbed.chart_release import Release
from infrasight_testbed.chart_values import EMBEDDED, NO_VOLUMES, PLAINTEXT, merged
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.system import until


@pytest.fixture
def release(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str], tmp_path: Path
) -> Iterator[Release]:
    """A release that is not installed yet, in a cluster with one node."""
    add_node("first")
    created = Release(control_plane, namespace, tmp_path)
    yield created
    created.run("uninstall", "--ignore-not-found")


def persistent_volume(name: str) -> dict[str, Any]:
    """A volume for a claim of 1 GiB without a storage class."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }


def running_pods(
    control_plane: ControlPlane, release: Release, component: str
) -> list[dict[str, Any]]:
    """The running pods of a component."""
    selector = f"app.kubernetes.io/component={component}"
    return [
        pod
        for pod in control_plane.objects("pods", release.namespace, "-l", selector)
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def test_release_lifecycle(control_plane: ControlPlane, release: Release) -> None:
    """The release installs under Pod Security `restricted`, upgrades, rolls back and uninstalls.

    Upgrades reuse passwords and certificates, except for a certificate whose names change.
    """
    control_plane.kubectl(
        "label", "namespace", release.namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    release.install(NO_VOLUMES)
    assert len(running_pods(control_plane, release, "server")) == 2
    assert len(running_pods(control_plane, release, "operator")) == 1
    assert len(running_pods(control_plane, release, "clickhouse")) == 1
    installation = control_plane.get("infrasight", "infrasight", release.namespace)
    assert installation["spec"]["agent"]["security"]["capabilities"]
    assert len(control_plane.objects("probepolicies", release.namespace)) == 2
    assert "Phase:          Succeeded" in release.run("test")
    before = release.secrets()
    assert len(before["infrasight-clickhouse"]["password"]) > 40

    changes = {"operator": {"logLevel": "debug"}, "server": {"replicas": 3}}
    release.install(merged(NO_VOLUMES, changes))
    assert release.secrets() == before
    assert len(running_pods(control_plane, release, "server")) == 3

    release.install(merged(NO_VOLUMES, {"certificates": {"serverNames": ["events.example"]}}))
    after = release.secrets()
    assert {name for name in after if after[name] != before[name]} == {"infrasight-server-tls"}
    assert after["infrasight-server-tls"]["ca.crt"] == before["infrasight-ca"]["tls.crt"]

    release.run("rollback", "2", "--wait")
    assert release.secrets() == before
    until(lambda: len(running_pods(control_plane, release, "server")) == 3, "three servers again")

    release.run("uninstall", "--wait")
    until(lambda: not release.objects(), f"no objects are left, but: {release.objects()}")
    roles = control_plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert release.namespace not in roles


def test_upgrade_renews_old_certificates(release: Release) -> None:
    """An upgrade after `renewDays` replaces the certificates and restarts the pods with them."""
    values = merged(NO_VOLUMES, {"certificates": {"generated": {"renewDays": 0}}})
    release.install(values)
    before = release.secrets()
    objects_before = release.objects()
    release.install(values)
    after = release.secrets()
    assert {name for name in after if after[name] == before[name]} == {
        "infrasight-ca",
        "infrasight-clickhouse",
    }
    replaced = {name for kind, name in objects_before - release.objects() if kind == "Pod"}
    assert {name.rsplit("-", 2)[0] for name in replaced} == {
        "infrasight-operator",
        "infrasight-server",
    }


def test_embedded_volume_outlives_the_release(
    control_plane: ControlPlane, release: Release
) -> None:
    """The volume of the embedded store survives `helm uninstall`, and the next release uses it."""
    control_plane.apply(persistent_volume(release.namespace))
    persistence = {"storageClass": "", "size": "1Gi"}
    values = merged(EMBEDDED, {"store": {"embedded": {"persistence": persistence}}})
    release.install(values)
    bound = control_plane.get("pvc", "infrasight-server", release.namespace)
    assert bound["spec"]["volumeName"] == release.namespace
    release.run("uninstall", "--wait")
    until(
        lambda: release.objects() == {("PersistentVolumeClaim", "infrasight-server")},
        "only the claim is left",
    )
    release.install(values)
    reused = control_plane.get("pvc", "infrasight-server", release.namespace)
    assert reused["metadata"]["uid"] == bound["metadata"]["uid"]
    release.run("uninstall", "--wait")
    control_plane.kubectl("delete", "pv", release.namespace, "--wait=false")


def test_second_release_in_a_namespace_is_rejected(
    control_plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    """A second release in a namespace fails, names the existing objects and changes nothing."""
    release.install(NO_VOLUMES)
    with pytest.raises(ToolError, match=r"InfraSight .infrasight. .*exists and cannot be imported"):
        control_plane.helm("install", "second", str(CHART), "-n", release.namespace)
    selector = "app.kubernetes.io/instance=second"
    assert control_plane.objects("deploy", release.namespace, "-l", selector) == []


def test_notes_show_commands_and_warnings(release: Release) -> None:
    """The notes show commands with real names, and warn of plaintext, no volume and no egress."""
    notes = release.install({}, "--wait=false")
    exec_server = f"kubectl exec -n {release.namespace} deploy/infrasight-server"
    assert f"{exec_server} -- infrasight query" in notes
    assert f"helm test infrasight -n {release.namespace}" in notes
    assert "WARNING" not in notes
    packages = {"probePolicies": {"more": {"packages": [{"name": "acme-probe", "version": "1.0"}]}}}
    notes = release.install(merged(EMBEDDED, NO_VOLUMES, PLAINTEXT, packages), "--wait=false")
    assert len([line for line in notes.splitlines() if line.startswith("WARNING: ")]) == 3
    assert "infrasight query --plaintext" in notes
