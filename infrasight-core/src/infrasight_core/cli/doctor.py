"""`infrasight doctor`: whether this machine can record events."""

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infrasight_core.cli import doctor_checks
from infrasight_core.cli.doctor_checks import Check
from infrasight_core.cli.format import printable
from infrasight_core.cli.server_options import server_options
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.containers.runtimes import answers
from infrasight_core.errors import InfraSightError, KernelError, PluginError
from infrasight_core.kernel.attach_points import functions_of, lacking, tracepoints_of
from infrasight_core.kernel.compat import compat_numbers
from infrasight_core.kernel.loader import refused_functions, running_kernel
from infrasight_core.plugin.manager import PluginManager

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = """\b
Examples:
  sudo infrasight doctor
  sudo infrasight doctor --server db.example:7443 --tls-certificate a.pem --tls-key a.key --tls-ca ca.pem
  infrasight doctor --json | jq -r 'select(.status == "fail") | .remedy'

\b
It changes nothing and mounts nothing. Its status is 1 when something that is needed fails.
"""
_ROOT = Path("/")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
@click.option(
    "--loader-python",
    envvar="INFRASIGHT_LOADER_PYTHON",
    type=click.Path(path_type=Path),
    default="/usr/bin/python3",
    show_default=True,
    help="The Python that has bcc.",
)
@server_options
def command(
    as_json: bool, loader_python: Path, connect: Callable[[], "ServerClient"], server: str | None
) -> None:
    """Check whether this machine can record events, and say for each refusal what to do.

    With --server it is also seen whether that server answers.
    """
    results = [*_machine(loader_python), *_plugins(loader_python)]
    if server is not None:
        results.append(_server(connect, server))
    console = Console()
    if as_json or not console.is_terminal:
        for check in results:
            click.echo(json.dumps(attrs.asdict(check), ensure_ascii=False))
    else:
        console.print(_table(results))
    if any(check.status == "fail" for check in results):
        click.get_current_context().exit(1)


def _machine(loader_python: Path) -> Iterator[Check]:
    yield doctor_checks.kernel(platform.release())
    yield doctor_checks.architecture(platform.machine())
    yield doctor_checks.btf(_ROOT)
    yield doctor_checks.tracefs(_ROOT)
    yield doctor_checks.bpffs(_ROOT)
    yield doctor_checks.capabilities(_ROOT)
    yield doctor_checks.lockdown(_ROOT)
    yield doctor_checks.unprivileged(_ROOT)
    yield doctor_checks.bcc(loader_python)
    yield doctor_checks.libbpf()
    found = answers(ContainerOptions().places())
    yield doctor_checks.container_runtimes((str(a.path), a.version, a.reason) for a in found)


def _plugins(loader_python: Path) -> Iterator[Check]:
    manager, kernel = PluginManager.discover(), running_kernel()
    broken = list(manager.failures.values())
    wanted: list[str] = []
    absent: list[tuple[str, str]] = []
    compat: list[str] = []
    uring: list[str] = []
    functions: dict[str, list[str]] = {}
    for probe in (*manager.probes(), *manager.trackers()):
        try:
            program = manager.load_bpf(probe, kernel, {})
            wanted += [point.event for point in tracepoints_of(program) if not point.optional]
            absent += [(probe, event) for event in lacking(program)]
            compat += [
                probe for point in tracepoints_of(program) if compat_numbers(point, kernel.machine)
            ]
            uring += [
                probe for point in tracepoints_of(program) if point.event.startswith("io_uring:")
            ]
            for point in functions_of(program):
                functions.setdefault(point.kernel_function, []).append(
                    f"({probe}) {point.lack or 'its events lack something'}"
                )
        except PluginError as error:
            broken.append(error)
    for failure in broken:
        yield Check(
            "plugin", "warn", str(failure), "see `infrasight probes`; mend, upgrade or uninstall it"
        )
    if not manager.probes():
        yield Check("probes", "fail", "none is installed", "pip install infrasight-probe-execve")
    else:
        yield Check("probes", "ok", ", ".join(manager.probes()))
        yield doctor_checks.tracepoints(_ROOT, wanted)
        yield doctor_checks.optional_tracepoints(absent)
        yield doctor_checks.compat(_ROOT, platform.machine(), compat)
        yield doctor_checks.io_uring(_ROOT, uring)
        yield from _functions(functions, loader_python)


def _functions(wanted: dict[str, list[str]], loader_python: Path) -> Iterator[Check]:
    """Each of the kernel's functions that a probe wants, tried; what the events are without it."""
    try:
        refused = refused_functions(wanted, loader_python) if wanted else {}
    except KernelError as error:
        refused = dict.fromkeys(wanted, f"cannot be tried: {error}")
    for name, lacks in sorted(wanted.items()):
        yield doctor_checks.function(name, refused.get(name, ""), "; ".join(lacks))


def _server(connect: Callable[[], "ServerClient"], address: str) -> Check:
    try:
        with connect() as client:
            for _ in client.query("SELECT 1"):
                pass
    except InfraSightError as error:
        return Check("server", "fail", address, str(error))
    return Check("server", "ok", f"{address} answers")


def _table(results: list[Check]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("CHECK", "", "FOUND", "WHAT TO DO"):
        table.add_column(name, overflow="fold")
    for check in results:
        colour = _COLOURS[check.status]
        table.add_row(
            check.name,
            Text(check.status, colour),
            Text(printable(check.found)),
            Text(printable(check.remedy)),
        )
    return table
