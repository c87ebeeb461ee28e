"""The agents that are connected: what each is to be told, and what it said last."""

import asyncio
from collections.abc import Callable, Mapping

from infrasight_operator.metrics import CONNECTED
from infrasight_operator.model.agent_report import Report
from infrasight_operator.model.resolution import Resolved


class AgentLink:
    """An agent's open stream.

    Attributes:
        node: Its node.
        closed: Why it is to end; empty while it is not.

    Args:
        node: Its node.
    """

    def __init__(self, node: str) -> None:
        self.node, self.closed = node, ""
        self._told = ""
        self._wanted: Resolved | None = None
        self._news = asyncio.Event()

    def offer(self, wanted: Resolved) -> None:
        """Says what the agent is to be told; what it was told already is not told again."""
        self._wanted = wanted
        self._news.set()

    def close(self, reason: str) -> None:
        """Ends the stream."""
        self.closed = self.closed or reason
        self._news.set()

    async def next(self) -> Resolved | None:
        """Waits for something to tell; None when the stream is to end."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self.closed:
                return None
            if self._wanted is not None and self._wanted.digest != self._told:
                self._told = self._wanted.digest
                return self._wanted


class Agents:
    """All of them; everything here runs in the event loop.

    Args:
        changed: Called when an agent came, went, or said something new.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._links: dict[str, AgentLink] = {}
        self._reports: dict[str, Report] = {}
        self._asked: dict[str, str] = {}
        self._wanted: Mapping[str, Resolved] | None = None

    def configure(self, wanted: Mapping[str, Resolved] | None) -> None:
        """Says what every node is to record; None while there is no installation. Connected agents hear of it at once."""
        self._wanted = wanted
        for node, link in self._links.items():
            if wanted is not None and node in wanted:
                link.offer(wanted[node])
        for known in (self._reports, self._asked):
            for node in [
                node
                for node in known
                if wanted is not None and node not in wanted and node not in self._links
            ]:
                del known[node]

    def wanted(self, node: str) -> Resolved | None:
        """What a node is to record; None where that is not known (yet)."""
        return self._wanted.get(node) if self._wanted is not None else None

    def connected(self, report: Report) -> AgentLink:
        """A stream has begun; it replaces an older one of the same node."""
        if (older := self._links.pop(report.node, None)) is not None:
            older.close("a newer stream of this node has begun")
        link = self._links[report.node] = AgentLink(report.node)
        CONNECTED.set(len(self._links))
        if (wanted := self.wanted(report.node)) is not None:
            link.offer(wanted)
        self._reports[report.node] = report
        self._changed()
        return link

    def reported(self, link: AgentLink, report: Report) -> None:
        """An agent says something; of a stream that was replaced it does not count, and neither does what is not new."""
        if self._links.get(link.node) is link and self._reports.get(link.node) != report:
            self._reports[link.node] = report
            self._changed()

    def gone(self, link: AgentLink) -> None:
        """A stream has ended."""
        if self._links.get(link.node) is link:
            del self._links[link.node]
            CONNECTED.set(len(self._links))
            if (
                self.wanted(link.node) is None
            ):  # no node of ours, or none any more: what it said is kept for nobody
                self._reports.pop(link.node, None)
            self._changed()

    def asked(self, node: str, packages: str) -> None:
        """What prepares a node's pod was told these packages, by their digest."""
        if self._asked.get(node) != packages:
            self._asked[node] = packages
            self._changed()

    def packages_asked(self, node: str) -> str:
        """The digest of the packages that a node's pod was told as it started; empty where none has asked."""
        return self._asked.get(node, "")

    def is_connected(self, node: str) -> bool:
        """Whether a node's stream is open."""
        return node in self._links

    def report(self, node: str) -> Report | None:
        """What a node's agent said last, to this operator."""
        return self._reports.get(node)

    def __len__(self) -> int:
        return len(self._links)

    def close(self) -> None:
        """Ends all streams; the agents will come again."""
        for link in list(self._links.values()):
            link.close("the operator stops")
