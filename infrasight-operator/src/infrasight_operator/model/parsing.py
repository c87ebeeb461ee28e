"""Objects of the API as frozen values: camelCase becomes snake_case, what we do not know is left out."""

import re
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, override

from infrasight_operator.errors import ObjectError

T = TypeVar("T")


def camel(name: str) -> str:
    """`extra_urls` as the API writes it: `extraUrls`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _renamed(kind: type[Any]) -> dict[str, Any]:
    return {field.name: override(rename=camel(field.name)) for field in attrs.fields(kind)}


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook_factory(
        attrs.has,
        lambda kind: make_dict_structure_fn(kind, converter, **_renamed(kind)),
    )
    # What the API server has let in is of the schema's types already: texts that look like numbers must stay texts.
    converter.register_structure_hook(int | str, lambda value, _: value)
    return converter


_CONVERTER = _converter()


def read(what: str, value: Any, kind: type[T]) -> T:
    """One object's part as a value.

    Raises:
        ObjectError: It is not of this form, as when it was stored under an older schema.
    """
    try:
        return _CONVERTER.structure(value, kind)
    except BaseValidationError as error:
        reasons = "; ".join(cattrs.transform_error(error))
        raise ObjectError(
            f"{what}: {reasons}; write it anew, or bring the CRDs and the operator to one version"
        ) from error
