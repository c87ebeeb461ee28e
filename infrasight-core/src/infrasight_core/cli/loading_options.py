"""The options of every command that loads probes itself, without an agent."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from infrasight_core.agent.settings import DEFAULT_PROGRAM_CACHE

if TYPE_CHECKING:
    from infrasight_core.kernel.loader import LoadSettings


@frozen
class LoadingOptions:
    """What the options say.

    Attributes:
        memory: The memory for the events of one probe, in MiB.
        loader_python: The Python that has bcc.
        program_cache: The folder of compiled probes; empty for none.
    """

    memory: int
    loader_python: Path
    program_cache: str

    def settings(self) -> "LoadSettings":
        """Returns them as the loader needs them; the process's own work is not recorded."""
        # Imported here: it imports NumPy, which starts threads with the privileges of now.
        from infrasight_core.kernel.loader import LoadSettings
        from infrasight_core.kernel.program_cache import ProgramCache

        return LoadSettings(
            python=self.loader_python,
            memory=self.memory << 20,
            own_work=False,
            cache=ProgramCache(Path(self.program_cache)) if self.program_cache else None,
        )


def loading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--memory`, `--loader-python` and `--program-cache` to a command.

    The command receives `loading`, the LoadingOptions.
    """

    @click.option(
        "--memory",
        default=64,
        show_default=True,
        type=click.IntRange(1, 4096),
        metavar="MIB",
        help="Memory for the events of one probe, over all CPUs.",
    )
    @click.option(
        "--loader-python",
        default="/usr/bin/python3",
        show_default=True,
        envvar="INFRASIGHT_LOADER_PYTHON",
        show_envvar=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The Python that has bcc.",
    )
    @click.option(
        "--program-cache",
        default=DEFAULT_PROGRAM_CACHE,
        show_default=True,
        envvar="INFRASIGHT_PROGRAM_CACHE",
        show_envvar=True,
        metavar="FOLDER",
        help="Where compiled probes are stored; empty for nowhere.",
    )
    @functools.wraps(command)
    def with_loading(memory: int, loader_python: Path, program_cache: str, **rest: Any) -> None:
        command(loading=LoadingOptions(memory, loader_python, program_cache), **rest)

    return with_loading
