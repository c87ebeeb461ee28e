"""Computes the desired state from the cached objects: the nodes, and each one's configuration."""

from collections.abc import Mapping

from attrs import Factory, frozen

from infrasight_operator.errors import ObjectError
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import Kind
from infrasight_operator.model.admission import admit
from infrasight_operator.model.installation import NAME, Installation
from infrasight_operator.model.node import Node
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import NodeConfiguration, resolve, select_policies


@frozen
class DesiredState:
    """The state that the operator is to bring about.

    Attributes:
        installation: The installation; None if there is none or it is invalid.
        policies: The policies that can be parsed, by name, with the entries that are admitted.
        invalid_objects: The reason why an object is invalid, by kind and name.
        nodes: The nodes that run an agent, by name.
        configurations: The configuration of each of these nodes, by name.
    """

    installation: Installation | None = None
    policies: Mapping[str, Policy] = Factory(dict)
    invalid_objects: Mapping[tuple[Kind, str], str] = Factory(dict)
    nodes: Mapping[str, Node] = Factory(dict)
    configurations: Mapping[str, NodeConfiguration] = Factory(dict)


def compute_desired_state(cache: ObjectCache) -> DesiredState:
    """Parses the cached objects and resolves the configuration of each node."""
    invalid: dict[tuple[Kind, str], str] = {}
    policies: dict[str, Policy] = {}
    for name, body in cache.all(Kind.POLICY).items():
        try:
            policies[name] = Policy.from_object(body)
        except ObjectError as error:
            invalid[Kind.POLICY, name] = str(error)
    installation = None
    installation_body = cache.all(Kind.INFRASIGHT).get(NAME)
    if installation_body is not None:
        try:
            installation = Installation.from_object(installation_body)
        except ObjectError as error:
            invalid[Kind.INFRASIGHT, NAME] = str(error)
    if installation is None:
        return DesiredState(None, policies, invalid)
    allow_unhashed = installation.spec.package_index.allow_unhashed_packages
    policies = {name: admit(policy, allow_unhashed) for name, policy in policies.items()}
    nodes = _select_nodes(cache, installation)
    configurations = _resolve_configurations(policies, nodes)
    return DesiredState(installation, policies, invalid, nodes, configurations)


def _select_nodes(cache: ObjectCache, installation: Installation) -> dict[str, Node]:
    required = installation.spec.agent.node_selector.items()
    nodes = {}
    for name, body in sorted(cache.all(Kind.NODE).items()):
        node = Node.from_object(body)
        if required <= node.labels.items():
            nodes[name] = node
    return nodes


def _resolve_configurations(
    policies: Mapping[str, Policy], nodes: Mapping[str, Node]
) -> dict[str, NodeConfiguration]:
    """Resolves each combination of policies once; nodes with the same combination share it."""
    by_policies: dict[tuple[str, ...], NodeConfiguration] = {}
    configurations = {}
    for name, node in nodes.items():
        selected = select_policies(policies.values(), node.labels)
        names = tuple(policy.name for policy in selected)
        if names not in by_policies:
            by_policies[names] = resolve(selected)
        configurations[name] = by_policies[names]
    return configurations
