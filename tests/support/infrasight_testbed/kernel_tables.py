"""The tables of docs/kernels.md: as cells of a report of kernel_report.py, and as in the document.

usage: PYTHONPATH=tests/support python -m infrasight_testbed.kernel_tables REPORT.json…

Prints the tables of these reports.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Cell = tuple[str, str, str]  # the table, by its second heading; the row's first two columns
Report = Mapping[str, Any]
NOTHING = "–"
WHOLE = "whole"
CHECKS = ("optional tracepoints", "32-bit calls", "io_uring", "kernel function")


def column(report: Report) -> str:
    """The heading of a kernel's column."""
    series = ".".join(report["release"].split("-")[0].split(".")[:2])
    states = [state for probe in report["probes"].values() for state in probe["points"].values()]
    return f"{series}, locked down" if any("EPERM" in state for state in states) else series


def cells(report: Report) -> dict[Cell, str]:
    """The cells of the document for a kernel."""
    cells_found: dict[Cell, str] = {}
    for name, probe in report["probes"].items():
        cells_found |= {
            ("attach point", name, point): state.partition(",")[0]
            for point, state in probe["points"].items()
        }
        cells_found |= {
            ("operation", name, kind): ", ".join(lacks) or WHOLE
            for kind, lacks in probe["lacks"].items()
        }
    for check in CHECKS:
        found = report["doctor"][check]
        cells_found["check", "doctor", check] = f"{found['status']}: {found['found']}"
    return cells_found


def documented(text: str, heading: str) -> dict[Cell, str]:
    """The cells of a kernel in the document; empty without its column."""
    cells_found: dict[Cell, str] = {}
    headings: list[str] = []
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not row:
            headings = []
        elif not headings:
            headings = row
        elif (
            heading in headings
            and not row[0].startswith("-")
            and (cell := row[headings.index(heading)]) != NOTHING
        ):
            cells_found[headings[1], row[0], row[1]] = cell
    return cells_found


def tables(reports: Mapping[str, Report]) -> str:
    """The document's tables, in Markdown."""
    columns = {heading: cells(report) for heading, report in reports.items()}
    lines: list[str] = []
    for table, first in ("attach point", "probe"), ("operation", "probe"), ("check", "command"):
        keys = dict.fromkeys(
            key for column in reversed(columns.values()) for key in column if key[0] == table
        )
        lines += [
            "",
            f"| {first} | {table} | {' | '.join(columns)} |",
            "|---" * (2 + len(columns)) + "|",
        ]
        for key in sorted(keys, key=lambda key: key[1]):
            found = [column.get(key, NOTHING) for column in columns.values()]
            lines.append(f"| {key[1]} | {key[2]} | {' | '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = [json.loads(Path(name).read_text().splitlines()[-1]) for name in sys.argv[1:]]
    print(tables({column(report): report for report in given}))
