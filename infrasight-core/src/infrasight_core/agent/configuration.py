"""Reads an operator's configuration of this node and merges it into the agent's own settings."""

import json
from collections.abc import Mapping
from typing import Any

from attrs import Factory, evolve, frozen
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.settings.reader import parse_table

LONGEST_DIGEST = 256  # characters
_LARGEST_SETTINGS = 1 << 20  # characters
_MOST_NAMES = 1000  # probes, and plugins with options or filters
_SOURCE = "the operator's configuration"


@frozen
class _MessageSettings:
    """The JSON of the message, before the tables of single plugins are parsed."""

    probes: tuple[str, ...] = ()
    options: Mapping[str, Any] = Factory(dict)
    filters: Mapping[str, Any] = Factory(dict)


@frozen
class NodeConfiguration:
    """A parsed configuration.

    Attributes:
        probes: The probes to run; if empty, nothing is recorded.
        options: The options of each plugin.
        filters: The filters of each probe, as in the agent's settings.
        invalid: Why the options or filters of single plugins are invalid, by plugin. They are left
            out of `options` and `filters`.
    """

    probes: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    filters: Mapping[str, Filters] = Factory(dict)
    invalid: Mapping[str, PluginError] = Factory(dict)

    @classmethod
    def parse(cls, message: Configuration) -> "NodeConfiguration":
        """Parses an operator's message.

        Raises:
            ConfigError: The settings are not JSON, a key is not allowed, the filters of all probes
                are invalid, or something is too large.
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
        settings = parse_table(_MessageSettings, table, (), _SOURCE)
        names = {*settings.probes, *settings.options, *settings.filters}
        if len(names) > _MOST_NAMES:
            raise ConfigError(
                f"{_SOURCE}: it names {len(names)} plugins; at most {_MOST_NAMES} are allowed"
            )
        options: dict[str, Mapping[str, Any]] = {}
        filters: dict[str, Filters] = {}
        invalid: dict[str, PluginError] = {}
        for name, value in settings.options.items():
            if isinstance(value, Mapping):
                options[name] = value
            else:
                reason = f"options.{name} ({_SOURCE}): expected a table"
                invalid[name] = PluginError(name, "options", reason)
        for name, value in settings.filters.items():
            try:
                filters[name] = parse_table(Filters, value, ("filters", name), _SOURCE)
            except ConfigError as error:
                if name == "all":  # every probe is affected
                    raise
                invalid[name] = PluginError(name, "filters", str(error))
        return cls(tuple(dict.fromkeys(settings.probes)), options, filters, invalid)

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
