"""The DaemonSet that is made of an installation."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from infrasight_operator.errors import ObjectError
from infrasight_operator.manifests.daemonset import DIGEST, daemon_set
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.quantities import at_once, in_bytes

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
        "url": "https://index.example/simple",
        "secretName": "pip",
        "caConfigMap": "index-ca",
    },
}
LEAST: dict[str, Any] = {
    "agent": {"image": "agent"},
    "server": {"address": "server:7443", "plaintext": True},
}


def made(spec: dict[str, Any]) -> dict[str, Any]:
    """The manifest for a spec."""
    about = {
        "name": "infrasight",
        "namespace": "infrasight",
        "uid": "11111111-2222-3333-4444-555555555555",
        "generation": 1,
    }
    return daemon_set(
        Installation.of({"metadata": about, "spec": spec}),
        "infrasight-operator.infrasight.svc:7446",
    )


def changed(**agent: Any) -> dict[str, Any]:
    """The least manifest with something else of the agents."""
    return made({**LEAST, "agent": {**LEAST["agent"], **agent}})


def test_the_manifest_is_the_one_that_was_read_and_found_right() -> None:
    """Every line of it is known: `agent_daemonset.yaml` changes only when somebody means it."""
    manifest = made(FULL)
    assert manifest == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("spec", [FULL, LEAST])
def test_the_rights_are_few(spec: dict[str, Any]) -> None:
    """Whatever is configured: no token, no privilege, no writable root, no namespace of the host, host folders read-only."""
    pod = made(spec)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod.keys()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    host = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
    for container in (*pod["containers"], *pod["initContainers"]):
        rights = container["securityContext"]
        assert rights["privileged"] is rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"]["drop"] == ["ALL"]
        assert all(
            mount.get("readOnly") for mount in container["volumeMounts"] if mount["name"] in host
        )
    assert pod["containers"][0]["securityContext"]["capabilities"]["add"] == ["BPF", "PERFMON"]
    assert "add" not in pod["initContainers"][0]["securityContext"]["capabilities"]
    assert not host & {mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]}


def test_the_digest_changes_with_the_pods_and_only_then() -> None:
    """What makes other pods is another digest; the same installation is the same."""
    digests = [
        made_["metadata"]["annotations"][DIGEST]
        for made_ in (
            made(LEAST),
            changed(image="b"),
            changed(options={"users": {"etc": "/x"}}),
            changed(podLabels={"a": "b"}),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert made(LEAST)["metadata"]["annotations"][DIGEST] == digests[0]


def test_folders_of_the_host_can_be_left_out() -> None:
    """Without /etc the names of the image are not taken for the node's, without /run there is no socket of a runtime."""
    pod = changed(hostPaths={"etc": "", "run": ""})["spec"]["template"]["spec"]
    variables = {
        variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]
    }
    assert variables["INFRASIGHT_AGENT_DISABLE"] == "users"
    assert not any(name.startswith("INFRASIGHT_AGENT_OPTIONS") for name in variables)
    assert not {"/host/etc", "/host/run"} & {
        mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]
    }


def test_own_options_of_an_enricher_hold() -> None:
    """What the installation says of an enricher is not overruled by what the operator would say."""
    pod = changed(options={"users": {"etc": "/elsewhere"}})["spec"]["template"]["spec"]
    names = {variable["name"] for variable in pod["containers"][0]["env"]}
    assert "INFRASIGHT_AGENT_OPTIONS__USERS__ETC" not in names
    assert {"INFRASIGHT_AGENT_OPTIONS__CONTAINERS__HOST", "INFRASIGHT_AGENT_CONFIG"} < names


def test_an_object_of_another_form_is_said_to_be_so() -> None:
    """What an older schema let in is rejected with the place, and nothing is guessed."""
    with pytest.raises(ObjectError, match=r"InfraSight infrasight: .*stop_seconds"):
        changed(settings={"stopSeconds": "soon"})


@pytest.mark.parametrize(
    ("part", "nodes", "wanted"),
    [("10%", 3, 1), ("10%", 11, 2), ("50%", 4, 2), (3, 100, 3), ("1%", 0, 1), ("100%", 7, 7)],
)
def test_how_many_may_be_away(part: int | str, nodes: int, wanted: int) -> None:
    """A part of the nodes is rounded up, and is never none."""
    assert at_once(part, nodes) == wanted


@pytest.mark.parametrize(
    ("text", "number"),
    [("64Mi", 64 << 20), ("1Gi", 1 << 30), ("4096", 4096), (8192, 8192), ("8Ki", 8192)],
)
def test_quantities(text: int | str, number: int) -> None:
    """Memory is said as in Kubernetes, and told to the agent in bytes."""
    assert in_bytes(text) == number
