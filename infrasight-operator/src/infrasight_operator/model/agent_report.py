"""An agent's report, validated. Reports come from nodes, which the operator does not trust."""

import re

from attrs import frozen
from infrasight.v1 import control_pb2

MAX_REPORT_BYTES = 256 << 10
_MAX_ENTRIES = 1024
_MAX_QUOTED = 100
_MAX_REASON_CHARACTERS = 1024
_MAX_VERSION_CHARACTERS = 64
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# Third-party plugins may have any name that fits on one line.
_PLUGIN_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class ReportError(Exception):
    """A report is malformed or too large; the message names the field."""


@frozen
class Failure:
    """A probe, tracker or package that was requested and does not work.

    Attributes:
        name: The probe, tracker or package.
        reason: The cause, in one line.
        is_package: Whether `name` is a package.
    """

    name: str
    reason: str
    is_package: bool


@frozen
class Report:
    """The state of one agent; control.proto documents the fields.

    Attributes:
        node: The agent's node.
        pod: The agent's pod.
        agent_version: The agent's version.
        digest: Digest of the configuration that the agent received last.
        rejected: Why the agent rejected that configuration; empty if it did not.
        running: The probes that record.
        failures: What was requested and does not work.
        installed: The probes that are installed.
        not_streaming: Why no events reach the server; empty while they do.
        packages: Name and version of each package installed when the pod started.
    """

    node: str
    pod: str = ""
    agent_version: str = ""
    digest: str = ""
    rejected: str = ""
    running: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    installed: tuple[str, ...] = ()
    not_streaming: str = ""
    packages: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_message(cls, message: control_pb2.Report) -> "Report":
        """Validates a message and sorts its unordered fields, so that equal reports compare equal.

        Raises:
            ReportError: The message is malformed or too large.
        """
        _check_size(message)
        check_node_name(message.node)
        failures = {_parse_failure(failure) for failure in message.failures}
        packages = {
            (_checked_name("packages", package.name), package.version[:_MAX_VERSION_CHARACTERS])
            for package in message.packages
        }
        return cls(
            node=message.node,
            pod=message.pod,
            agent_version=message.agent_version,
            digest=message.digest,
            rejected=message.rejected,
            running=tuple(sorted({_checked_name("running", name) for name in message.running})),
            failures=tuple(sorted(failures, key=lambda f: (f.is_package, f.name, f.reason))),
            installed=tuple(
                sorted({_checked_name("installed", name) for name in message.installed})
            ),
            not_streaming=message.not_streaming,
            packages=tuple(sorted(packages)),
        )


def check_node_name(name: str) -> None:
    """Validates the name of a node.

    Raises:
        ReportError: Kubernetes does not allow this name.
    """
    if not _NODE_NAME.fullmatch(name):
        raise ReportError(f"node {name[:_MAX_QUOTED]!r}: not a valid node name")


def _check_size(message: control_pb2.Report) -> None:
    size = message.ByteSize()
    if size > MAX_REPORT_BYTES:
        raise ReportError(f"a report of {size} bytes exceeds the limit of {MAX_REPORT_BYTES}")
    texts = (
        ("pod", message.pod, 253),
        ("agent_version", message.agent_version, 128),
        ("digest", message.digest, 64),
        ("rejected", message.rejected, 4096),
        ("not_streaming", message.not_streaming, 4096),
    )
    for field, text, limit in texts:
        if len(text) > limit:
            raise ReportError(f"{field}: {len(text)} characters exceed the limit of {limit}")
    lists = (
        ("running", message.running),
        ("failures", message.failures),
        ("installed", message.installed),
        ("packages", message.packages),
    )
    for field, entries in lists:
        if len(entries) > _MAX_ENTRIES:
            raise ReportError(f"{field}: {len(entries)} entries exceed the limit of {_MAX_ENTRIES}")


def _parse_failure(failure: control_pb2.Failure) -> Failure:
    reason = " ".join(failure.reason.split())[:_MAX_REASON_CHARACTERS]
    return Failure(_checked_name("failures", failure.name), reason, failure.is_package)


def _checked_name(field: str, name: str) -> str:
    if not _PLUGIN_NAME.fullmatch(name):
        raise ReportError(f"{field}: {name[:_MAX_QUOTED]!r} is not a valid probe or package name")
    return name
