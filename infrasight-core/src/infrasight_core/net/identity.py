"""States who a peer is and what it may do.

A peer proves its identity by its certificate, by the kernel's word about the process at the other
end of a Unix socket, or by a token.
"""

from enum import StrEnum

from attrs import frozen

from infrasight_core.errors import AccessError


class Role(StrEnum):
    """What a peer may do."""

    AGENT = "agent"
    """Write its own node's events, and follow its node's configuration."""
    AGENTS = "agents"
    """The same for every node; for the one certificate that the agents of a cluster share."""
    READER = "reader"
    """Query, and watch events."""
    OPERATOR = "operator"
    """Send configurations to agents."""
    SERVER = "server"
    """Receive events from agents, and answer readers."""


LISTENERS = (Role.SERVER, Role.OPERATOR)
"""The roles of processes that others connect to."""


@frozen
class Identity:
    """A peer that has proved who it is.

    Attributes:
        name: Identifies the peer in logs, metrics and limits, e.g. `agent/node-a` or `uid 1000`.
        roles: What it may do.
        node: The node of an agent with the role `AGENT`; "" for all others.
    """

    name: str
    roles: frozenset[Role]
    node: str = ""

    def require(self, *roles: Role) -> None:
        """Raises AccessError unless the peer has one of the roles."""
        if self.roles.isdisjoint(roles):
            needed = " or ".join(roles)
            owned = ", ".join(sorted(self.roles)) or "none"
            raise AccessError(f"{self.name} needs the role {needed}; its roles: {owned}")

    def require_node(self, node: str) -> None:
        """Raises AccessError unless the peer is an agent that may write for the node."""
        self.require(Role.AGENT, Role.AGENTS)
        if Role.AGENTS not in self.roles and node != self.node:
            raise AccessError(f"{self.name} may not act for node {node!r}, only for {self.node!r}")
