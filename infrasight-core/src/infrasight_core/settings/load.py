"""One frozen class of settings from a file, the environment and flags; the later wins.

Every error names the key, its value, where it came from and what is allowed. Values of keys that hold secrets are never shown.
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
from infrasight_core.settings.file import read_file
from infrasight_core.settings.values import Text, allowed, make_converter

T = TypeVar("T")
Keys = tuple[Any, ...]
_SECRET = re.compile(r"password|passwd|secret|token|credential", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^/\s]*@")
# Kubernetes puts these into every pod beside a service called `infrasight-server`; they are not settings of ours.
_SERVICE_LINK = re.compile(
    r"service_host|service_port(_\w+)?|port|port_\d+_(tcp|udp|sctp)(_(proto|port|addr))?"
)


def load(cls: type[T], *, file: Path | None, env_prefix: str, flags: Mapping[str, object]) -> T:
    """Reads the settings of a process.

    Args:
        cls: A frozen attrs class; its attributes are the keys, attrs classes within it are tables.
        file: A TOML or YAML file; None for the one that `<env_prefix>CONFIG` names, if any.
        env_prefix: With `INFRASIGHT_AGENT_`, the variable `INFRASIGHT_AGENT_TLS__KEY` is the key `tls.key`. Lists are separated
            by commas. A variable that is empty counts as not set.
        flags: Values by key, `tls.key` for nested ones, as text or typed; None and () count as not given.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, or a value is not allowed.
    """
    environment = {
        k.removeprefix(env_prefix).lower(): (k, v)
        for k, v in os.environ.items()
        if k.startswith(env_prefix) and v
    }
    _, named = environment.pop("config", ("", ""))
    settings = _Settings()
    if file is not None or named:
        settings.add((), read_file(path := file or Path(named)), str(path))
    names = {a.name for a in attrs.fields(cls)}  # type: ignore[arg-type]
    for key, (variable, value) in environment.items():
        if key in names or not _SERVICE_LINK.fullmatch(key):
            settings.add(tuple(key.split("__")), Text(value), variable)
    for key, given in flags.items():
        if given is not None and given != ():
            option = "--" + key.replace(".", "-").replace("_", "-")
            settings.add(
                tuple(key.split(".")), Text(given) if isinstance(given, str) else given, option
            )
    try:
        return make_converter().structure(settings.table, cls)
    except BaseValidationError as error:
        raise ConfigError(
            "; ".join(settings.explained(error))
        ) from None  # the cause would show every value


def options_of(plugin: str, cls: type[T], options: Mapping[str, Any]) -> T:
    """A plugin's own table, `options.<plugin>`, as a frozen attrs class.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not allowed.
    """
    return read(cls, dict(options), ("options", plugin), "the agent's settings")


def read(cls: type[T], value: Any, keys: tuple[str, ...], source: str) -> T:
    """A table as a frozen attrs class.

    Args:
        cls: As for `load`.
        value: What should be the table.
        keys: Where it lies within the settings, for errors.
        source: Where it came from, for errors.

    Raises:
        ConfigError: It is no table, a key is unknown or missing, or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_named(keys) or 'settings'} ({source}): expected {allowed(cls)}")
    settings = _Settings()
    settings.add(keys, value, source)
    try:
        return make_converter().structure(value, cls)
    except BaseValidationError as error:
        raise ConfigError("; ".join(settings.explained(error, keys))) from None


def named_file(env_prefix: str) -> Path | None:
    """The file that the environment names, if any."""
    named = os.environ.get(f"{env_prefix}CONFIG")
    return Path(named) if named else None


class _Settings:
    """A table that grows, and where each of its values came from."""

    def __init__(self) -> None:
        self.table: dict[Any, Any] = {}
        self._sources: dict[Keys, str] = {}

    def add(self, keys: Keys, value: Any, source: str) -> None:
        if isinstance(value, Mapping) and (value or not keys):
            for key, item in value.items():
                self.add((*keys, str(key)), item, source)
            return
        table = self.table
        for key in keys[:-1]:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = table[key]
        table[keys[-1]] = value
        self._sources[keys] = source

    def explained(self, error: BaseException, keys: Keys = (), kind: Any = None) -> Iterator[str]:
        """One line for each thing that is wrong."""
        if isinstance(error, ForbiddenExtraKeysError):
            known = [a.name for a in attrs.fields(error.cl)]
            for key in sorted(error.extra_fields):
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                yield f"unknown key {_named((*keys, key))} ({self._source((*keys, key))}): {hint}"
        elif isinstance(error, BaseValidationError):
            for inner in error.exceptions:
                note = _note(inner)
                if note is None:
                    yield from self.explained(inner, keys)
                else:
                    yield from self.explained(inner, (*keys, _key(note)), note.type)
        elif isinstance(error, KeyError):
            yield f"{_named(keys)} is not set ({self._source(keys)}): expected {allowed(kind)}"
        elif (
            kind is None
        ):  # the class itself refused: a validator of attrs, whose message begins with the attribute's name
            name, _, said = (
                str(error.args[0] if error.args else error).removeprefix("'").partition("' ")
            )
            yield self._refused((*keys, name), said) if said else _masked(name)
        else:
            yield self._refused(keys, f"expected {allowed(kind)}")

    def _refused(self, keys: Keys, why: str) -> str:
        if any(_SECRET.search(str(key)) for key in keys):
            return f"{_named(keys)} ({self._source(keys)}): its value is not allowed"
        value: Any = self.table
        for key in keys:
            value = value[key] if isinstance(value, Mapping) and key in value else _item(value, key)
        shown = (
            "a table"
            if isinstance(value, Mapping)
            else "a list"
            if isinstance(value, list)
            else repr(value)
        )
        return _masked(f"{_named(keys)} = {shown[:100]} ({self._source(keys)}): {why}")

    def _source(self, keys: Keys) -> str:
        for length in range(len(keys), 0, -1):
            for known, source in self._sources.items():
                if known[:length] == keys[:length]:
                    return source
        return "in no file, variable or option"


def _item(value: Any, index: Any) -> Any:
    """An item of a list, which may still be one text with commas."""
    items = [i.strip() for i in value.split(",") if i.strip()] if isinstance(value, str) else value
    return items[index] if isinstance(items, list | tuple) and isinstance(index, int) else value


def _note(error: BaseException) -> AttributeValidationNote | IterableValidationNote | None:
    notes = getattr(error, "__notes__", ())
    return next(
        (n for n in notes if isinstance(n, AttributeValidationNote | IterableValidationNote)), None
    )


def _key(note: AttributeValidationNote | IterableValidationNote) -> Any:
    return note.name if isinstance(note, AttributeValidationNote) else note.index


def _named(keys: Keys) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).removeprefix(".")


def _masked(text: str) -> str:
    return _URL_USER.sub("…@", text)
