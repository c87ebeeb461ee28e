"""Settings of the agent's spool; the command reads them without opening SQLite."""

from types import MappingProxyType
from typing import Any

from attrs import field, frozen
from attrs.validators import gt, in_, optional

SYNCHRONIZATIONS = MappingProxyType({"never": "OFF", "checkpoint": "NORMAL", "batch": "FULL"})
"""When batches reach the disk itself, and SQLite's word for it."""
_OLDEST: Any = optional(gt(0))
NO_FOLDER = "none"
DROP_OLDEST = "oldest"
DROP_NEWEST = "newest"


@frozen
class SpoolSettings:
    """How batches are stored on disk until the server has acknowledged them.

    Attributes:
        folder: The folder, which no other user may enter; `none` to store batches in memory alone.
        bytes: The most bytes of batches on disk.
        days: The greatest age of a batch; an older one is dropped. None for any age.
        drop: Which batches a full spool drops: the `oldest` or the `newest`.
        synchronize: When batches reach the disk itself. `never`: when the kernel likes to; the end
            of the agent costs nothing, the end of the machine what the kernel had not written.
            `checkpoint`: with every few megabytes. `batch`: each before it is sent.
    """

    folder: str = "/var/lib/infrasight-agent/spool"
    bytes: int = field(default=1 << 30, validator=gt(0))
    days: float | None = field(default=7.0, validator=_OLDEST)
    drop: str = field(default=DROP_NEWEST, validator=in_((DROP_OLDEST, DROP_NEWEST)))
    synchronize: str = field(default="checkpoint", validator=in_(tuple(SYNCHRONIZATIONS)))
