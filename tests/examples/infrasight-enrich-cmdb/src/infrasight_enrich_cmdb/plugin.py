"""The enricher `cmdb`: tags of the node and of the container's image, by `options.cmdb.file`."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from attrs import frozen
from infrasight_core import (
    TAGS,
    ConfigError,
    EnrichContext,
    constant,
    hookimpl,
    map_distinct,
    options_of,
)

from infrasight_enrich_cmdb.table import Cmdb, Tags, read

infrasight_api = 1


@frozen
class Options:
    """What stands in `options.cmdb`.

    Attributes:
        file: The CMDB's export, read when the agent starts and when the file has changed.
    """

    file: Path = Path("/etc/infrasight/cmdb.csv")


infrasight_options = Options
_read: dict[Path, tuple[tuple[int, int, int], Cmdb | ConfigError]] = {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `tags`, for each image that occurs once: an image's go before its node's."""
    if context.side != "agent":
        return {}
    cmdb = _current(options_of("cmdb", context.options, Options).file)
    of_node = cmdb.nodes.get(context.node, ())

    def tags_of(images: list[bytes | None]) -> list[Tags]:
        return [
            _both(of_node, cmdb.images.get((image or b"").decode("utf-8", "replace"), ()))
            for image in images
        ]

    if "container_image" not in batch.schema.names:  # this agent asks no container runtime
        return {"tags": constant(of_node, batch.num_rows, TAGS)}
    return {"tags": map_distinct(batch.column("container_image"), tags_of, TAGS)}


def _both(node: Tags, image: Tags) -> Tags:
    return tuple((dict(node) | dict(image)).items())


def _current(path: Path) -> Cmdb:
    """What the file says now; it is read once for each state that it is in. Raises ConfigError."""
    try:
        stat = path.stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except OSError:  # reading it will say so
        version = (0, 0, 0)
    if path not in _read or _read[path][0] != version:
        _read.clear()
        try:
            _read[path] = version, read(path)
        except ConfigError as error:
            _read[path] = version, error
    found = _read[path][1]
    if isinstance(found, ConfigError):
        raise found
    return found
