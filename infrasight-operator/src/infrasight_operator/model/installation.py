"""The installation: the InfraSight object as frozen values."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

from infrasight_operator.model.parsing import parse

NAME = "infrasight"


@frozen
class AgentRunSettings:
    """Agent settings that take effect when an agent starts.

    Attributes:
        block_memory: Kernel memory for the blocks of one probe: bytes, or text such as 64Mi.
        outbox_memory: Memory for events that wait for the server.
        spool_bytes: Disk space for events that wait for the server.
        stop_seconds: How long a stopping agent waits for the server's acknowledgements.
        log_level: The agents' log level.
    """

    block_memory: int | str = "64Mi"
    outbox_memory: int | str = "128Mi"
    spool_bytes: int | str = "1Gi"
    stop_seconds: int = 5
    log_level: str = "info"


@frozen
class Security:
    """The privileges of an agent on its node.

    Attributes:
        capabilities: The capabilities that the agent keeps; all others are dropped.
        seccomp_profile: As in a pod.
        app_armor_profile: As in a pod; None selects the runtime's default.
        se_linux_options: As in a pod.
    """

    capabilities: tuple[str, ...] = ("BPF", "PERFMON")
    seccomp_profile: Mapping[str, str] = Factory(lambda: {"type": "RuntimeDefault"})
    app_armor_profile: Mapping[str, str] | None = None
    se_linux_options: Mapping[str, str] = Factory(dict)


@frozen
class HostPaths:
    """Host directories that agents read, and one that they write. An empty one is not mounted.

    Attributes:
        cgroup: The cgroup file system.
        tracing: The tracing file system.
        etc: The user and group databases.
        run: The sockets of the container runtimes.
        spool: Where events wait for the server, so that they outlive a pod. It is created, and the
            only one that agents write.
    """

    cgroup: str = "/sys/fs/cgroup"
    tracing: str = "/sys/kernel/tracing"
    etc: str = "/etc"
    run: str = "/run"
    spool: str = "/var/lib/infrasight-agent"


@frozen
class AgentSpec:
    """The agents. Fields that a pod also has are copied to the pod unchanged.

    Attributes:
        image: The agent image.
        image_pull_policy: As in a pod.
        image_pull_secrets: As in a pod.
        resources: As in a container.
        node_selector: Labels of the nodes that run an agent.
        tolerations: As in a pod.
        affinity: As in a pod.
        priority_class_name: As in a pod.
        max_unavailable: How many agents a rollout may take down at once: a number, or a percentage.
        pod_labels: Additional pod labels.
        pod_annotations: Additional pod annotations.
        settings: Settings that take effect when an agent starts.
        options: Options of enrichers, by enricher.
        security: The agents' privileges.
        host_paths: The host directories that agents read.
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
    """The Secret with the agents' certificate.

    Attributes:
        secret_name: A Secret with tls.crt, tls.key and ca.crt.
    """

    secret_name: str


@frozen
class ServerSpec:
    """The server that receives the agents' events.

    Attributes:
        address: Its host:port.
        plaintext: Whether agents connect to the server and the operator without TLS.
        tls: The agents' certificate for both connections, unless `plaintext` is set.
    """

    address: str
    plaintext: bool = False
    tls: TlsSecret | None = None


@frozen
class PackageIndex:
    """The package index for the packages of policies.

    Attributes:
        url: The index, the only one; empty selects pip's default.
        secret_name: A Secret whose key `url` is the index, for a URL with credentials.
        ca_config_map: A ConfigMap with a ca.crt for the index.
        allow_unhashed_packages: Whether policies may name packages without hashes.
    """

    url: str = ""
    secret_name: str = ""
    ca_config_map: str = ""
    allow_unhashed_packages: bool = False


@frozen
class InstallationSpec:
    """The spec of an InfraSight object.

    Attributes:
        agent: The agents.
        server: The server that receives the agents' events.
        package_index: The package index for the packages of policies.
    """

    agent: AgentSpec
    server: ServerSpec
    package_index: PackageIndex = field(factory=PackageIndex)


@frozen
class Installation:
    """The InfraSight object of the operator's namespace.

    Attributes:
        namespace: The object's namespace.
        uid: The object's uid, for owner references.
        spec: The object's spec.
        generation: The generation of the spec.
    """

    namespace: str
    uid: str
    spec: InstallationSpec
    generation: int = 0

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> "Installation":
        """Parses an object of the Kubernetes API.

        Raises:
            ObjectError: The object does not match the schema.
        """
        metadata = body["metadata"]
        name = f"InfraSight {metadata['name']}"
        spec = parse(name, body.get("spec") or {}, InstallationSpec)
        return cls(metadata["namespace"], metadata["uid"], spec, metadata.get("generation", 0))

    def owner_reference(self) -> dict[str, Any]:
        """The owner reference that makes Kubernetes delete an object with the installation."""
        return {
            "apiVersion": "infrasight.io/v1alpha1",
            "kind": "InfraSight",
            "name": NAME,
            "uid": self.uid,
            "controller": True,
        }
