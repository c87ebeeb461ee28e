"""Bounds on what a peer may send. docs/limits.md lists them with the reason for each.

Everything here is checked before it costs memory or reaches the store.
"""

import re
import time
from typing import Final

from attrs import frozen
from infrasight.v1.stream_pb2 import Account, Hello

MAX_ID_BYTES: Final = 256
"""The longest node, probe, run, batch id, container id, message type, fingerprint and version."""
MAX_HELLO_BYTES: Final = 256 << 10
MAX_HELLO_PROBES: Final = 256
MAX_HELLO_SCHEMA_BYTES: Final = 64 << 10
MAX_BATCH_HEAD_BYTES: Final = 16 << 10
"""The largest size of a batch's message, except for its rows and its container updates."""
MAX_MESSAGES: Final = 10_000
"""The most rows that a batch may carry as protobuf messages."""
MAX_MESSAGES_BYTES: Final = 4 << 20
MAX_CONTAINERS: Final = 1_000
MAX_CONTAINERS_BYTES: Final = 4 << 20
MAX_CONTAINER_BYTES: Final = 256 << 10
MAX_ROWS: Final = 1_000_000
MAX_IPC_MESSAGES: Final = 256
"""The most messages of an Arrow IPC stream: its schema, its dictionaries and its record batches."""
MAX_IPC_METADATA_BYTES: Final = 256 << 10
MAX_BUFFERS: Final = 4_096
"""The most buffers of an Arrow record batch."""
MAX_DICTIONARY_VALUES: Final = 1_024
"""The most values of a dictionary in a batch with fewer rows; otherwise, as many as rows."""
MAX_DICTIONARY_VALUE_BYTES: Final = 4 << 10
MAX_VALUE_BYTES: Final = 1 << 20
MAX_LIST_ITEMS: Final = 8 << 20
"""The most items of a list or map column in one batch."""
MAX_DAYS: Final = 8
"""The most days that the events of a batch may span; each day is a partition of the table."""
MAX_DETAIL_LENGTH: Final = 1_000
"""The longest explanation of a rejection, in characters."""
MAX_COUNT: Final = 1 << 36
"""The greatest number of an account, which counts the events of one minute."""
MAX_UNANSWERED: Final = 1_000
"""The most requests of a stream that are not answered, or whose answers the agent does not read."""
MAX_STREAMS_PER_PEER: Final = 8
"""The most streams of an agent whose identity names its node."""
MAX_RPCS_BESIDE_STREAMS: Final = 256
"""The most queries and watchers, and streams that are about to be rejected."""
HELLO_SECONDS: Final = 30.0
"""How long a stream may take until its hello."""
STREAM_SECONDS: Final = 3600.0
"""How long a stream lasts at most where servers share a store, so that agents spread over them."""
NEWEST_AFTER_SECONDS: Final = 86_400
"""How far a node's clock may be ahead."""

_SECOND: Final = 10**9
_DAY: Final = 86_400
_WINDOW: Final = 60
_MAX_WINDOW: Final = (1 << 32) // _WINDOW - 1
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_NOT_COUNTS: Final = frozenset({"run", "window", "ended"})
COUNTS: Final = tuple(
    field.name for field in Account.DESCRIPTOR.fields if field.name not in _NOT_COUNTS
)
_SIGNED_COUNTS: Final = frozenset({"waiting", "in_progress"})
_GROWING_COUNTS: Final = tuple(
    name for name in COUNTS if name != "number" and name not in _SIGNED_COUNTS
)


@frozen
class BatchLimits:
    """The bounds that the server's settings determine.

    Attributes:
        max_batch_bytes: The largest size of a batch on the wire.
        max_decoded_bytes: The largest size of a batch's rows in memory.
        max_age_days: The greatest age of an event on arrival.
    """

    max_batch_bytes: int
    max_decoded_bytes: int
    max_age_days: int

    def accepted_seconds(self) -> range:
        """Returns the seconds since the epoch that an event or a window may have now."""
        now = int(time.time())
        return range(max(now - self.max_age_days * _DAY, 0), now + NEWEST_AFTER_SECONDS)


def find_identifier_violation(subject: str, text: str) -> str:
    """Returns why a text is no identifier; "" if it is one.

    Args:
        subject: What the text identifies, for the message.
        text: The text.
    """
    if len(text.encode()) > MAX_ID_BYTES:
        return f"{subject} is longer than {MAX_ID_BYTES} bytes"
    if not _IDENTIFIER.fullmatch(text):
        return f"{subject} {text!r} must consist of letters, digits and ._:@/+-"
    return ""


def find_hello_violation(hello: Hello) -> str:
    """Returns which bound a hello exceeds; "" for none."""
    if len(hello.probes) > MAX_HELLO_PROBES:
        return f"hello announces more than {MAX_HELLO_PROBES} probes"
    violation = find_identifier_violation("hello's node", hello.node)
    if violation:
        return violation
    texts = [hello.boot_id, hello.agent_version]
    for probe in hello.probes:
        texts += (probe.probe, probe.message_type, probe.fingerprint)
    if any(len(text) > MAX_ID_BYTES for text in texts):
        return f"a text of hello is longer than {MAX_ID_BYTES} characters"
    if any(len(probe.arrow_schema) > MAX_HELLO_SCHEMA_BYTES for probe in hello.probes):
        return f"a schema of hello is larger than {MAX_HELLO_SCHEMA_BYTES} bytes"
    return ""


def find_account_violation(account: Account, accepted_seconds: range) -> str:
    """Returns why an account is impossible; "" if it is possible.

    Args:
        account: The account.
        accepted_seconds: The seconds in which its window may begin.
    """
    violation = find_identifier_violation("the account's run", account.run)
    if violation:
        return violation
    is_overflow = account.window > _MAX_WINDOW
    if is_overflow or not _is_in(account.window * _WINDOW, accepted_seconds):
        return (
            f"the account's window {account.window} is too old or in the future; "
            "check the node's clock"
        )
    for name in COUNTS:
        if abs(getattr(account, name)) > MAX_COUNT:
            return f"the account's {name} is impossible: {getattr(account, name)}"
    return ""


def find_decrease(previous: Account, account: Account) -> str:
    """Returns which count of a window became smaller in its next account; "" if none did."""
    for name in _GROWING_COUNTS:
        before = getattr(previous, name)
        now = getattr(account, name)
        if now < before:
            return f"the account's {name} went back from {before} to {now}"
    return ""


def find_time_violation(first: int, last: int, accepted_seconds: range) -> str:
    """Returns why events are too old or in the future; "" if they are neither.

    Args:
        first: The time of the earliest event in nanoseconds since the epoch.
        last: The time of the latest event.
        accepted_seconds: The seconds in which an event may begin.
    """
    for moment in (first, last):
        if not _is_in(moment // _SECOND, accepted_seconds):
            side = "older than max_age_days" if moment == first else "in the future"
            return f"an event's time, {moment} ns, is {side}; check the node's clock"
    return ""


def window_of(batch_id: str, accepted_seconds: range) -> int:
    """Returns the window in a batch id; 0 if it has none, or an impossible one."""
    _, _, position = batch_id.partition("-")
    text = position.partition("-")[0]
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_WINDOW))):
        return 0
    window = int(text)
    return window if _is_in(window * _WINDOW, accepted_seconds) else 0


def _is_in(seconds: int, accepted_seconds: range) -> bool:
    # The window or second in which the oldest accepted moment lies begins before it.
    return accepted_seconds.start - _WINDOW <= seconds < accepted_seconds.stop
