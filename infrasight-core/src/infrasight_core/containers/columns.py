"""The columns of a batch that container runtimes know: names, images, pods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.metadata import ContainerMetadata
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.plugin.arrays import dictionary_array, view
from infrasight_core.plugin.options import options_of

# Columns of the header and the fields of `Container`; a container always has the first two.
NAMES = {
    "container_name": "name",
    "container_image": "image",
    "pod_name": "pod_name",
    "pod_namespace": "pod_namespace",
    "pod_container": "pod_container",
}
_ALWAYS = ("name", "image")


class ContainerColumns:
    """What enriching needs of the container runtimes.

    Args:
        options: The table `options.containers`.
        tell: `EnrichContext.publish`.

    Raises:
        ConfigError: An option is unknown, or has a value that is not allowed.
    """

    def __init__(
        self, options: Mapping[str, Any], tell: Callable[[Sequence[Container]], None]
    ) -> None:
        self._metadata = ContainerMetadata(
            options_of("containers", options, ContainerOptions), tell
        )

    def columns(self, container_ids: pa.DictionaryArray) -> dict[str, pa.Array]:
        """Five dictionary columns, which may take `options.containers.wait` seconds where a container is new.

        Args:
            container_ids: The column `container_id`: empty for no container, null where that could not be had.

        Returns:
            Of a row in no container empty values; null what could not be had, which is all where the id is null; an empty pod
            for a container in none.
        """
        ids: list[str | None] = [*container_ids.dictionary.to_pylist(), None]
        codes = view(container_ids.indices)
        if container_ids.null_count:
            absent = view(container_ids.is_null().cast(pa.uint8())).astype(bool)
            codes = np.where(absent, len(ids) - 1, codes)
        used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
        found = self._found([ids[code] for code in used])
        return {
            column: _joined(codes, used, [_value(c, field) for c in found])
            for column, field in NAMES.items()
        }

    def _found(self, ids: Sequence[str | None]) -> list[Container | None]:
        """What is known; an empty description for no container, None where nothing could be had."""
        wanted = [container_id for container_id in ids if container_id]
        known = dict(zip(wanted, self._metadata.known(wanted), strict=True))
        return [
            known.get(container_id) if container_id else _NOWHERE if container_id == "" else None
            for container_id in ids
        ]

    def expect(self, container_ids: Iterable[str]) -> None:
        """Has containers looked up as they come about, before their first event; never waits."""
        self._metadata.expect(container_ids)

    def close(self) -> None:
        """Ends its threads."""
        self._metadata.close()


_NOWHERE = Container()


def _value(container: Container | None, field: str) -> bytes | None:
    if container is None:
        return None
    value: bytes = getattr(container, field)
    return None if not value and field in _ALWAYS and container.container_id else value


def _joined(
    codes: npt.NDArray[Any], used: npt.NDArray[Any], values: Sequence[bytes | None]
) -> pa.DictionaryArray:
    """A value for each code in use, joined to the rows: one look into a table, as rows may be many."""
    code_of = {value: code for code, value in enumerate(dict.fromkeys(values))}
    table = np.zeros(used[-1] + 1 if len(used) else 0, np.int32)
    table[used] = [code_of[value] for value in values]
    return dictionary_array(table[codes], list(code_of), pa.binary())
