"""Parses a plugin's own table of the settings, `options.<plugin>`, into a frozen class."""

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import frozen

from infrasight_core.settings.reader import parse_table

T = TypeVar("T")


@frozen
class NoOptions:
    """The options of a plugin that has none: `options_of` rejects every key."""


def options_of(plugin: str, options: Mapping[str, Any], options_class: type[T]) -> T:
    """Parses a plugin's options.

    A plugin that publishes the class as `infrasight_options` has its options checked when the agent
    starts, and before the agent accepts new settings.

    Args:
        plugin: The plugin's entry-point name.
        options: The table `options.<plugin>` of the settings.
        options_class: A frozen attrs class; each attribute is an option and has a default.

    Raises:
        ConfigError: An option is unknown or has a value that is not allowed. The message names the
            option, its value and what is allowed.
    """
    return parse_table(options_class, dict(options), ("options", plugin), "the agent's settings")
