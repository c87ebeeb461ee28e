"""Reads an operator's configuration of this node and merges it into the agent's own settings."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import Factory, evolve, frozen
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.settings.nesting import is_deeper
from infrasight_core.settings.reader import parse_table
from infrasight_core.settings.reserved_names import RESERVED_NAMES, describe_reserved

LONGEST_DIGEST = 256  # characters
_LARGEST_SETTINGS = 1 << 20  # characters
_MOST_NAMES = 1000  # probes, and plugins with options or filters
_SOURCE = "the operator's configuration"
_KEYS = ("probes", "options", "filters")
_WHOLE = "configuration"  # the name under which problems are reported that concern no plugin
_DEEPEST = 32  # levels of tables and lists in the options or filters of a plugin


@frozen
class NodeConfiguration:
    """A parsed configuration.

    Attributes:
        probes: The probes to run; if empty, nothing is recorded.
        options: The options of each plugin.
        filters: The filters of each probe, as in the agent's settings.
        invalid: What is invalid, by plugin, or by `configuration` for parts that belong to no
            plugin. It is left out of the other attributes, which hold everything else.
    """

    probes: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    filters: Mapping[str, Filters] = Factory(dict)
    invalid: Mapping[str, PluginError] = Factory(dict)

    @classmethod
    def parse(cls, message: Configuration) -> "NodeConfiguration":
        """Parses an operator's message, plugin by plugin.

        Raises:
            ConfigError: The settings are no JSON table, do not list the probes, or are too large.
        """
        if len(message.digest) > LONGEST_DIGEST:
            raise ConfigError(f"{_SOURCE}: its digest is longer than {LONGEST_DIGEST} characters")
        if len(message.settings) > _LARGEST_SETTINGS:
            raise ConfigError(
                f"{_SOURCE}: its settings have {len(message.settings)} characters; "
                f"at most {_LARGEST_SETTINGS} are allowed"
            )
        try:
            table = json.loads(message.settings)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{_SOURCE}: its settings are not JSON: {error}") from None
        if not isinstance(table, Mapping):
            raise ConfigError(f"{_SOURCE}: its settings are not a table")
        probes = table.get("probes")
        if not isinstance(probes, list):  # as an empty list, it would end all recording
            raise ConfigError(f"{_SOURCE}: its settings have no list `probes`")
        _check_number(table)
        parser = _Parser(table)
        names = parser.probes(probes)
        return cls(names, parser.options(), parser.filters(), parser.invalid)

    def merge_into(self, settings: AgentSettings) -> AgentSettings:
        """Returns the agent's settings with this configuration's probes, options and filters.

        The configuration's options and filters of a plugin replace the agent's own.
        """
        return evolve(
            settings,
            probes=self.probes,
            options={**settings.options, **self.options},
            filters={**settings.filters, **self.filters},
        )


class _Parser:
    """Parses the parts of a configuration; an invalid part does not affect the others.

    Attributes:
        invalid: What was invalid, by plugin.

    Args:
        table: The configuration.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.invalid: dict[str, PluginError] = {}
        self._table = table
        for key in table.keys() - set(_KEYS):
            self._reject(_WHOLE, "options", f"unknown key {key!r}; this agent is older")

    def probes(self, names: list[Any]) -> tuple[str, ...]:
        """Returns the probes to run."""
        probes = []
        for number, name in enumerate(names):
            if not isinstance(name, str):
                self._reject(_WHOLE, "options", f"probes[{number}]: expected text")
            elif name in RESERVED_NAMES:
                self._reject(name, "import", describe_reserved(name))
            else:
                probes.append(name)
        return tuple(dict.fromkeys(probes))

    def options(self) -> dict[str, Mapping[str, Any]]:
        """Returns the options of each plugin."""
        parsed = {}
        for name, value in self._entries("options"):
            if isinstance(value, Mapping):
                parsed[name] = value
            else:
                self._reject(name, "options", f"options.{name} ({_SOURCE}): expected a table")
        return parsed

    def filters(self) -> dict[str, Filters]:
        """Returns the filters of each probe."""
        parsed = {}
        for name, value in self._entries("filters"):
            try:
                parsed[name] = parse_table(Filters, value, ("filters", name), _SOURCE)
            except ConfigError as error:
                self._reject(name, "filters", str(error))
        return parsed

    def _entries(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yields the entries of a table by plugin, without those of reserved names."""
        table = self._table.get(key, {})
        if not isinstance(table, Mapping):
            self._reject(_WHOLE, "options", f"{key}: expected a table")
            return
        for name, value in table.items():
            if name in RESERVED_NAMES:
                self._reject(name, key, describe_reserved(name))
            elif is_deeper(value, _DEEPEST):
                reason = f"{key}.{name} ({_SOURCE}): nested more than {_DEEPEST} levels deep"
                self._reject(name, key, reason)
            else:
                yield name, value

    def _reject(self, plugin: str, hook: str, reason: str) -> None:
        self.invalid[plugin] = PluginError(plugin, hook, reason)


def _check_number(table: Mapping[str, Any]) -> None:
    """Raises ConfigError if a configuration names too many plugins."""
    names = {
        name
        for part in table.values()
        if isinstance(part, list | Mapping)
        for name in part
        if isinstance(name, str)
    }
    if len(names) > _MOST_NAMES:
        raise ConfigError(
            f"{_SOURCE}: it names {len(names)} plugins; at most {_MOST_NAMES} are allowed"
        )
