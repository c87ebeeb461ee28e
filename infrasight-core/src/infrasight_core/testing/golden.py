"""Golden blocks: the recorded output of a probe's BPF program, to test decoding without root.

A golden folder holds three files: `blocks.gz`, the memory of the blocks; `layout.json`, their
layout as BCC reported it; and `rows.json`, the expected rows, which a person has reviewed.
"""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from infrasight_core.agent.batches import assemble, conform
from infrasight_core.cli.format import address, is_address
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.layout import layout_of
from infrasight_core.kernel.loader import LoadedProbe
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.manager import PluginManager

# A boot at the epoch leaves process keys and times as the block holds them.
_BOOT_KEY = np.uint64(0)
_UNSTABLE_COLUMNS = frozenset({"time"})  # depend on the clocks of the reading machine


@frozen
class GoldenBlocks:
    """A folder of golden blocks.

    Attributes:
        folder: The folder with `blocks.gz`, `layout.json` and `rows.json`.
    """

    folder: Path

    def columns(self) -> Columns:
        """Reads the events of the blocks."""
        saved = json.loads((self.folder / "layout.json").read_text())
        layout = layout_of(saved["description"], saved["slots"], saved["size"])
        with tempfile.TemporaryFile() as file:
            file.write(gzip.decompress((self.folder / "blocks.gz").read_bytes()))
            file.flush()
            return Blocks(file.fileno(), layout, saved["cpus"]).drain()

    def rows(self, plugins: PluginManager, probe: str) -> list[dict[str, Any]]:
        """Decodes the blocks with the installed probe, in the form of `rows.json`."""
        columns = self.columns()
        schema = plugins.schemas()[probe].agent
        batch = assemble(columns, plugins.decode(probe, columns), schema, _BOOT_KEY)
        batch = conform(batch, {}, schema, list(columns.texts), columns.flags)
        stable = [name for name in batch.schema.names if name not in _UNSTABLE_COLUMNS]
        rows = batch.select(stable).to_pylist()
        for name in (field.name for field in schema if is_address(field)):
            for row in rows:
                row[name] = address(row[name])
        # The round trip through JSON gives the types that `rows.json` has.
        as_json: list[dict[str, Any]] = json.loads(json.dumps(rows, default=_escape))
        return as_json

    def expected_rows(self) -> list[dict[str, Any]]:
        """Reads the reviewed rows that the blocks must give."""
        rows: list[dict[str, Any]] = json.loads((self.folder / "rows.json").read_text())
        return rows


def save_golden_blocks(folder: Path, loaded: LoadedProbe, plugins: PluginManager) -> GoldenBlocks:
    """Saves the unread events of a loaded probe, and the rows that they give now.

    Review `rows.json` before you commit it: from then on it is what the tests expect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layout = loaded.blocks.layout
    saved = {
        "description": layout.description,
        "slots": layout.slots,
        "size": layout.size,
        "cpus": loaded.blocks.cpus,
    }
    (folder / "blocks.gz").write_bytes(gzip.compress(loaded.blocks.memory(), mtime=0))
    (folder / "layout.json").write_text(json.dumps(saved))
    golden = GoldenBlocks(folder)
    rows = golden.rows(plugins, loaded.name)
    (folder / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    return golden


def _escape(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
