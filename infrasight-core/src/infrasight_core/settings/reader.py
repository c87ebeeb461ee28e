"""Reads settings from a file, the environment and flags into one frozen class; later sources win.

Every error names the key, its value, its source and what is allowed. The values of keys that hold
secrets are never shown.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from infrasight_core.errors import ConfigError
from infrasight_core.settings.credentials import hide_url_credentials, is_secret
from infrasight_core.settings.file import read_file
from infrasight_core.settings.values import RawText, describe_type, make_converter, split_list

T = TypeVar("T")
Keys = tuple[Any, ...]
# Kubernetes sets these variables in every pod that runs beside a service called
# `infrasight-server`. They are not settings.
_SERVICE_LINK = re.compile(
    r"service_host|service_port(_\w+)?|port|port_\d+_(tcp|udp|sctp)(_(proto|port|addr))?"
)
_FILE_KEY = "CONFIG"  # the variable `<prefix>CONFIG` names the settings file
_LONGEST_SHOWN_VALUE = 100  # characters


def read_settings(
    cls: type[T], *, file: Path | None, env_prefix: str, flags: Mapping[str, object]
) -> T:
    """Reads the settings of a process.

    Args:
        cls: A frozen attrs class. Its attributes are the keys; nested attrs classes are tables.
        file: A TOML or YAML file. None reads the file that `<env_prefix>CONFIG` names, if any.
        env_prefix: The prefix of the environment variables. With `INFRASIGHT_AGENT_`, the variable
            `INFRASIGHT_AGENT_TLS__KEY` sets the key `tls.key`. Commas separate the items of a
            list. An empty variable counts as unset.
        flags: Values by key, as text or typed; `tls.key` names a nested key. None and () count as
            not given.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, or a value is not
            allowed.
    """
    settings = _Table()
    path = file or file_from_environment(env_prefix)
    if path is not None:
        settings.add((), read_file(path), str(path))
    known_keys = {attribute.name for attribute in attrs.fields(cls)}  # type: ignore[arg-type]
    for variable, text in os.environ.items():
        if not variable.startswith(env_prefix) or not text:
            continue
        key = variable.removeprefix(env_prefix).lower()
        is_setting = key in known_keys or not _SERVICE_LINK.fullmatch(key)
        if is_setting and key != _FILE_KEY.lower():
            settings.add(tuple(key.split("__")), RawText(text), variable)
    for key, value in flags.items():
        if value is None or value == ():
            continue
        option = "--" + key.replace(".", "-").replace("_", "-")
        given = RawText(value) if isinstance(value, str) else value
        settings.add(tuple(key.split(".")), given, option)
    return settings.structure(cls, settings.values)


def parse_table(cls: type[T], table: Any, keys: tuple[str, ...], source: str) -> T:
    """Converts one table to a frozen attrs class.

    Args:
        cls: As for `read_settings`.
        table: The value that should be a table.
        keys: The table's place within the settings, for error messages.
        source: The origin of the table, for error messages.

    Raises:
        ConfigError: The value is not a table, a key is unknown or missing, or a value is not
            allowed.
    """
    if not isinstance(table, Mapping):
        name = _join(keys) or "settings"
        raise ConfigError(f"{name} ({source}): expected {describe_type(cls)}")
    settings = _Table()
    settings.add(keys, table, source)
    return settings.structure(cls, table, keys)


def file_from_environment(env_prefix: str) -> Path | None:
    """Returns the settings file that the variable `<env_prefix>CONFIG` names, if any."""
    name = os.environ.get(f"{env_prefix}{_FILE_KEY}")
    return Path(name) if name else None


class _Table:
    """Values merged from several sources, and the source of each of them."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self._sources: dict[Keys, str] = {}

    def add(self, keys: Keys, value: Any, source: str) -> None:
        """Sets a value, or merges a table key by key."""
        if isinstance(value, Mapping) and (value or not keys):
            for key, item in value.items():
                self.add((*keys, str(key)), item, source)
            return
        table = self.values
        for key in keys[:-1]:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = table[key]
        table[keys[-1]] = value
        self._sources[keys] = source

    def structure(self, cls: type[T], table: Mapping[Any, Any], keys: Keys = ()) -> T:
        """Converts the table at a place within these values. Raises ConfigError."""
        try:
            return make_converter().structure(table, cls)
        except BaseValidationError as error:
            # The cause is suppressed because it would show every value, secrets included.
            raise ConfigError("; ".join(self._explain(error, keys))) from None

    def _explain(self, error: BaseException, keys: Keys, wanted: Any = None) -> Iterator[str]:
        """Yields one message for each problem that a validation error holds."""
        if isinstance(error, ForbiddenExtraKeysError):
            allowed_keys = [attribute.name for attribute in attrs.fields(error.cl)]
            for key in sorted(error.extra_fields):
                unknown = (*keys, key)
                hint = _suggest(key, allowed_keys)
                yield f"unknown key {_join(unknown)} ({self._source(unknown)}): {hint}"
        elif isinstance(error, BaseValidationError):
            for inner in error.exceptions:
                note = _validation_note(inner)
                if note is None:
                    yield from self._explain(inner, keys)
                else:
                    yield from self._explain(inner, (*keys, _key_of(note)), note.type)
        elif isinstance(error, KeyError):
            expected = describe_type(wanted)
            yield f"{_join(keys)} is not set ({self._source(keys)}): expected {expected}"
        elif wanted is None:
            # A validator of the attrs class failed. Its message begins with the attribute's name.
            message = str(error.args[0] if error.args else error)
            name, _, reason = message.removeprefix("'").partition("' ")
            yield self._invalid((*keys, name), reason) if reason else hide_url_credentials(message)
        else:
            yield self._invalid(keys, f"expected {describe_type(wanted)}")

    def _invalid(self, keys: Keys, reason: str) -> str:
        if any(is_secret(str(key)) for key in keys):
            return f"{_join(keys)} ({self._source(keys)}): its value is not allowed"
        shown = _show(self._value(keys))
        return hide_url_credentials(f"{_join(keys)} = {shown} ({self._source(keys)}): {reason}")

    def _value(self, keys: Keys) -> Any:
        value: Any = self.values
        for key in keys:
            value = _child(value, key)
        return value

    def _source(self, keys: Keys) -> str:
        """Returns the source of a key, or of the nearest table that holds it."""
        for length in range(len(keys), 0, -1):
            for known, source in self._sources.items():
                if known[:length] == keys[:length]:
                    return source
        return "in no file, variable or option"


def _suggest(key: str, allowed_keys: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed_keys, 1)
    if close:
        return f"did you mean {close[0]}?"
    if not allowed_keys:
        return "no keys are allowed here"
    return f"allowed are {', '.join(allowed_keys)}"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:_LONGEST_SHOWN_VALUE]


def _child(value: Any, key: Any) -> Any:
    """Returns the value of a key in a table, or an item of a list; else the value itself.

    A list may still be one text with commas.
    """
    if isinstance(value, Mapping):
        return value.get(key, value)
    items = split_list(value) if isinstance(value, str) else value
    return items[key] if isinstance(items, list | tuple) and isinstance(key, int) else value


def _validation_note(
    error: BaseException,
) -> AttributeValidationNote | IterableValidationNote | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            return note
    return None


def _key_of(note: AttributeValidationNote | IterableValidationNote) -> Any:
    return note.name if isinstance(note, AttributeValidationNote) else note.index


def _join(keys: Keys) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).removeprefix(".")
