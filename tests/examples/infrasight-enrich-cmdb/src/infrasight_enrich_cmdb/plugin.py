"""The enricher `cmdb`: tags for the node and for the container's image, from a CMDB's export."""

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

from infrasight_enrich_cmdb.table import Cmdb, Tags, read_table

infrasight_api = 1


@frozen
class Options:
    """The options of the plugin, `options.cmdb`.

    Attributes:
        file: The CMDB's export. It is read when the agent starts and when it has changed.
    """

    file: Path = Path("/etc/infrasight/cmdb.csv")


infrasight_options = Options
Version = tuple[int, int, int]
_MISSING: Version = (0, 0, 0)
_cache: dict[Path, tuple[Version, Cmdb | ConfigError]] = {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Add `tags`, computed once for each distinct image. An image's tags override its node's."""
    if context.side != "agent":
        return {}
    cmdb = _load(options_of("cmdb", context.options, Options).file)
    node_tags = cmdb.nodes.get(context.node, ())

    def tags_of(images: list[bytes | None]) -> list[Tags]:
        names = [(image or b"").decode("utf-8", "replace") for image in images]
        return [_merge(node_tags, cmdb.images.get(name, ())) for name in names]

    if "container_image" not in batch.schema.names:  # the enricher `containers` is disabled
        return {"tags": constant(node_tags, batch.num_rows, TAGS)}
    return {"tags": map_distinct(batch.column("container_image"), tags_of, TAGS)}


def _merge(node_tags: Tags, image_tags: Tags) -> Tags:
    return tuple((dict(node_tags) | dict(image_tags)).items())


def _load(path: Path) -> Cmdb:
    """Read the file once for each of its versions; raise ConfigError if it is invalid."""
    try:
        stat = path.stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except OSError:
        version = _MISSING  # read_table reports the reason
    if path not in _cache or _cache[path][0] != version:
        _cache.clear()
        try:
            _cache[path] = version, read_table(path)
        except ConfigError as error:
            _cache[path] = version, error
    _, content = _cache[path]
    if isinstance(content, ConfigError):
        raise content
    return content
