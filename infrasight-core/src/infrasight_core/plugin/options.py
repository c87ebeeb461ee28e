"""Parses a plugin's own table of the settings, `options.<plugin>`, into its options class."""

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import frozen

from infrasight_core.settings.reader import parse_table

T = TypeVar("T")


@frozen
class NoOptions:
    """The options class of a plugin that declares none."""


def options_of(plugin: str, options: Mapping[str, Any], options_class: type[T]) -> T:
    """Parses the options of a plugin.

    A plugin declares its options class as `infrasight_options`. The agent then validates the
    options when it starts and before it applies new settings. A plugin that declares no class
    has no options, and the agent rejects any that are set.

    Args:
        plugin: The plugin's name.
        options: The table `options.<plugin>` of the settings.
        options_class: A frozen attrs class; each attribute is an option and has a default.

    Raises:
        ConfigError: An option is unknown, or its value is not allowed.
    """
    return parse_table(options_class, dict(options), ("options", plugin), "the agent's settings")
