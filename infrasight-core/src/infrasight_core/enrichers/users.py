"""The enricher `users`: names of user and group ids, from the host's databases.

An id that the files lack is asked of the system's name service (LDAP, sssd), beside the data, where they are this system's own.
An id that nobody has a name for is null, and so flagged, as one is that is just being asked for: a process in a container may
well have a name there.
"""

import grp
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from infrasight_core.enrichers.async_lookup import AsyncLookup, Bounds
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.enrichers.user_database import Database
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1
OWN = Path("/etc")


@frozen
class Options:
    """What the enricher may be told, in `options.users`.

    Attributes:
        etc: The folder of `passwd` and `group`; the host's, as an agent in a container sees it.
    """

    etc: Path = OWN


infrasight_options = Options


class Users:
    """The databases and what was asked.

    Args:
        options: Where they are.
    """

    def __init__(self, options: Options) -> None:
        self._users, self._groups = (
            Database(options.etc / "passwd"),
            Database(options.etc / "group"),
        )
        self._service = AsyncLookup("users", asked, Bounds()) if options.etc == OWN else None

    def user_names(self, ids: list[int]) -> list[bytes | None]:
        """The users' names; None where one is not known."""
        return self._names("user", self._users, ids)

    def group_names(self, ids: list[int]) -> list[bytes | None]:
        """The groups' names; None where one is not known."""
        return self._names("group", self._groups, ids)

    def close(self) -> None:
        """Asks nothing more."""
        if self._service:
            self._service.close()

    def _names(self, kind: str, database: Database, ids: list[int]) -> list[bytes | None]:
        names = database.names()
        found = {number: names.of(number) if names else None for number in ids}
        if self._service and names:
            unknown = [(kind, number) for number in ids if found[number] is None]
            found |= {
                number: answer or None for (_, number), answer in self._service.get(unknown).items()
            }
        return [found[number] for number in ids]


def asked(question: tuple[str, int]) -> bytes:
    """What the system's name service says: the name of a user or a group; empty where there is none."""
    kind, number = question
    try:
        return os.fsencode(
            pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
        )
    except (KeyError, OverflowError):  # nobody has it; -1, which nobody can have
        return b""


_kept = OptionState("users", Options, Users)


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `user` and `group_name`; null where the id's name is not known."""
    if context.side != "agent":
        return {}
    users = _kept.of(context.options)
    return {
        "user": map_distinct(batch.column("uid"), users.user_names, pa.binary()),
        "group_name": map_distinct(batch.column("gid"), users.group_names, pa.binary()),
    }
