"""A Python for the compiler that can be made to fail or wait, so that a test sees if it is run."""

from pathlib import Path

_WORKING = '#!/bin/sh\nexec /usr/bin/python3 "$@"\n'
_FAILING = "#!/bin/sh\necho 'the compiler was run' >&2\nexit 1\n"
_WAITING = """#!/bin/sh
while [ ! -e "$0.released" ]; do sleep 0.05; done
exec /usr/bin/python3 "$@"
"""


class BreakableCompiler:
    """A program that runs the system's Python until it is broken or held.

    Args:
        folder: Where the program is written.
    """

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python-of-compiler"
        self._write(_WORKING)

    def break_down(self) -> None:
        """Makes the program fail from now on."""
        self._write(_FAILING)

    def hold(self) -> None:
        """Makes the program wait until `release` is called."""
        self._write(_WAITING)

    def release(self) -> None:
        """Lets the program go on."""
        Path(f"{self.python}.released").touch()

    def _write(self, text: str) -> None:
        self.python.write_text(text)
        self.python.chmod(0o755)
