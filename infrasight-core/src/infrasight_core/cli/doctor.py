"""`infrasight doctor`: whether this machine can record events."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from rich.console import Console
from rich.text import Text

from infrasight_core.cli import doctor_checks
from infrasight_core.cli.doctor_checks import Check
from infrasight_core.cli.format import write_objects
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.server_options import server_options
from infrasight_core.cli.table import Column, print_table
from infrasight_core.console.entry import EXIT_STATUSES, FAILED
from infrasight_core.console.streams import printable
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.containers.runtimes import check_sockets
from infrasight_core.errors import (
    AccessError,
    AuthenticationError,
    InfraSightError,
    KernelError,
    PluginError,
)
from infrasight_core.kernel.attach_points import (
    calls_of,
    functions_of,
    missing_tracepoints,
    tracepoints_of,
)
from infrasight_core.kernel.loader import running_kernel, unattachable_functions
from infrasight_core.kernel.system_calls import TRACEPOINTS, has_compat_call
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import BpfProgram

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = f"""\b
Examples:
  sudo infrasight doctor
  sudo infrasight doctor --server db.example:7443 \\
      --tls-certificate agent.pem --tls-key agent.key --tls-ca ca.pem
  infrasight doctor --format json | jq -r 'select(.status == "fail") | .remedy'

\b
It changes nothing and mounts nothing. Its status is 1 if a check fails; a warning is no
failure.

{EXIT_STATUSES}"""
_ROOT = Path("/")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_COLUMNS = (Column("CHECK"), Column("STATUS"), Column("FOUND"), Column("REMEDY"))


@click.command("doctor", epilog=EPILOG)
@format_option()
@click.option(
    "--loader-python",
    envvar="INFRASIGHT_LOADER_PYTHON",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    default="/usr/bin/python3",
    show_default=True,
    help="The Python that has bcc.",
)
@server_options
def command(
    output_format: str | None,
    loader_python: Path,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Check whether this machine can record events, with a remedy for each check that fails.

    With --server, check as well whether that server answers.
    """
    checks = [*_check_machine(loader_python), *_check_plugins()]
    if server is not None:
        checks.append(_check_server(connect, server))
    if (output_format or default_format()) == "json":
        write_objects(attrs.asdict(check) for check in checks)
    else:
        print_table(Console(), _COLUMNS, [_cells(check) for check in checks])
    if any(check.status == "fail" for check in checks):
        click.get_current_context().exit(FAILED)


def _check_machine(loader_python: Path) -> Iterator[Check]:
    yield doctor_checks.kernel(platform.release())
    yield doctor_checks.architecture(platform.machine())
    for check in (
        doctor_checks.btf,
        doctor_checks.tracefs,
        doctor_checks.bpffs,
        doctor_checks.capabilities,
        doctor_checks.perf_events,
        doctor_checks.lockdown,
        doctor_checks.unprivileged,
        doctor_checks.ptrace_scope,
    ):
        yield _guarded(check.__name__, check, _ROOT)
    yield doctor_checks.bcc(loader_python)
    yield doctor_checks.libbpf()
    sockets = [
        (str(socket.path), socket.version, socket.reason)
        for socket in check_sockets(ContainerOptions().socket_paths())
    ]
    yield doctor_checks.container_runtimes(sockets)


def _guarded(name: str, check: Callable[[Path], Check], root: Path) -> Check:
    """The result of a check; a failure where a file of the machine cannot be read."""
    try:
        return check(root)
    except OSError as error:
        return doctor_checks.unreadable(name, error)


def _check_plugins() -> Iterator[Check]:
    manager = PluginManager.discover()
    kernel = running_kernel()
    failures = list(manager.failures.values())
    programs: dict[str, BpfProgram] = {}
    for name in (*manager.probes(), *manager.trackers()):
        try:
            programs[name] = manager.load_bpf(name, kernel, {})
        except PluginError as error:
            failures.append(error)
    for failure in failures:
        yield Check(
            "plugin", "warn", str(failure), "see `infrasight probes`; upgrade or uninstall it"
        )
    if not manager.probes():
        yield Check("probes", "fail", "none is installed", "pip install infrasight-probe-execve")
        return
    yield Check("probes", "ok", ", ".join(manager.probes()))
    yield _guarded("tracepoints", lambda root: _required_tracepoints(root, programs), _ROOT)
    yield _optional_tracepoints(programs)
    yield _guarded(
        "32-bit calls",
        lambda root: doctor_checks.compat(
            root, kernel.machine, _probes_of_32_bit_calls(programs, kernel.machine)
        ),
        _ROOT,
    )
    yield doctor_checks.io_uring(_ROOT, _probes_of_io_uring(programs))
    yield from _check_kernel_functions(programs)


def _required_tracepoints(root: Path, programs: dict[str, BpfProgram]) -> Check:
    events = [
        point.event
        for program in programs.values()
        for point in tracepoints_of(program)
        if not point.optional
    ]
    if any(calls_of(program) for program in programs.values()):
        events += TRACEPOINTS
    return doctor_checks.tracepoints(root, events)


def _optional_tracepoints(programs: dict[str, BpfProgram]) -> Check:
    try:
        absent = [
            (name, event)
            for name, program in programs.items()
            for event in missing_tracepoints(program)
        ]
    except KernelError as error:
        return Check("optional tracepoints", "warn", str(error), "run as root")
    return doctor_checks.optional_tracepoints(absent)


def _probes_of_32_bit_calls(programs: dict[str, BpfProgram], machine: str) -> list[str]:
    return [
        name
        for name, program in programs.items()
        if any(has_compat_call(call.name, machine) for call in calls_of(program))
    ]


def _probes_of_io_uring(programs: dict[str, BpfProgram]) -> list[str]:
    return [
        name
        for name, program in programs.items()
        if any(point.event.startswith("io_uring:") for point in tracepoints_of(program))
    ]


def _check_kernel_functions(programs: dict[str, BpfProgram]) -> Iterator[Check]:
    """Attaches to each kernel function that a probe uses, one check for each."""
    consequences: dict[str, list[str]] = {}
    for name, program in programs.items():
        for point in functions_of(program):
            consequence = f"({name}) {point.lack or 'fields are missing'}"
            consequences.setdefault(point.kernel_function, []).append(consequence)
    refused: dict[str, str] = {}
    if consequences:
        try:
            refused = unattachable_functions(consequences)
        except KernelError as error:
            refused = dict.fromkeys(consequences, f"not tried: {error}")
    for function, texts in sorted(consequences.items()):
        yield doctor_checks.function(function, refused.get(function, ""), "; ".join(texts))


def _check_server(connect: Callable[[], "ServerClient"], address: str) -> Check:
    try:
        with connect() as client:
            for _ in client.query("SELECT 1"):
                pass
    except AuthenticationError as error:
        return Check("server", "fail", address, str(error))
    except AccessError as error:  # the certificate of an agent is accepted, but may not query
        return Check("server", "ok", f"{address} answers: {error}")
    except InfraSightError as error:
        return Check("server", "fail", address, str(error))
    return Check("server", "ok", f"{address} answers")


def _cells(check: Check) -> list[Text]:
    return [
        Text(check.name),
        Text(check.status, _COLOURS[check.status]),
        Text(printable(check.found)),
        Text(printable(check.remedy)),
    ]
