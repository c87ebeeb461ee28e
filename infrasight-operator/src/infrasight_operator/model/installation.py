"""An InfraSight object as people wrote it: the installation."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

from infrasight_operator.model.parsing import read

NAME = "infrasight"


@frozen
class AgentRunSettings:
    """Settings that an agent takes up as it starts.

    Attributes:
        block_memory: What one probe's blocks may take: bytes, or text such as 64Mi.
        outbox_memory: What may wait for the server.
        compat: Whether what 32-bit programs do is recorded, too.
        stop_seconds: How long an agent waits at its end for the server.
        log_level: What is logged.
    """

    block_memory: int | str = "64Mi"
    outbox_memory: int | str = "128Mi"
    compat: bool = True
    stop_seconds: int = 5
    log_level: str = "info"


@frozen
class Security:
    """What an agent may do on its node.

    Attributes:
        capabilities: What is left of all.
        seccomp_profile: As in a pod.
        app_armor_profile: As in a pod; None for the runtime's.
        se_linux_options: As in a pod.
    """

    capabilities: tuple[str, ...] = ("BPF", "PERFMON")
    seccomp_profile: Mapping[str, str] = Factory(lambda: {"type": "RuntimeDefault"})
    app_armor_profile: Mapping[str, str] | None = None
    se_linux_options: Mapping[str, str] = Factory(dict)


@frozen
class HostPaths:
    """Folders of the nodes that agents read; the last two may be empty, for none.

    Attributes:
        cgroup: The control groups' file system.
        tracing: The tracing file system.
        etc: Names of users and groups.
        run: Sockets of container runtimes.
    """

    cgroup: str = "/sys/fs/cgroup"
    tracing: str = "/sys/kernel/tracing"
    etc: str = "/etc"
    run: str = "/run"


@frozen
class AgentSpec:
    """The agents; what stands in a pod by the same name is passed on as it is.

    Attributes:
        image: Their image.
        image_pull_policy: As in a pod.
        image_pull_secrets: As in a pod.
        resources: As in a container.
        node_selector: Labels of the nodes that have an agent.
        tolerations: As in a pod.
        affinity: As in a pod.
        priority_class_name: As in a pod.
        max_unavailable: How many may be away at once while they are replaced: a number, or a part such as 10%.
        pod_labels: Further labels.
        pod_annotations: Further annotations.
        settings: What they take up as they start.
        options: Options of enrichers, by name.
        security: What they may do.
        host_paths: What they see of their node.
    """

    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, Any] = Factory(dict)
    node_selector: Mapping[str, str] = Factory(dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = Factory(dict)
    priority_class_name: str = ""
    max_unavailable: int | str = "10%"
    pod_labels: Mapping[str, str] = Factory(dict)
    pod_annotations: Mapping[str, str] = Factory(dict)
    settings: AgentRunSettings = field(factory=AgentRunSettings)
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    security: Security = field(factory=Security)
    host_paths: HostPaths = field(factory=HostPaths)


@frozen
class TlsSecret:
    """Where the agents' certificate is.

    Attributes:
        secret_name: A secret with tls.crt, tls.key and ca.crt.
    """

    secret_name: str


@frozen
class ServerSpec:
    """The server that agents send to.

    Attributes:
        address: Its host:port.
        plaintext: Whether there is no TLS, to the server and to the operator.
        tls: Else the certificate for both.
    """

    address: str
    plaintext: bool = False
    tls: TlsSecret | None = None


@frozen
class PackageIndex:
    """Where policies' packages come from.

    Attributes:
        url: The index; empty for pip's own.
        extra_urls: Further ones.
        secret_name: A secret with a pip.conf.
        ca_config_map: A ConfigMap with a ca.crt for the index.
    """

    url: str = ""
    extra_urls: tuple[str, ...] = ()
    secret_name: str = ""
    ca_config_map: str = ""


@frozen
class InstallationSpec:
    """What an installation wants.

    Attributes:
        agent: The agents.
        server: Where they send to.
        package_index: Where packages come from.
    """

    agent: AgentSpec
    server: ServerSpec
    package_index: PackageIndex = field(factory=PackageIndex)


@frozen
class Installation:
    """The installation.

    Attributes:
        namespace: Where it is.
        uid: Of the object; what it owns names it.
        spec: What it wants.
        generation: Of the spec.
    """

    namespace: str
    uid: str
    spec: InstallationSpec
    generation: int = 0

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Installation":
        """Reads an object of the API. Raises ObjectError."""
        about = body["metadata"]
        spec = read(f"InfraSight {about['name']}", body.get("spec") or {}, InstallationSpec)
        return cls(about["namespace"], about["uid"], spec, about.get("generation", 0))

    def owner(self) -> dict[str, Any]:
        """The reference by which Kubernetes deletes what belongs to it when it is deleted."""
        return {
            "apiVersion": "infrasight.io/v1alpha1",
            "kind": "InfraSight",
            "name": NAME,
            "uid": self.uid,
            "controller": True,
        }
