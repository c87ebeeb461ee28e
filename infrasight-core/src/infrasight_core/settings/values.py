"""How a setting's value becomes what its class wants, strictly: a number is never taken for text, nor text for a list.

Only text from the environment or from a flag is converted, because nothing else can be written there.
"""

import json
import types
from collections.abc import Callable, Mapping
from collections.abc import Sequence as AbstractSequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

_BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Text(str):
    """A value that could only be written as text."""

    __slots__ = ()


def make_converter() -> cattrs.Converter:
    """A converter whose structuring raises on what is not exactly of the wanted type, and on unknown keys."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    scalars: dict[Any, Callable[[Any, Any], Any]] = {
        bool: _bool,
        int: _int,
        float: _float,
        str: _str,
        Path: _path,
    }
    for kind, hook in scalars.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda t: t is Any, lambda value, _: _any(value))
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_factory(
        attrs.has,
        lambda t: _table(make_dict_structure_fn(t, converter, _cattrs_forbid_extra_keys=True)),
    )
    converter.register_structure_hook_factory(
        _is_mapping, lambda t: _table(mapping_structure_factory(t, converter, structure_to=dict))
    )
    converter.register_structure_hook_factory(_is_sequence, lambda t: _sequence(t, converter))
    return converter


def allowed(kind: Any) -> str:
    """What a setting of this type may be, for people."""
    if get_origin(kind) in (Union, types.UnionType):
        return allowed(next(t for t in get_args(kind) if t is not type(None)))
    if _is_literal(kind):
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if attrs.has(kind):
        return f"a table of {', '.join(a.name for a in attrs.fields(kind))}"
    if _is_mapping(kind):
        return "a table"
    if _is_sequence(kind):
        return f"a list, each item {allowed(get_args(kind)[0])}"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
    }
    return names.get(kind, str(kind))


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping)


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) in (tuple, frozenset)


def _bool(value: Any, _: Any) -> bool:
    if isinstance(value, Text) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError


def _int(value: Any, _: Any) -> int:
    if isinstance(value, Text) or type(value) is int:
        return int(value)
    raise ValueError


def _float(value: Any, _: Any) -> float:
    if isinstance(value, Text) or type(value) in (int, float):
        return float(value)
    raise ValueError


def _str(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise ValueError


def _path(value: Any, _: Any) -> Path:
    if isinstance(value, str | Path) and str(value):
        return Path(value)
    raise ValueError


def _literal(value: Any, kind: Any) -> Any:
    return get_args(kind)[get_args(kind).index(value)]


def _any(value: Any) -> Any:
    """A plugin's own option: text that reads as a number or a boolean is one."""
    if isinstance(value, Mapping):
        return {key: _any(item) for key, item in value.items()}
    if not isinstance(value, Text):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return str(value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, Text):
        return [Text(item.strip()) for item in value.split(",") if item.strip()]
    if isinstance(value, AbstractSequence) and not isinstance(value, str):
        return [
            Text(item) if isinstance(value, tuple) and isinstance(item, str) else item
            for item in value
        ]
    raise ValueError


def _sequence(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    collection: Callable[[list[Any]], Any] = get_origin(kind)
    listed: Any = types.GenericAlias(list, (get_args(kind)[0],))
    structure = converter.get_structure_hook(listed)
    return lambda value, _: collection(structure(_items(value), listed))


def _table(structure: Callable[[Mapping[str, Any], Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError
        return structure(value, kind)

    return checked
