"""ARCHITECTURE.md names every file that one record passes, in order, as the code has it."""

import ast
import asyncio
import re
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from attrs import frozen
from infrasight.v1.stream_pb2 import Batch
from infrasight_core.agent.batches import assemble, conform
from infrasight_core.agent.bounded_spool import open_spool
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.quality_metrics import count_missing_fields
from infrasight_core.agent.sink import Delivery
from infrasight_core.agent.spool_settings import SpoolSettings
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import GoldenBlocks
from infrasight_server.ingest.batch_preparer import (
    BatchPreparer,
    Prepared,
    PreparedRows,
    ReceivedBatch,
)
from infrasight_testbed.execve_batches import LIMITS

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
FOLDERS = (
    "infrasight-core/src/infrasight_core",
    "infrasight-server/src/infrasight_server",
    "infrasight-probe-execve/src/infrasight_probe_execve",
)
# Values that steps use and that are computed once, before any record.
SHARED = frozenset({f"{FOLDERS[0]}/plugin/schema.py"})
ROW = re.compile(
    r"^\| (\d+) \| \[`[^`]+`\]\(([^)]+)\) \| `(\w+)` \| ([^|]*) \| [^|]+ \|$", re.MULTILINE
)
LINK = re.compile(r"(\d+)(?:, (\w+)(?: `(\w+)`)?)?")


@frozen
class Link:
    """How the data comes from an earlier step.

    Attributes:
        step: The number of that step.
        kind: "call", or what connects them otherwise: hook, queue, block, RPC, future, callback.
        name: The name that both files use.
    """

    step: int
    kind: str
    name: str


@frozen
class Step:
    """A row of the table.

    Attributes:
        number: Its number.
        file: The file, from the repository's root.
        function: The function, class or macro in it.
        links: The steps that it comes from.
    """

    number: int
    file: str
    function: str
    links: tuple[Link, ...]


@frozen
class Use:
    """A place where code refers to a name.

    Attributes:
        function: The enclosing function.
        line: The line.
        is_call: Whether the function of this name is called there, or passed on to be called.
    """

    function: str
    line: int
    is_call: bool


def steps() -> list[Step]:
    """The rows of the table."""
    found = []
    for number, file, function, links in ROW.findall(ARCHITECTURE.read_text(encoding="utf-8")):
        parsed = tuple(
            Link(int(step), kind or "call", name or function)
            for step, kind, name in LINK.findall(links)
        )
        found.append(Step(int(number), file, function, parsed))
    return found


STEPS = steps()
each_step = pytest.mark.parametrize(
    "step", STEPS, ids=lambda step: f"{step.number}-{step.function}"
)


@cache
def text_of(file: str) -> str:
    """A file's text."""
    return (ROOT / file).read_text(encoding="utf-8")


def defines(file: str, name: str) -> bool:
    """Whether a file defines a function, class or macro of this name."""
    if file.endswith(".py"):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        nodes = ast.walk(ast.parse(text_of(file)))
        return any(isinstance(node, kinds) and node.name == name for node in nodes)
    definition = rf"^(#define {name}\(|(static inline )?\w[\w *]*\b{name}\()"
    return re.search(definition, text_of(file), re.MULTILINE) is not None


@cache
def uses(file: str, name: str) -> tuple[Use, ...]:
    """Where a file refers to a name, other than by defining it; a string of that name counts."""
    if not file.endswith(".py"):
        pattern = re.compile(rf"(?<![A-Za-z0-9]){name}\b")
        lines = enumerate(text_of(file).splitlines(), 1)
        return tuple(Use("", number, True) for number, line in lines if pattern.search(line))
    found: list[Use] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        is_call = name in (getattr(node, "id", None), getattr(node, "attr", None))
        is_keyword = getattr(node, "arg", None) == name
        is_string = isinstance(node, ast.Constant) and node.value == name
        if is_call or is_keyword or is_string:
            found.append(Use(function, getattr(node, "lineno", 0), is_call))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(text_of(file)), "")
    return tuple(found)


def test_table_has_rows_in_order() -> None:
    """The steps are numbered from 1 without a gap, and links lead to earlier steps only."""
    assert len(STEPS) > 40
    assert [step.number for step in STEPS] == list(range(1, len(STEPS) + 1))
    assert not [step for step in STEPS for link in step.links if link.step >= step.number]


def test_way_goes_from_the_kernel_to_the_store_and_back() -> None:
    """The way begins in the dispatcher's C, passes the store and ends in the agent's outbox."""
    files = [step.file for step in STEPS]
    assert files[0].endswith("dispatcher.bpf.c")
    assert f"{FOLDERS[1]}/store/clickhouse.py" in files
    assert files[-1] == f"{FOLDERS[0]}/agent/outbox.py"


