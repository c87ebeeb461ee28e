"""What an agent said last, checked: it comes from a node, which may be anyone's."""

import re

from attrs import frozen
from infrasight.v1 import control_pb2

MAX_BYTES = 256 << 10
_MANY = 1024
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")  # plugins of others may be called anything


class ReportError(Exception):
    """A report is malformed or too large; the message says what of it."""


@frozen
class Failure:
    """What is wanted and does not work.

    Attributes:
        name: A probe, a tracker or a package.
        reason: One line for people.
        is_package: Whether it is a package.
    """

    name: str
    reason: str
    is_package: bool


@frozen
class Report:
    """What an agent does; see control.proto.

    Attributes:
        node: Its node.
        pod: Its pod.
        agent_version: Its version.
        digest: Of the configuration that it last took.
        rejected: Why it rejected that one.
        running: The probes that record.
        failures: What does not work.
        installed: The probes that it has.
        not_streaming: Why no events reach the server.
        packages: Name and version of what was installed when the pod started.
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
    def of(cls, message: control_pb2.Report) -> "Report":
        """Checks what came over the wire; sorts what has no order, so that equal things are equal. Raises ReportError."""
        if (size := message.ByteSize()) > MAX_BYTES:
            raise ReportError(f"a report of {size} bytes: at most {MAX_BYTES}")
        check_node(message.node)
        for name, text, most in (
            ("pod", message.pod, 253),
            ("agent_version", message.agent_version, 128),
            ("digest", message.digest, 64),
            ("rejected", message.rejected, 4096),
            ("not_streaming", message.not_streaming, 4096),
        ):
            if len(text) > most:
                raise ReportError(f"{name} of {len(text)} characters: at most {most}")
        for name, values in (
            ("running", message.running),
            ("failures", message.failures),
            ("installed", message.installed),
            ("packages", message.packages),
        ):
            if len(values) > _MANY:
                raise ReportError(f"{len(values)} of {name}: at most {_MANY}")
        return cls(
            message.node,
            message.pod,
            message.agent_version,
            message.digest,
            message.rejected,
            tuple(sorted({_named("running", name) for name in message.running})),
            tuple(
                sorted(
                    {_failure(failure) for failure in message.failures},
                    key=lambda f: (f.is_package, f.name, f.reason),
                )
            ),
            tuple(sorted({_named("installed", name) for name in message.installed})),
            message.not_streaming,
            tuple(
                sorted(
                    {
                        (_named("packages", package.name), package.version[:64])
                        for package in message.packages
                    }
                )
            ),
        )


def check_node(name: str) -> None:
    """Sees that a node's name is one. Raises ReportError."""
    if not _NODE.fullmatch(name):
        raise ReportError(f"node {name[:100]!r}: not the name of a Kubernetes node")


def _failure(failure: control_pb2.Failure) -> Failure:
    return Failure(
        _named("failures", failure.name),
        " ".join(failure.reason.split())[:1024],
        failure.is_package,
    )


def _named(field: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ReportError(f"{field}: {name[:100]!r} is not a probe's or package's name")
    return name
