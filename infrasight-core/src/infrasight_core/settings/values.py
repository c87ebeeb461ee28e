"""Converts the values of settings to the types of their class, strictly.

A number is not accepted as text, nor text as a list. Only text from the environment or from a flag
is converted, because those sources hold nothing but text.
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


class RawText(str):
    """Text from the environment or a flag, which may stand for a value of another type."""

    __slots__ = ()


def make_converter() -> cattrs.Converter:
    """Returns a converter that raises on values of another type and on unknown keys."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

    def class_hook(cls: Any) -> Callable[[Any, Any], Any]:
        return _require_table(
            make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)
        )

    def mapping_hook(cls: Any) -> Callable[[Any, Any], Any]:
        return _require_table(mapping_structure_factory(cls, converter, structure_to=dict))

    scalars: dict[Any, Callable[[Any, Any], Any]] = {
        bool: _to_bool,
        int: _to_int,
        float: _to_float,
        str: _to_str,
        Path: _to_path,
    }
    for scalar, hook in scalars.items():
        converter.register_structure_hook(scalar, hook)
    converter.register_structure_hook_func(lambda t: t is Any, lambda value, _: _to_any(value))
    converter.register_structure_hook_func(_is_literal, _to_literal)
    converter.register_structure_hook_factory(attrs.has, class_hook)
    converter.register_structure_hook_factory(_is_mapping, mapping_hook)
    converter.register_structure_hook_factory(_is_sequence, lambda t: _list_hook(t, converter))
    return converter


def describe_type(wanted: Any) -> str:
    """Returns what a setting of this type may be, as part of an error message."""
    if get_origin(wanted) in (Union, types.UnionType):
        return describe_type(next(t for t in get_args(wanted) if t is not type(None)))
    if _is_literal(wanted):
        return f"one of {', '.join(map(str, get_args(wanted)))}"
    if attrs.has(wanted):
        return f"a table of {', '.join(a.name for a in attrs.fields(wanted))}"
    if _is_mapping(wanted):
        return "a table"
    if _is_sequence(wanted):
        return f"a list, each item {describe_type(get_args(wanted)[0])}"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
    }
    return names.get(wanted, str(wanted))


def split_list(text: str) -> list[str]:
    """Splits a text at its commas; empty items do not count."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_literal(wanted: Any) -> bool:
    return get_origin(wanted) is Literal


def _is_mapping(wanted: Any) -> bool:
    return get_origin(wanted) in (dict, Mapping)


def _is_sequence(wanted: Any) -> bool:
    return get_origin(wanted) in (tuple, frozenset)


def _to_bool(value: Any, _: Any) -> bool:
    if isinstance(value, RawText) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError


def _to_int(value: Any, _: Any) -> int:
    if isinstance(value, RawText) or type(value) is int:
        return int(value)
    raise ValueError


def _to_float(value: Any, _: Any) -> float:
    if isinstance(value, RawText) or type(value) in (int, float):
        return float(value)
    raise ValueError


def _to_str(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise ValueError


def _to_path(value: Any, _: Any) -> Path:
    if isinstance(value, str | Path) and str(value):
        return Path(value)
    raise ValueError


def _to_literal(value: Any, wanted: Any) -> Any:
    allowed = get_args(wanted)
    return allowed[allowed.index(value)]


def _to_any(value: Any) -> Any:
    """Converts an option whose type only its plugin knows: text that is JSON becomes that value."""
    if isinstance(value, Mapping):
        return {key: _to_any(item) for key, item in value.items()}
    if not isinstance(value, RawText):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return str(value)


def _items(value: Any) -> list[Any]:
    """Returns the items of a list; those of a repeated flag are raw text, too."""
    if isinstance(value, RawText):
        return [RawText(item) for item in split_list(value)]
    if isinstance(value, str) or not isinstance(value, AbstractSequence):
        raise ValueError
    if isinstance(value, tuple):
        return [RawText(item) if isinstance(item, str) else item for item in value]
    return list(value)


def _list_hook(wanted: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    collection: Callable[[list[Any]], Any] = get_origin(wanted)
    list_type: Any = types.GenericAlias(list, (get_args(wanted)[0],))
    structure = converter.get_structure_hook(list_type)
    return lambda value, _: collection(structure(_items(value), list_type))


def _require_table(
    structure: Callable[[Mapping[str, Any], Any], Any],
) -> Callable[[Any, Any], Any]:
    def structure_table(value: Any, wanted: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError
        return structure(value, wanted)

    return structure_table
