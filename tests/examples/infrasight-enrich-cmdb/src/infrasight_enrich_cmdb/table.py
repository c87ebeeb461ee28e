"""The CMDB's export: a CSV file with the columns kind, name, tag and value; kind is `node` or `image`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen
from infrasight_core import ConfigError

HEAD = ["kind", "name", "tag", "value"]
KINDS = ("node", "image")
LARGEST = 16 << 20  # bytes

Tags = tuple[tuple[str, str], ...]


@frozen
class Cmdb:
    """What the file says.

    Attributes:
        nodes: The tags of each node.
        images: The tags of each image.
    """

    nodes: Mapping[str, Tags]
    images: Mapping[str, Tags]


def read(path: Path) -> Cmdb:
    """Reads the file.

    Raises:
        ConfigError: It cannot be read, or a line is wrong; the message names the file and the line.
    """
    found: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in KINDS}
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST >> 20} MiB")
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            if next(rows, []) != HEAD:
                raise ConfigError(f"{path}:1: the first line must be {','.join(HEAD)}")
            for row in filter(None, rows):
                if len(row) != len(HEAD) or row[0] not in KINDS or not row[1] or not row[2]:
                    wanted = f"{' or '.join(KINDS)},name,tag,value"
                    raise ConfigError(
                        f"{path}:{rows.line_num}: {','.join(row)[:80]!r} is not {wanted}"
                    )
                kind, name, tag, value = row
                found[kind].setdefault(name, {})[f"cmdb.{tag}"] = value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    nodes, images = (
        {name: tuple(tags.items()) for name, tags in found[kind].items()} for kind in KINDS
    )
    return Cmdb(nodes, images)
