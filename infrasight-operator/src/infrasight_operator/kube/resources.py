"""The kinds of objects that the operator reads or writes, as lightkube's generic resources.

Generic resources are dictionaries, so lightkube's models need not be loaded.
"""

from enum import Enum

from lightkube.generic_resource import create_global_resource, create_namespaced_resource

GROUP = "infrasight.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Kind(Enum):
    """A kind of object.

    Attributes:
        resource: The resource class for lightkube.
        group: The API group.
        version: The API version.
        plural: The plural name in the API.
    """

    INFRASIGHT = (GROUP, VERSION, "InfraSight", "infrasights")
    POLICY = (GROUP, VERSION, "ProbePolicy", "probepolicies")
    NODE_PROBES = (GROUP, VERSION, "NodeProbes", "nodeprobes")
    NODE = ("", "v1", "Node", "nodes")
    DAEMON_SET = ("apps", "v1", "DaemonSet", "daemonsets")
    POD = ("", "v1", "Pod", "pods")
    EVENT = ("", "v1", "Event", "events")

    def __init__(self, group: str, version: str, name: str, plural: str) -> None:
        is_global = name == "Node"
        create = create_global_resource if is_global else create_namespaced_resource
        self.resource: type = create(group, version, name, plural)
        self.group = group
        self.version = version
        self.plural = plural


WATCHED = (Kind.INFRASIGHT, Kind.POLICY, Kind.NODE_PROBES, Kind.NODE, Kind.DAEMON_SET)
