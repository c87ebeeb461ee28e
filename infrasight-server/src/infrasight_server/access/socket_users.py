"""Decides which users of this machine may connect to the server's Unix socket, and as what."""

import os

import structlog
from attrs import frozen
from infrasight_core.net.identity import Identity, Role
from infrasight_core.net.unix_peer import PeerCredentials, find_group, find_user

log = structlog.get_logger(__name__)
_AGENT_ROLES = frozenset({Role.AGENTS, Role.READER})
_READER_ROLES = frozenset({Role.READER})


@frozen
class SocketUsers:
    """The users who may connect.

    Attributes:
        owner: The server's own user.
        agents: Members of the group who may also write as agents, by user id.
        group: The group whose members may read; None if only root and the owner may connect.
    """

    owner: int
    agents: frozenset[int]
    group: int | None

    @classmethod
    def find(cls, group: str, agent_users: tuple[str, ...]) -> "SocketUsers":
        """Looks up the names that the settings give. Raises ConfigError for an unknown user."""
        owner = os.geteuid()
        gid = find_group(group) if group else None
        if gid is not None and owner != 0 and gid not in {os.getegid(), *os.getgroups()}:
            log.warning(
                "only root and the server's user may connect: the server's user is not in the "
                "group of the socket",
                group=group,
            )
            gid = None
        agents = frozenset(find_user("agent_users", user) for user in agent_users)
        return cls(owner, agents, gid)

    def identify(self, peer: PeerCredentials) -> Identity | None:
        """Returns the identity of a process; None if it may not connect."""
        name = f"uid {peer.uid}"
        if self.is_trusted(peer.uid) or peer.uid in self.agents:
            return Identity(name, _AGENT_ROLES)
        if self.group is not None and self.group in peer.gids:
            return Identity(name, _READER_ROLES)
        return None

    def is_trusted(self, uid: int) -> bool:
        """Whether it is root or the server's own user, whose connections have no bound."""
        return uid in (0, self.owner)
