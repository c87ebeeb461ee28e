"""What was seen, understood: the installation, its nodes, and what each of them is to record."""

from collections.abc import Mapping

from attrs import Factory, frozen

from infrasight_operator.errors import ObjectError
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import Kind
from infrasight_operator.model.installation import NAME, Installation
from infrasight_operator.model.node import Node
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import Resolved, resolve, selecting


@frozen
class DesiredState:
    """All that is wanted at one moment.

    Attributes:
        installation: The installation; None where there is none, or it cannot be read.
        policies: Those that can be read, by name.
        broken: Why an object cannot be read, by kind and name.
        nodes: The nodes that are to have an agent, by name.
        wanted: What each of them is to record.
    """

    installation: Installation | None = None
    policies: Mapping[str, Policy] = Factory(dict)
    broken: Mapping[tuple[Kind, str], str] = Factory(dict)
    nodes: Mapping[str, Node] = Factory(dict)
    wanted: Mapping[str, Resolved] = Factory(dict)


def understand(seen: ObjectCache) -> DesiredState:
    """Reads everything, and resolves each node's configuration; nodes that the same policies select share one."""
    broken: dict[tuple[Kind, str], str] = {}
    policies: dict[str, Policy] = {}
    for name, body in seen.all(Kind.POLICY).items():
        try:
            policies[name] = Policy.of(body)
        except ObjectError as error:
            broken[Kind.POLICY, name] = str(error)
    installation = None
    if (found := seen.all(Kind.INFRASIGHT).get(NAME)) is not None:
        try:
            installation = Installation.of(found)
        except ObjectError as error:
            broken[Kind.INFRASIGHT, NAME] = str(error)
    if installation is None:
        return DesiredState(None, policies, broken)
    where = installation.spec.agent.node_selector.items()
    nodes = {name: Node.of(body) for name, body in sorted(seen.all(Kind.NODE).items())}
    nodes = {name: node for name, node in nodes.items() if where <= node.labels.items()}
    resolved: dict[tuple[str, ...], Resolved] = {}
    wanted = {}
    for name, node in nodes.items():
        chosen = selecting(policies.values(), node.labels)
        names = tuple(policy.name for policy in chosen)
        if names not in resolved:
            resolved[names] = resolve(chosen)
        wanted[name] = resolved[names]
    return DesiredState(installation, policies, broken, nodes, wanted)
