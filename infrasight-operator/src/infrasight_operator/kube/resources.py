"""The kinds of objects that the operator reads or writes, for its client; as dictionaries, so no models are loaded."""

from enum import Enum

from lightkube.generic_resource import create_global_resource, create_namespaced_resource

GROUP, VERSION = "infrasight.io", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Kind(Enum):
    """A kind: its resource in the client, and group, version and plural for watching."""

    INFRASIGHT = (
        create_namespaced_resource(GROUP, VERSION, "InfraSight", "infrasights"),
        GROUP,
        VERSION,
        "infrasights",
    )
    POLICY = (
        create_namespaced_resource(GROUP, VERSION, "ProbePolicy", "probepolicies"),
        GROUP,
        VERSION,
        "probepolicies",
    )
    NODE_PROBES = (
        create_namespaced_resource(GROUP, VERSION, "NodeProbes", "nodeprobes"),
        GROUP,
        VERSION,
        "nodeprobes",
    )
    NODE = (create_global_resource("", "v1", "Node", "nodes"), "", "v1", "nodes")
    DAEMON_SET = (
        create_namespaced_resource("apps", "v1", "DaemonSet", "daemonsets"),
        "apps",
        "v1",
        "daemonsets",
    )
    POD = (create_namespaced_resource("", "v1", "Pod", "pods"), "", "v1", "pods")
    EVENT = (create_namespaced_resource("", "v1", "Event", "events"), "", "v1", "events")

    def __init__(self, resource: type, group: str, version: str, plural: str) -> None:
        self.resource, self.group, self.version, self.plural = resource, group, version, plural


WATCHED = (Kind.INFRASIGHT, Kind.POLICY, Kind.NODE_PROBES, Kind.NODE, Kind.DAEMON_SET)
