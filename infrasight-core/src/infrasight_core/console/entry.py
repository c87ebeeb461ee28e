"""The start and the end of every command: Ctrl-C, standard streams, errors, exit statuses.

Only the standard library is imported at the top: Ctrl-C must already end the process silently
while NumPy, pyarrow and gRPC are imported.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from infrasight_core.console import streams

if TYPE_CHECKING:
    import click

OK = 0
FAILED = 1
EXIT_STATUSES = """\b
Exit status:
  0    success, also when the reader of a pipe stops reading
  1    an error, which one line on stderr explains
  2    wrong usage
  130  Ctrl-C before the command could finish
"""
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run(program: str, load: Callable[[], "click.Command"]) -> NoReturn:
    """Runs a command with the arguments of this process and exits.

    Expected failures end in one line on stderr. Any other exception is a bug and keeps its
    traceback.

    Args:
        program: The name of the command, which begins every message.
        load: Imports the command.
    """
    _let_ctrl_c_end_the_process()
    streams.prepare()
    # A failed connection is reported by our own error; gRPC's log lines would only repeat it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    status = OK
    try:
        status = _call(program, load)
        _let_ctrl_c_end_the_process()  # asyncio has restored Python's handler
        sys.stdout.flush()
    except BrokenPipeError:
        streams.discard_stdout()  # the reader has seen enough
    except OSError as error:
        streams.discard_stdout()
        streams.report(f"{program}: {_reason(error)}")
        status = FAILED
    sys.exit(status)


def _let_ctrl_c_end_the_process() -> None:
    """Replaces the handler that raises KeyboardInterrupt; an ignored SIGINT stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _call(program: str, load: Callable[[], "click.Command"]) -> int:
    """Runs the command and returns its exit status."""
    import click

    from infrasight_core.errors import InfraSightError

    try:
        command = load()
        _complete(program, command)
        # Not `command.main`, which turns a broken pipe into a failure.
        with command.make_context(program, sys.argv[1:]) as context:
            command.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as error:
        message = error.format_message()
        if "\n" in message:  # the whole help, which a group without a command shows
            print(message, file=sys.stderr)
        else:
            name = error.ctx.command_path if error.ctx else program
            streams.report(f"{name}: {message} (see `{name} --help`)")
        return error.exit_code
    except click.ClickException as error:
        streams.report(f"{program}: {error.format_message()}")
        return error.exit_code
    except InfraSightError as error:
        streams.report(f"{program}: {error}")
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return OK


def _complete(program: str, command: "click.Command") -> None:
    """Answers the shell's completion and exits, if that is what it asks for."""
    from click.shell_completion import shell_complete

    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    if instruction := os.environ.get(variable):
        sys.exit(shell_complete(command, {}, program, variable, instruction))


def _reason(error: OSError) -> str:
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.EBADF:
        return "cannot write the output: standard output is closed"
    if error.errno in _OUTPUT_ERRORS:
        return f"cannot write the output: {error.strerror}"
    return str(error)
