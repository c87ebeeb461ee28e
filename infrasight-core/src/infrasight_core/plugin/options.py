"""A plugin's own table of the settings, `options.<plugin>`, as a frozen class."""

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
from cattrs.errors import BaseValidationError

from infrasight_core.errors import ConfigError
from infrasight_core.settings.values import allowed, make_converter

T = TypeVar("T")


def options_of(plugin: str, options: Mapping[str, Any], kind: type[T]) -> T:
    """The options as what the plugin takes.

    A plugin that names the class as `infrasight_options` has its options checked when the agent starts and before it takes new
    settings.

    Args:
        plugin: Its name.
        options: As the settings have them.
        kind: A frozen attrs class; each attribute is an option and has a default.

    Raises:
        ConfigError: An option is unknown or has a value that is not allowed; the message names what is.
    """
    fields = {field.name: field for field in attrs.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - fields.keys()):
        raise ConfigError(
            f"options.{plugin}.{unknown[0]} is not known; {plugin} has {', '.join(fields) or 'no options'}"
        )
    converter, values = make_converter(), {}
    for name, value in options.items():
        try:
            values[name] = converter.structure(value, fields[name].type)
        except (BaseValidationError, ValueError, TypeError) as error:
            raise ConfigError(
                f"options.{plugin}.{name} = {value!r}: expected {allowed(fields[name].type)}"
            ) from error
    try:
        return kind(**values)
    except ValueError as error:  # a validator of the class
        raise ConfigError(f"options.{plugin}: {error.args[0]}") from error
