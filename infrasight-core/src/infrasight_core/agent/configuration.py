"""What an operator wants of this node: read from its message, and laid over the agent's own settings."""

import json
from collections.abc import Mapping
from typing import Any

from attrs import Factory, evolve, frozen
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.settings.reader import parse_table

_SOURCE = "the operator's configuration"


@frozen
class _Settings:
    probes: tuple[str, ...] = ()
    options: Mapping[str, Any] = Factory(dict)
    filters: Mapping[str, Any] = Factory(dict)


@frozen
class NodeConfiguration:
    """A configuration that could be read.

    Attributes:
        probes: Which probes run; none: nothing is recorded.
        options: Of probes and enrichers, by plugin.
        filters: As in the agent's settings.
        wrong: What is wrong with single plugins' options or filters, by plugin; they are in neither of the above.
    """

    probes: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    filters: Mapping[str, Filters] = Factory(dict)
    wrong: Mapping[str, PluginError] = Factory(dict)

    @classmethod
    def read(cls, message: Configuration) -> "NodeConfiguration":
        """Reads the message's settings.

        Raises:
            ConfigError: They are not JSON, hold a key that may not change, or what concerns every probe is wrong.
        """
        try:
            table = json.loads(message.settings)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{_SOURCE}: its settings are not JSON: {error}") from None
        settings = parse_table(_Settings, table, (), _SOURCE)
        options: dict[str, Mapping[str, Any]] = {}
        filters: dict[str, Filters] = {}
        wrong: dict[str, PluginError] = {}
        for name, given in settings.options.items():
            if isinstance(given, Mapping):
                options[name] = given
            else:
                wrong[name] = PluginError(
                    name, "options", f"options.{name} ({_SOURCE}): expected a table"
                )
        for name, given in settings.filters.items():
            try:
                filters[name] = parse_table(Filters, given, ("filters", name), _SOURCE)
            except ConfigError as error:
                if name == "all":  # no probe can be recorded as wanted
                    raise
                wrong[name] = PluginError(name, "filters", str(error))
        return cls(tuple(dict.fromkeys(settings.probes)), options, filters, wrong)

    def over(self, settings: AgentSettings) -> AgentSettings:
        """The settings with these in their place: the probes, and by plugin the options and filters."""
        return evolve(
            settings,
            probes=self.probes,
            options={**settings.options, **self.options},
            filters={**settings.filters, **self.filters},
        )
