"""The Helm chart on a real API server: installed, upgraded, rolled back, tested, uninstalled. kwok plays the containers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.chart_release import Release
from infrasight_testbed.chart_values import EMBEDDED, NO_VOLUMES, PLAINTEXT, merged
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.system import until


@pytest.fixture
def release(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str], tmp_path: Path
) -> Iterator[Release]:
    """A release that is not installed yet, and a node for its pods."""
    add_node("first")
    made = Release(control_plane, namespace, tmp_path)
    yield made
    made.run("uninstall", "--ignore-not-found")


def volume(name: str) -> dict[str, Any]:
    """A volume that a claim without a class, of 1 GiB, is bound to."""
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


def pods(control_plane: ControlPlane, release: Release, component: str) -> list[dict[str, Any]]:
    """The pods of a component that run."""
    found = control_plane.objects(
        "pods", release.namespace, "-l", f"app.kubernetes.io/component={component}"
    )
    return [
        pod
        for pod in found
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def test_a_release_from_its_beginning_to_its_end(
    control_plane: ControlPlane, release: Release
) -> None:
    """Installed where Pod Security is `restricted`, it is ready; upgrades keep passwords and certificates, but for one whose
    names change; a rollback goes back; uninstalled, nothing is left."""
    control_plane.kubectl(
        "label", "namespace", release.namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    release.install(NO_VOLUMES)
    assert len(pods(control_plane, release, "server")) == 2
    assert (
        len(pods(control_plane, release, "operator"))
        == len(pods(control_plane, release, "clickhouse"))
        == 1
    )
    assert control_plane.get("infrasight", "infrasight", release.namespace)["spec"]["agent"][
        "security"
    ]["capabilities"]
    assert len(control_plane.objects("probepolicies", release.namespace)) == 2
    assert "Phase:          Succeeded" in release.run("test")
    before = release.secrets()
    assert len(before["infrasight-clickhouse"]["password"]) > 40

    release.install(
        merged(NO_VOLUMES, {"operator": {"logLevel": "debug"}, "server": {"replicas": 3}})
    )
    assert release.secrets() == before
    assert len(pods(control_plane, release, "server")) == 3

    release.install(merged(NO_VOLUMES, {"certificates": {"serverNames": ["events.example"]}}))
    after = release.secrets()
    assert {name for name in after if after[name] != before[name]} == {"infrasight-server-tls"}
    assert after["infrasight-server-tls"]["ca.crt"] == before["infrasight-ca"]["tls.crt"]

    release.run("rollback", "2", "--wait")
    assert release.secrets() == before
    until(lambda: len(pods(control_plane, release, "server")) == 3, "three servers again")

    release.run("uninstall", "--wait")
    until(lambda: not release.remains(), f"nothing is left, not {release.remains()}")
    roles = control_plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert release.namespace not in roles


def test_certificates_are_renewed_in_time(release: Release) -> None:
    """An upgrade after their time makes new certificates of the same CA; the pods that use them start again."""
    values = merged(NO_VOLUMES, {"certificates": {"generated": {"renewDays": 0}}})
    release.install(values)
    before, pods_before = release.secrets(), release.remains()
    release.install(values)
    after = release.secrets()
    assert {name for name in after if after[name] == before[name]} == {
        "infrasight-ca",
        "infrasight-clickhouse",
    }
    replaced = {name for kind, name in pods_before - release.remains() if kind == "Pod"}
    assert {name.rsplit("-", 2)[0] for name in replaced} == {
        "infrasight-operator",
        "infrasight-server",
    }


def test_rows_outlive_the_release(control_plane: ControlPlane, release: Release) -> None:
    """With the embedded store the volume is there after `helm uninstall`, and the next release takes it."""
    control_plane.apply(volume(release.namespace))
    persistence = {"storageClass": "", "size": "1Gi"}
    values = merged(EMBEDDED, {"store": {"embedded": {"persistence": persistence}}})
    release.install(values)
    bound = control_plane.get("pvc", "infrasight-server", release.namespace)
    assert bound["spec"]["volumeName"] == release.namespace
    release.run("uninstall", "--wait")
    until(
        lambda: release.remains() == {("PersistentVolumeClaim", "infrasight-server")},
        "the claim alone is left",
    )
    release.install(values)
    assert (
        control_plane.get("pvc", "infrasight-server", release.namespace)["metadata"]["uid"]
        == bound["metadata"]["uid"]
    )
    release.run("uninstall", "--wait")
    control_plane.kubectl("delete", "pv", release.namespace, "--wait=false")


def test_a_second_installation_in_a_namespace_is_refused(
    control_plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    """One namespace has one installation: a second release says whose the objects are, and changes nothing."""
    release.install(NO_VOLUMES)
    with pytest.raises(ToolError, match=r"InfraSight .infrasight. .*exists and cannot be imported"):
        control_plane.helm(
            "install",
            "second",
            str(Path(__file__).parents[1] / "helm/infrasight"),
            "-n",
            release.namespace,
        )
    assert not control_plane.kubectl(
        "get", "deploy", "-n", release.namespace, "-l", "app.kubernetes.io/instance=second"
    ).strip()


def test_the_notes_say_what_to_do_and_what_is_dangerous(release: Release) -> None:
    """The notes name the commands with the real names; they warn of plaintext, of no volume, and of packages without a way."""
    notes = release.install({}, "--wait=false")
    assert (
        f"kubectl exec -n {release.namespace} deploy/infrasight-server -- infrasight query" in notes
    )
    assert f"helm test infrasight -n {release.namespace}" in notes
    assert "WARNING" not in notes
    packages = {"probePolicies": {"more": {"packages": [{"name": "acme-probe", "version": "1.0"}]}}}
    notes = release.install(merged(EMBEDDED, NO_VOLUMES, PLAINTEXT, packages), "--wait=false")
    assert [line.split(":")[0] for line in notes.splitlines() if "WARNING" in line] == [
        "WARNING"
    ] * 3
    assert "infrasight query --plaintext" in notes
