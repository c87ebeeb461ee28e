"""The columns of a batch that container runtimes know: names, images, pods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from infrasight.v1.stream_pb2 import Container

from infrasight_core.arrays import map_distinct, view
from infrasight_core.containers.metadata import ContainerMetadata
from infrasight_core.containers.options import ContainerOptions

# Columns of the header and the fields of `Container`; a container always has the first two.
_COLUMNS = {
    "container_name": "name",
    "container_image": "image",
    "pod_name": "pod_name",
    "pod_namespace": "pod_namespace",
    "pod_container": "pod_container",
}
_ALWAYS = ("name", "image")


class ContainerNames:
    """What enriching needs of the container runtimes.

    Args:
        options: The table `options.containers`.
        tell: `EnrichContext.tell`.

    Raises:
        ConfigError: An option is unknown, or has a value that is not allowed.
    """

    def __init__(self, options: Mapping[str, Any], tell: Callable[[Sequence[Container]], None]) -> None:
        self._metadata = ContainerMetadata(ContainerOptions.of(options), tell)

    def columns(self, container_ids: pa.DictionaryArray) -> dict[str, pa.Array]:
        """Five dictionary columns, which may take `options.containers.wait` seconds where a container is new.

        Args:
            container_ids: The column `container_id`: empty for no container, null where that could not be had.

        Returns:
            Of a row in no container empty values; null what could not be had, which is all where the id is null; an empty pod
            for a container in none.
        """
        ids: list[str] = container_ids.dictionary.to_pylist()
        codes = view(container_ids.indices)
        if container_ids.null_count:
            codes = np.where(view(container_ids.is_null().cast(pa.uint8())).astype(bool), -1, codes).astype(codes.dtype)
        found = self._found(ids, np.unique(codes).tolist())
        return {column: map_distinct(codes, partial(_values, found, name), pa.binary()) for column, name in _COLUMNS.items()}

    def _found(self, ids: Sequence[str], codes: Sequence[int]) -> dict[int, Container | None]:
        """What is known by code; -1 stands for an id that could not be had."""
        wanted = [code for code in codes if code >= 0 and ids[code]]
        known = self._metadata.known([ids[code] for code in wanted])
        return {**{code: None if code < 0 else _NONE for code in codes}, **dict(zip(wanted, known, strict=True))}

    def expect(self, container_ids: Iterable[str]) -> None:
        """Has containers looked up as they come about, before their first event; never waits."""
        self._metadata.expect(container_ids)

    def close(self) -> None:
        """Ends its threads."""
        self._metadata.close()


_NONE = Container()


def _values(found: Mapping[int, Container | None], field: str, codes: Iterable[int]) -> list[bytes | None]:
    return [_value(found[code], field) for code in codes]


def _value(container: Container | None, field: str) -> bytes | None:
    if container is None:
        return None
    value: bytes = getattr(container, field)
    return None if not value and field in _ALWAYS and container.container_id else value
