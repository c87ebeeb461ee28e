"""The configuration that an operator has sent last, in a file, for starts while it is away."""

import os
from pathlib import Path

from google.protobuf import json_format
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.errors import ConfigError


class SavedConfiguration:
    """The file `configuration.json`.

    Args:
        folder: Where it lies; made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "configuration.json"

    def read(self) -> Configuration | None:
        """What was kept; None where nothing was.

        Raises:
            ConfigError: The file cannot be read, or is damaged.
        """
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self._file}: the configuration kept there cannot be read: {error}"
            ) from error
        try:
            return json_format.Parse(text, Configuration())
        except json_format.ParseError as error:
            raise ConfigError(
                f"{self._file}: the configuration kept there is damaged ({error}); remove the file"
            ) from error

    def write(self, message: Configuration) -> None:
        """Puts it in place of what was kept: whoever reads finds the one or the other, whole, also after a crash.

        Raises:
            ConfigError: It cannot be written.
        """
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Options may hold a password: nobody else reads them.
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json_format.MessageToJson(message))
                file.flush()
                os.fsync(descriptor)
            new.replace(self._file)
        except OSError as error:
            raise ConfigError(
                f"{self._file}: the configuration cannot be kept there, so a start while the operator is away will record "
                f"nothing: {error.strerror}; name another folder with `state`"
            ) from error