def test_only_entry_points_lack_a_link() -> None:
    """Steps without an earlier one are those that the kernel or a thread's loop starts."""
    unlinked = {step.function for step in STEPS if not step.links}
    assert unlinked == {"dispatch_enter", "succeeded", "_look"}


@each_step
def test_step_exists(step: Step) -> None:
    """The file of a step exists and defines the function."""
    assert (ROOT / step.file).is_file()
    assert defines(step.file, step.function)


@each_step
def test_step_is_reached_from_an_earlier_one(step: Step) -> None:
    """The earlier file uses the name of the link; if data passes without a call, both do."""
    for link in step.links:
        earlier = STEPS[link.step - 1]
        used_there = bool(uses(earlier.file, link.name))
        if link.kind == "queue":
            used_there = used_there or defines(earlier.file, link.name)
        assert used_there, f"{earlier.file} does not use {link.name}"
        if link.kind not in ("call", "callback"):
            used_here = uses(step.file, link.name) or defines(step.file, link.name)
            assert used_here, f"{step.file} does not use {link.name}"


def calls_by_function(file: str, name: str) -> dict[str, list[int]]:
    """The lines of a file's calls of a function, by the function that makes them."""
    lines: dict[str, list[int]] = {}
    for use in uses(file, name):
        if use.is_call:
            lines.setdefault(use.function, []).append(use.line)
    return lines


def test_steps_are_in_the_order_of_the_calls() -> None:
    """Where one function calls two steps, the table has them in the order of the calls."""
    misplaced = []
    links = [(s, link) for s in STEPS for link in s.links if link.kind == "call"]
    for (first, first_link), (second, second_link) in combinations(links, 2):
        caller = STEPS[first_link.step - 1].file
        if first_link.step != second_link.step or not caller.endswith(".py"):
            continue
        first_calls = calls_by_function(caller, first_link.name)
        for function, lines in calls_by_function(caller, second_link.name).items():
            if function in first_calls and max(lines) < min(first_calls[function]):
                misplaced.append(
                    f"{caller}: {function} calls {second.number} before {first.number}"
                )
    assert misplaced == []


def test_no_other_file_runs(tmp_path: Path) -> None:
    """A batch on its way from its block to the server's acceptance runs code of no other file."""
    golden = GoldenBlocks(ROOT / "infrasight-probe-execve/tests/golden")
    plugins = PluginManager.discover(["execve"])
    schema = plugins.schemas()["execve"]
    columns = golden.columns()
    outbox = Outbox(1 << 20, open_spool(SpoolSettings(str(tmp_path / "spool"))))

    def deliver() -> Batch:
        decoded = plugins.decode("execve", columns)
        batch = assemble(columns, decoded, schema.agent, np.uint64(0))
        context = EnrichContext("agent", "execve", "node", publish=outbox.publish)
        enriched = plugins.enrich(batch, context)
        batch = conform(batch, enriched, schema.agent, list(columns.texts), columns.flags)
        count_missing_fields("execve", batch.column("quality"))
        assert outbox.put(Delivery("id", "execve", schema, batch, None))
        return asyncio.run(next_batch(outbox))

    async def next_batch(outbox: Outbox) -> Batch:
        return await outbox.next_batch()

    def accept(sent: Batch) -> None:
        asyncio.run(prepare(sent))

    async def prepare(sent: Batch) -> None:
        outcomes: list[Prepared] = []
        preparer = BatchPreparer(plugins, LIMITS, lambda _, prepared: outcomes.append(prepared))
        outcome = asyncio.get_running_loop().create_future()
        preparer.submit(ReceivedBatch("node", sent, 1, 0.0, outcome))
        await preparer.close()
        (rows,) = outcomes
        assert isinstance(rows, PreparedRows)
        assert rows.rows.num_rows == columns.rows

    accept(deliver())  # the first time, enrichers read their options and start threads
    files: set[str] = set()

    def note_file(frame: FrameType, event: str, argument: object) -> None:
        files.add(frame.f_code.co_filename)

    sys.setprofile(note_file)
    try:
        accept(deliver())
    finally:
        sys.setprofile(None)
    local = {str(Path(file).relative_to(ROOT)) for file in files if file.startswith(str(ROOT))}
    ours = {file for file in local if file.startswith(FOLDERS)}
    assert len(ours) > 20
    assert ours - {step.file for step in STEPS} - SHARED == set()
