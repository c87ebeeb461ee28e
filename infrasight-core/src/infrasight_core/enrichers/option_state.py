"""What an enricher keeps between batches, made of its options and made anew when they change."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from infrasight_core.plugin.options import options_of


class Closable(Protocol):
    """What is kept."""

    def close(self) -> None:
        """Ends its threads."""


S = TypeVar("S", bound=Closable)


class OptionState(Generic[S]):
    """One state; any thread may ask for it.

    Args:
        plugin: The enricher's name.
        kind: The class of its options.
        make: Makes the state of them.
    """

    def __init__(self, plugin: str, kind: type[Any], make: Callable[[Any], S]) -> None:
        self._plugin, self._kind, self._make = plugin, kind, make
        self._lock = threading.Lock()
        self._options: Mapping[str, Any] = {}
        self._state: S | None = None

    def of(self, options: Mapping[str, Any]) -> S:
        """The state for these options. Raises ConfigError."""
        with self._lock:
            if self._state is None or options != self._options:
                made = self._make(options_of(self._plugin, options, self._kind))
                if self._state is not None:
                    self._state.close()
                self._state, self._options = made, dict(options)
            return self._state
