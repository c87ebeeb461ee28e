"""A configuration file as a table: TOML or YAML, by its name's ending."""

import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infrasight_core.errors import ConfigError


def read_file(file: Path) -> Mapping[str, Any]:
    """The file's table; empty for an empty file.

    Raises:
        ConfigError: It cannot be read, is malformed, or is no table; its text, which may be a secret, is not in the message.
    """
    if file.suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"configuration file {file}: its name must end in .toml, .yaml or .yml")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"configuration file {file}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration file {file}: byte {error.start} is not UTF-8") from error
    try:
        table = (
            tomllib.loads(text) if file.suffix == ".toml" else yaml.load(text, _Loader)
        )  # a SafeLoader
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {file}: not TOML: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"configuration file {file}: not YAML: {_what(error)}") from None
    except yaml.YAMLError:
        raise ConfigError(
            f"configuration file {file}: not YAML: it holds characters that YAML forbids"
        ) from None
    if not isinstance(table, Mapping | None):
        raise ConfigError(
            f"configuration file {file}: expected keys and values at the top, not {type(table).__name__}"
        )
    return table or {}


class _Loader(yaml.SafeLoader):
    """Refuses what plain YAML lets pass silently: the same key twice, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    problem="the same key twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key.value, Hashable) else id(key))
        return super().construct_mapping(node, deep)


def _what(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    said = (error.problem or error.context or "malformed").split("'")[
        0
    ]  # what is quoted is the file's text
    problem = said.strip().removesuffix(", but found")
    return f"{problem} (at line {mark.line + 1}, column {mark.column + 1})" if mark else problem
