"""One frozen class of settings from a file, the environment and flags; the later wins.

Every error names the key, its value, where it came from and what is allowed. Values of keys that hold secrets are never shown.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from cattrs.errors import AttributeValidationNote, BaseValidationError, ForbiddenExtraKeysError, IterableValidationNote

from infrasight_core.config_file import read_file
from infrasight_core.config_types import EnvironmentText, allowed, converter, settings_class
from infrasight_core.errors import ConfigError

Keys = tuple[str, ...]
_SECRET = re.compile(r"password|passwd|secret|token|credential", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^/@\s]*@")
# Kubernetes puts these into every pod beside a service called `infrasight-server`; they are not settings of ours.
_SERVICE_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")


def load[T](cls: type[T], *, file: Path | None, env_prefix: str, flags: Mapping[str, object]) -> T:
    """Reads the settings of a process.

    Args:
        cls: A frozen attrs class; its attributes are the keys, attrs classes within it are tables.
        file: A TOML or YAML file; None for the one that `<env_prefix>CONFIG` names, if any.
        env_prefix: `INFRASIGHT_AGENT_`: the variable `INFRASIGHT_AGENT_TLS__KEY` is the key `tls.key`. Lists are separated by
            commas. A variable that is empty counts as not set.
        flags: Values by key, `tls.key` for nested ones; None and () count as not given.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, or a value is not allowed.
    """
    named = os.environ.get(f"{env_prefix}CONFIG")
    file = Path(named) if file is None and named else file
    settings = _Settings(cls, env_prefix)
    if file is not None:
        settings.add_table((), read_file(file), str(file))
    settings.add_environment()
    for key, value in flags.items():
        if value is not None and value != ():
            settings.add(tuple(key.split(".")), value, f"option --{key.replace('.', '-').replace('_', '-')}")
    return settings.structure()
