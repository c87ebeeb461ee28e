"""Builds the columns of a batch that container runtimes know: names, images and pods."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.cgroup_index import Claim
from infrasight_core.containers.metadata_lookup import MetadataLookup
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.plugin.arrays import dictionary_array, null_rows, view

# The header's columns and the fields of `Container` that fill them.
FIELD_OF_COLUMN = {
    "container_name": "name",
    "container_image": "image",
    "pod_name": "pod_name",
    "pod_namespace": "pod_namespace",
    "pod_container": "pod_container",
}
# Every container has these fields: an empty one is unknown.
_REQUIRED_FIELDS = ("name", "image")
_NO_CONTAINER = Container()


class ContainerColumnBuilder:
    """Builds the container columns of batches from the metadata of the container runtimes.

    Args:
        options: The enricher's options.
        publish: `EnrichContext.publish`.
    """

    def __init__(
        self, options: ContainerOptions, publish: Callable[[Sequence[Container]], None]
    ) -> None:
        self._lookup = MetadataLookup(options, publish)

    def build(self, container_ids: pa.DictionaryArray) -> dict[str, pa.Array]:
        """Builds one dictionary column for each entry of `FIELD_OF_COLUMN`.

        It may wait up to `options.containers.wait` seconds for a container that is new.

        Args:
            container_ids: The column `container_id`: empty outside of containers, null if the
                container is unknown.

        Returns:
            Columns whose values are empty in rows outside of containers and null where a value is
            unknown. The pod columns are empty for a container that is not in a pod.
        """
        ids: list[str | None] = [*container_ids.dictionary.to_pylist(), None]
        codes = view(container_ids.indices)
        if container_ids.null_count:
            codes = np.where(null_rows(container_ids), len(ids) - 1, codes)
        used_codes = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
        containers = self._containers([ids[code] for code in used_codes])
        columns = {}
        for column, field in FIELD_OF_COLUMN.items():
            values = [_value(container, field) for container in containers]
            columns[column] = _column(codes, used_codes, values)
        return columns

    def prefetch(self, container_ids: Iterable[str]) -> None:
        """Starts the lookup of new containers, before their first event; never waits."""
        self._lookup.prefetch(container_ids)

    def confirm(self, claims: Sequence[Claim]) -> frozenset[Claim]:
        """Returns the claims that a runtime confirms; may wait as `build` does."""
        return self._lookup.confirm(claims)

    def close(self) -> None:
        """Ends the threads of the lookup."""
        self._lookup.close()

    def _containers(self, ids: Sequence[str | None]) -> list[Container | None]:
        """Returns the metadata by id; `_NO_CONTAINER` for an empty id, None if it is unknown."""
        wanted = [container_id for container_id in ids if container_id]
        metadata = dict(zip(wanted, self._lookup.look_up(wanted), strict=True))
        containers: list[Container | None] = []
        for container_id in ids:
            if container_id == "":
                containers.append(_NO_CONTAINER)
            else:
                containers.append(metadata.get(container_id) if container_id else None)
        return containers


def _value(container: Container | None, field: str) -> bytes | None:
    if container is None:
        return None
    value: bytes = getattr(container, field)
    is_unknown = not value and field in _REQUIRED_FIELDS and container.container_id
    return None if is_unknown else value


def _column(
    codes: npt.NDArray[Any], used_codes: npt.NDArray[Any], values: Sequence[bytes | None]
) -> pa.DictionaryArray:
    """Builds a column from the value of each code that is used.

    One table lookup serves all rows, of which there may be many.
    """
    value_code = {value: code for code, value in enumerate(dict.fromkeys(values))}
    table = np.zeros(used_codes[-1] + 1 if len(used_codes) else 0, np.int32)
    table[used_codes] = [value_code[value] for value in values]
    return dictionary_array(table[codes], list(value_code), pa.binary())
