"""State that an enricher holds between batches, rebuilt when its options change."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from infrasight.v1.stream_pb2 import Container

from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.options import options_of


class Closable(Protocol):
    """State that holds resources."""

    def close(self) -> None:
        """Ends the threads of the state."""


S = TypeVar("S", bound=Closable)
Publish = Callable[[Sequence[Container]], None]


class OptionState(Generic[S]):
    """One state for the current options; any thread may ask for it.

    The state is also rebuilt when `EnrichContext.publish` changes, because it may publish updates.

    Args:
        plugin: The enricher's name.
        options_class: The class of the enricher's options.
        build: Builds the state from an instance of that class and from `publish`.

    Attributes:
        current: The state that was built last, if any.
    """

    def __init__(
        self, plugin: str, options_class: type[Any], build: Callable[[Any, Publish], S]
    ) -> None:
        self._plugin = plugin
        self._options_class = options_class
        self._build = build
        self._lock = threading.Lock()
        self._built_for: tuple[Mapping[str, Any], Publish] | None = None
        self.current: S | None = None

    def of(self, context: EnrichContext) -> S:
        """Returns the state for a context. Raises ConfigError if its options are invalid."""
        with self._lock:
            wanted = (context.options, context.publish)
            if self.current is None or self._built_for != wanted:
                options = options_of(self._plugin, context.options, self._options_class)
                state = self._build(options, context.publish)
                if self.current is not None:
                    self._close(self.current)
                self.current = state
                self._built_for = (dict(context.options), context.publish)
            return self.current

    def _close(self, state: S) -> None:
        """Closes a state in the background: it waits for threads, and the recorder must not."""
        name = f"{self._plugin} close"
        threading.Thread(target=state.close, name=name, daemon=True).start()
