"""The connected agents: the configuration to send to each, and the last report of each."""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from infrasight_core.errors import AccessError

from infrasight_operator.metrics import CONNECTED_AGENTS
from infrasight_operator.model.agent_report import Report
from infrasight_operator.model.resolution import NodeConfiguration

log = structlog.get_logger(__name__)


class AgentLink:
    """The open stream of an agent.

    Attributes:
        node: The agent's node.
        owner: The name of the agent's identity.
        close_reason: Why the stream is to end; empty while it is open.

    Args:
        node: The agent's node.
        owner: The name of the agent's identity.
    """

    def __init__(self, node: str, owner: str) -> None:
        self.node = node
        self.owner = owner
        self.close_reason = ""
        self._sent_digest = ""
        self._configuration: NodeConfiguration | None = None
        self._wakeup = asyncio.Event()

    def offer(self, configuration: NodeConfiguration) -> None:
        """Sets the configuration to send. One that was sent already is not sent again."""
        self._configuration = configuration
        self._wakeup.set()

    def close(self, reason: str) -> None:
        """Ends the stream; the first reason stays."""
        self.close_reason = self.close_reason or reason
        self._wakeup.set()

    async def next(self) -> NodeConfiguration | None:
        """Waits for a configuration to send; None when the stream is to end."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            if self.close_reason:
                return None
            configuration = self._configuration
            if configuration is not None and configuration.digest != self._sent_digest:
                self._sent_digest = configuration.digest
                return configuration


class AgentRegistry:
    """All connected agents. Everything here runs in the event loop.

    Args:
        on_change: Called when an agent connects, disconnects or sends a different report.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._links: dict[str, AgentLink] = {}
        self._reports: dict[str, Report] = {}
        self._pod_packages: dict[str, str] = {}
        self._configurations: Mapping[str, NodeConfiguration] | None = None

    def configure(self, configurations: Mapping[str, NodeConfiguration] | None) -> None:
        """Sets the configuration of every node and sends it to the connected agents.

        Args:
            configurations: The configurations by node; None while there is no installation.
        """
        self._configurations = configurations
        if configurations is None:
            return
        for node, link in self._links.items():
            if node in configurations:
                link.offer(configurations[node])
        known = self._reports.keys() | self._pod_packages.keys()
        for node in known - configurations.keys() - self._links.keys():
            self._reports.pop(node, None)
            self._pod_packages.pop(node, None)

    def configuration(self, node: str) -> NodeConfiguration | None:
        """The configuration of a node; None if the operator does not know the node (yet)."""
        if self._configurations is None:
            return None
        return self._configurations.get(node)

    def connect(self, report: Report, owner: str) -> AgentLink:
        """Registers a new stream, which replaces an older one of the same node and identity.

        Args:
            report: The first report.
            owner: The name of the agent's identity.

        Raises:
            AccessError: Another identity has an open stream for the node.
        """
        older = self._links.get(report.node)
        if older is not None and older.owner != owner:
            log.warning(
                "second stream of a node rejected",
                node=report.node,
                owner=older.owner,
                rejected=owner,
            )
            raise AccessError(
                f"node {report.node!r} has an open stream of {older.owner}; {owner} may not "
                "replace it"
            )
        if older is not None:
            log.info("a newer stream replaces an older one", node=report.node, owner=owner)
            older.close("a newer stream of this node has begun")
        link = AgentLink(report.node, owner)
        self._links[report.node] = link
        CONNECTED_AGENTS.set(len(self._links))
        configuration = self.configuration(report.node)
        if configuration is not None:
            link.offer(configuration)
        self._reports[report.node] = report
        self._on_change()
        return link

    def record_report(self, link: AgentLink, report: Report) -> None:
        """Stores a report, unless its stream was replaced or the report is unchanged."""
        if self._links.get(link.node) is link and self._reports.get(link.node) != report:
            self._reports[link.node] = report
            self._on_change()

    def disconnect(self, link: AgentLink) -> None:
        """Removes a stream that has ended."""
        if self._links.get(link.node) is not link:
            return
        del self._links[link.node]
        CONNECTED_AGENTS.set(len(self._links))
        if self.configuration(link.node) is None:
            # The node does not belong to the installation, so nothing reads its report.
            self._reports.pop(link.node, None)
        self._on_change()

    def record_pod_packages(self, node: str, packages_digest: str) -> None:
        """Stores the digest of the packages that a node's pod received when it started."""
        if self._pod_packages.get(node) != packages_digest:
            self._pod_packages[node] = packages_digest
            self._on_change()

    def pod_packages(self, node: str) -> str:
        """The digest that `record_pod_packages` stored; empty if there is none."""
        return self._pod_packages.get(node, "")

    def is_connected(self, node: str) -> bool:
        """Whether a node's stream is open."""
        return node in self._links

    def report(self, node: str) -> Report | None:
        """The last report that this operator received from a node's agent."""
        return self._reports.get(node)

    def __len__(self) -> int:
        return len(self._links)

    def close(self) -> None:
        """Ends all streams; the agents will connect again."""
        for link in list(self._links.values()):
            link.close("the operator is stopping")
