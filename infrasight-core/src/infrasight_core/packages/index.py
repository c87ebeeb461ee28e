"""The one package index that packages are installed from."""

import re
from pathlib import Path

from attrs import frozen

from infrasight_core.errors import ConfigError
from infrasight_core.settings.credentials import hide_url_credentials

# pip reads the URL from a file, where white space separates options and ${…} names a variable.
_URL = re.compile(r"(https?|file)://[^\s$\\'\"#]+", re.ASCII)


@frozen
class PackageIndex:
    """A package index.

    Attributes:
        url: Its URL; empty for pip's default.
        ca: The CA of its certificate; None for those that pip trusts.
    """

    url: str = ""
    ca: Path | None = None

    @classmethod
    def read(cls, url: str, url_file: Path | None, ca: Path | None) -> "PackageIndex":
        """Returns the index, whose URL may be in a file, because it may hold a password.

        Raises:
            ConfigError: The URL is given twice, its file cannot be read, or it is no URL.
        """
        if url_file is not None:
            if url:
                raise ConfigError("name the package index by its URL or by a file, not by both")
            try:
                url = url_file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read the index's URL in {url_file}: {error}") from error
        if url and not _URL.fullmatch(url):
            shown = hide_url_credentials(repr(url))
            raise ConfigError(
                f"{shown} is not the URL of a package index, such as https://…/simple"
            )
        return cls(url, ca)

    def options(self) -> list[str]:
        """Returns pip's options for the command line; none of them is secret."""
        return ["--cert", str(self.ca)] if self.ca else []

    def requirement_lines(self) -> list[str]:
        """Returns the lines of a requirements file that select the index, and wheels only.

        Source distributions would run code of any of their build requirements.
        """
        lines = ["--only-binary :all:"]
        if self.url:
            lines.append(f"--index-url {self.url}")
        return lines
