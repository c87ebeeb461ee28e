"""Golden blocks: what a probe's program wrote, kept as bytes, so that the way from there to rows is tested without root.

A golden is a folder: `blocks.gz`, the memory of the blocks as it was; `layout.json`, what BCC said of it; `rows.json`, the rows
that must come of it, looked at by a person once.
"""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from infrasight_core.agent.batches import Clock, assemble, conform
from infrasight_core.cli.format import address, is_address
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.layout import layout_of
from infrasight_core.kernel.loader import LoadedProbe
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.manager import PluginManager

# A boot at the epoch: process keys and times come out as the block holds them.
_CLOCK = Clock(np.uint64(0))
UNSTABLE = frozenset({"time"})  # depends on the clocks of the machine that reads


@frozen
class Golden:
    """A golden folder.

    Attributes:
        folder: Where it stands.
    """

    folder: Path

    def columns(self) -> Columns:
        """What waits in the blocks."""
        said = json.loads((self.folder / "layout.json").read_text())
        layout = layout_of(said["description"], said["slots"], said["size"])
        with tempfile.TemporaryFile() as file:
            file.write(gzip.decompress((self.folder / "blocks.gz").read_bytes()))
            file.flush()
            return Blocks(file.fileno(), layout, said["cpus"]).drain()

    def rows(self, plugins: PluginManager, probe: str) -> list[dict[str, Any]]:
        """The rows that the probe makes of it today, in the form of `rows.json`."""
        columns, schema = self.columns(), plugins.schemas()[probe]
        batch = assemble(columns, plugins.decode(probe, columns), schema.agent, _CLOCK)
        batch = conform(batch, {}, schema.agent, list(columns.texts), columns.flags)
        kept = [name for name in batch.schema.names if name not in UNSTABLE]
        made = batch.select(kept).to_pylist()
        for name in (field.name for field in schema.agent if is_address(field)):
            for row in made:
                row[name] = address(row[name])
        rows: list[dict[str, Any]] = json.loads(json.dumps(made, default=_text))
        return rows

    def wanted(self) -> list[dict[str, Any]]:
        """The rows that must come."""
        rows: list[dict[str, Any]] = json.loads((self.folder / "rows.json").read_text())
        return rows


def save_golden(folder: Path, loaded: LoadedProbe, plugins: PluginManager) -> Golden:
    """Keeps what waits in a probe's blocks, and the rows that come of it now."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = loaded.blocks.layout
    memory = loaded.blocks.memory()
    said = {
        "description": layout.description,
        "slots": layout.slots,
        "size": layout.size,
        "cpus": loaded.blocks.cpus,
    }
    (folder / "blocks.gz").write_bytes(gzip.compress(memory, mtime=0))
    (folder / "layout.json").write_text(json.dumps(said))
    golden = Golden(folder)
    (folder / "rows.json").write_text(
        json.dumps(golden.rows(plugins, loaded.name), indent=1) + "\n"
    )
    return golden


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
