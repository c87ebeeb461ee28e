"""Reads a settings file, TOML or YAML by its file name, into a table."""

import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infrasight_core.errors import ConfigError


def read_file(file: Path) -> Mapping[str, Any]:
    """Reads the table that a settings file holds; an empty file is an empty table.

    Error messages never quote the file's text, which may hold a secret.

    Raises:
        ConfigError: The file cannot be read, is malformed, or does not hold a table.
    """
    place = f"settings file {file}"
    if file.suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"{place}: its name must end in .toml, .yaml or .yml")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{place}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: byte {error.start} is not UTF-8") from error
    try:
        table = tomllib.loads(text) if file.suffix == ".toml" else _load_yaml(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: not TOML: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{place}: not YAML: {_describe_problem(error)}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{place}: not YAML: it contains forbidden characters") from None
    if not isinstance(table, Mapping | None):
        top_level = type(table).__name__
        raise ConfigError(f"{place}: expected keys and values at the top level, not {top_level}")
    return table or {}


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys; plain YAML silently uses the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    problem="duplicate key", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key.value, Hashable) else id(key))
        return super().construct_mapping(node, deep)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def _describe_problem(error: yaml.MarkedYAMLError) -> str:
    """Returns the problem and its position, without the part that PyYAML quotes from the file."""
    unquoted = (error.problem or error.context or "malformed").split("'")[0]
    problem = unquoted.strip().removesuffix(", but found")
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem
    return f"{problem} (at line {mark.line + 1}, column {mark.column + 1})"
