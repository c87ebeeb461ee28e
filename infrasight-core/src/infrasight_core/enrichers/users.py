"""The enricher `users`: names of user ids, from the host's user database."""

import os
import pwd
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from infrasight_core.arrays import map_distinct
from infrasight_core.context import EnrichContext
from infrasight_core.hookspecs import hookimpl

infrasight_api = 1
DATABASE = Path("/etc/passwd")


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `user` and `group_name`, empty where the id has no name."""
    if context.side != "agent":
        return {}
    version = DATABASE.stat().st_mtime_ns if DATABASE.exists() else 0
    return {"user": map_distinct(batch.column("uid"), lambda uids: [name_of(uid, version) for uid in uids], pa.binary())}


@lru_cache(maxsize=4096)
def name_of(uid: int, version: int) -> bytes:
    """The user's name as the bytes of the database; empty where there is none, which is remembered too.

    Args:
        uid: The user's id.
        version: Of the database: a changed one is asked anew.
    """
    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):  # no such user; an id that no database can have
        return b""
