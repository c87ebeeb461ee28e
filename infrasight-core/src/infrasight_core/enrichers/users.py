"""The enricher `users`: adds the names of user and group ids, from the host's files.

Where the files are those of this system, ids that they lack are looked up in its name service
(LDAP, sssd) beside the events. An id without a known name is null and therefore flagged, as is one
that is being looked up: the process may run in a container where the id has a name.
"""

import grp
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from infrasight_core.enrichers.async_lookup import AsyncLookup, LookupBounds
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.enrichers.user_database import NameDatabase
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1
OWN_ETC = Path("/etc")


@frozen
class UserOptions:
    """The options of the enricher `users`, in `options.users`.

    Attributes:
        etc: The folder with the host's `passwd` and `group`, as the agent sees it. Only with the
            default are ids also looked up in the system's name service.
    """

    etc: Path = OWN_ETC


infrasight_options = UserOptions


class NameResolver:
    """Resolves user and group ids to names.

    Args:
        options: The enricher's options.
    """

    def __init__(self, options: UserOptions) -> None:
        self._users = NameDatabase(options.etc / "passwd")
        self._groups = NameDatabase(options.etc / "group")
        self._service: AsyncLookup[tuple[str, int]] | None = None
        if options.etc == OWN_ETC:
            self._service = AsyncLookup("users", query_name_service, LookupBounds())

    def user_names(self, ids: list[int]) -> list[bytes | None]:
        """Returns the user names; None for an id whose name is not known."""
        return self._names("user", self._users, ids)

    def group_names(self, ids: list[int]) -> list[bytes | None]:
        """Returns the group names; None for an id whose name is not known."""
        return self._names("group", self._groups, ids)

    def close(self) -> None:
        """Ends the threads of the lookup."""
        if self._service:
            self._service.close()

    def _names(
        self, database_name: str, database: NameDatabase, ids: list[int]
    ) -> list[bytes | None]:
        table = database.table()
        if table is None:
            return [None] * len(ids)
        names = {number: table.name_of(number) for number in ids}
        if self._service:
            unknown = [(database_name, number) for number in ids if names[number] is None]
            for (_, number), answer in self._service.get(unknown).items():
                names[number] = answer or None
        return [names[number] for number in ids]


def query_name_service(question: tuple[str, int]) -> bytes:
    """Returns the name of a `user` or `group` id by the system's name service; empty if none."""
    database_name, number = question
    try:
        if database_name == "user":
            return os.fsencode(pwd.getpwuid(number).pw_name)
        return os.fsencode(grp.getgrgid(number).gr_name)
    except KeyError:  # the id has no name
        return b""
    except OverflowError:  # -1, which is no valid id
        return b""


_resolver = OptionState("users", UserOptions, lambda options, _: NameResolver(options))


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `user` and `group_name`; null for an id whose name is not known."""
    if context.side != "agent":
        return {}
    resolver = _resolver.of(context)
    return {
        "user": map_distinct(batch.column("uid"), resolver.user_names, pa.binary()),
        "group_name": map_distinct(batch.column("gid"), resolver.group_names, pa.binary()),
    }
