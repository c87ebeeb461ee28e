"""The CMDB's export: a CSV file with the columns kind, name, tag and value.

`kind` is `node` or `image`.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen
from infrasight_core import ConfigError

HEADING = ["kind", "name", "tag", "value"]
KINDS = ("node", "image")
MAX_BYTES = 16 << 20

Tags = tuple[tuple[str, str], ...]


@frozen
class Cmdb:
    """The content of the file.

    Attributes:
        nodes: The tags of each node.
        images: The tags of each image.
    """

    nodes: Mapping[str, Tags]
    images: Mapping[str, Tags]


def read_table(path: Path) -> Cmdb:
    """Read the file.

    Raises:
        ConfigError: It cannot be read, or a line is invalid; the message names file and line.
    """
    tags: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in KINDS}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            if next(rows, []) != HEADING:
                raise ConfigError(f"{path}:1: the first line must be {','.join(HEADING)}")
            for row in filter(None, rows):
                if len(row) != len(HEADING) or row[0] not in KINDS or not row[1] or not row[2]:
                    expected = f"{' or '.join(KINDS)},name,tag,value"
                    line = ",".join(row)[:80]
                    raise ConfigError(f"{path}:{rows.line_num}: {line!r} is not {expected}")
                kind, name, tag, value = row
                tags[kind].setdefault(name, {})[f"cmdb.{tag}"] = value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return Cmdb(nodes=_as_tuples(tags["node"]), images=_as_tuples(tags["image"]))


def _as_tuples(tags: Mapping[str, Mapping[str, str]]) -> dict[str, Tags]:
    return {name: tuple(values.items()) for name, values in tags.items()}
