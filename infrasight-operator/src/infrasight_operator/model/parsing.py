"""Parses Kubernetes objects into frozen values: camelCase to snake_case, unknown fields ignored."""

import re
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, override

from infrasight_operator.errors import ObjectError

T = TypeVar("T")


def to_camel_case(name: str) -> str:
    """Converts `extra_urls` to `extraUrls`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _field_overrides(cls: type[Any]) -> dict[str, Any]:
    return {field.name: override(rename=to_camel_case(field.name)) for field in attrs.fields(cls)}


def _build_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook_factory(
        attrs.has,
        lambda cls: make_dict_structure_fn(cls, converter, **_field_overrides(cls)),
    )
    # The API server has validated the types already. Text that looks like a number stays text.
    converter.register_structure_hook(int | str, lambda value, _: value)
    return converter


_CONVERTER = _build_converter()


def parse(name: str, value: Any, cls: type[T]) -> T:
    """Parses a part of an object.

    Args:
        name: The object, for the error message.
        value: The part, as JSON values.
        cls: The attrs class to build.

    Raises:
        ObjectError: The part does not match the class, for example because it was stored under an
            older schema.
    """
    try:
        return _CONVERTER.structure(value, cls)
    except BaseValidationError as error:
        reasons = "; ".join(cattrs.transform_error(error))
        raise ObjectError(
            f"{name}: {reasons}; apply the object again, or install the CRDs and the operator of "
            "the same version"
        ) from error
