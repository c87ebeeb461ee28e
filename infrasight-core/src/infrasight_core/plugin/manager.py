"""A typed manager over pluggy: every plugin is loaded and called by itself, so that a broken one hurts only itself."""

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
import pyarrow as pa
import structlog
from attrs import evolve, frozen
from prometheus_client import Counter

from infrasight_core.errors import ConfigError, InfraSightError, PluginError, UnknownProbeError
from infrasight_core.plugin import hookspecs
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import API_VERSION, ENTRY_POINT_GROUP
from infrasight_core.plugin.options import NoOptions, options_of
from infrasight_core.plugin.program import BpfProgram, Kernel
from infrasight_core.plugin.schema import EventSchema
from infrasight_core.plugin.tags import merge_tags

log = structlog.get_logger(__name__)
FAILURES = Counter("infrasight_plugin_failures", "Failed plugin calls.", ["plugin", "hook"])


@frozen
class Plugin:
    """A plugin that could be loaded.

    Attributes:
        name: Its entry-point name; a probe's name where it has a schema.
        distribution: The distribution that brought it and its version, `name version`.
        hooks: Those of the four that it implements.
        schema: What its events are; None for an enricher.
    """

    name: str
    distribution: str
    hooks: frozenset[str]
    schema: EventSchema | None

    @property
    def is_probe(self) -> bool:
        """Whether it records events, rather than only enriching others'."""
        return self.schema is not None and "load_bpf" in self.hooks

    @property
    def is_tracker(self) -> bool:
        """Whether it is an enricher that hears from the kernel what it must know, by a program whose rows are no events."""
        return self.schema is None and {"load_bpf", "decode"} <= self.hooks


class PluginManager:
    """The plugins of this process.

    Attributes:
        plugins: Those that could be loaded, by name.
        failures: Why the others could not, by name.
        options: What the configuration says to each of them, by name.
    """

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager("infrasight")
        self._pluggy.add_hookspecs(hookspecs)
        self.plugins: dict[str, Plugin] = {}
        self.failures: dict[str, PluginError] = {}
        self.options: Mapping[str, Mapping[str, Any]] = {}
        self._said: dict[str, str] = {}  # why an enricher failed last

    @classmethod
    def discover(
        cls, enable: Iterable[str] | None = None, disable: Iterable[str] = ()
    ) -> "PluginManager":
        """Loads the installed plugins.

        Args:
            enable: Only the probes of these names (enrichers are always in); None for all.
            disable: None of these names, enrichers too.

        Raises:
            UnknownProbeError: A name in `enable` or `disable` belongs to no installed plugin.
        """
        manager = cls()
        found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        wanted, unwanted = None if enable is None else set(enable), set(disable)
        if unknown := sorted(((wanted or set()) | unwanted) - found.keys()):
            raise UnknownProbeError(
                f"no installed plugin is called {', '.join(map(repr, unknown))}; "
                f"installed: {', '.join(sorted(found)) or 'none'}; see `infrasight probes`"
            )
        for name, point in sorted(found.items()):
            if name not in unwanted:
                manager._load(point)
        if wanted is not None:
            for name in [
                n for n, p in manager.plugins.items() if p.schema is not None and n not in wanted
            ]:
                manager.unregister(name)
            manager.failures = {n: e for n, e in manager.failures.items() if n in wanted}
        return manager

    def _load(self, point: EntryPoint) -> None:
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        try:
            module = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a stranger's module raises on import is that module's failure
            self._failed(PluginError(point.name, "import", _one_line(error)))
            return
        self.register(point.name, module, distribution)

    def register(self, name: str, module: object, distribution: str = "unknown") -> None:
        """Takes a plugin in; a failure lands in `failures`."""
        api = getattr(module, "infrasight_api", None)
        if api != API_VERSION:
            said = (
                "declares no `infrasight_api`" if api is None else f"is built for plugin API {api}"
            )
            self._failed(
                PluginError(
                    name, "import", f"{distribution} {said}; this infrasight-core has {API_VERSION}"
                )
            )
            return
        try:
            self._pluggy.register(module, name)
            self._pluggy.check_pending()
            hooks = frozenset(h.name for h in self._pluggy.get_hookcallers(module) or [])
            schema = self._call(name, "schema") if "schema" in hooks else None
            if schema is not None and not isinstance(schema, EventSchema):
                raise PluginError(
                    name, "schema", f"returned {type(schema).__name__}, not EventSchema"
                )
            if schema is not None:
                _ = schema.stored, schema.ddl_text()
        except PluginError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - pluggy's complaints about a hook's signature, a schema that cannot be derived
            self._failed(PluginError(name, "schema", _one_line(error)))
        else:
            self.plugins[name] = Plugin(name, distribution, hooks, schema)
            return
        if self._pluggy.has_plugin(name):
            self._pluggy.unregister(name=name)

    def unregister(self, name: str) -> None:
        """Lets a plugin go."""
        del self.plugins[name]
        self._pluggy.unregister(name=name)

    def _failed(self, error: PluginError) -> None:
        self.failures[error.plugin] = error
        FAILURES.labels(error.plugin, error.hook).inc()
        log.warning("plugin failed", plugin=error.plugin, hook=error.hook, reason=error.reason)

    def probes(self) -> list[str]:
        """The names of the plugins that record events, sorted."""
        return sorted(name for name, plugin in self.plugins.items() if plugin.is_probe)

    def trackers(self) -> list[str]:
        """The names of the enrichers that have a program in the kernel, sorted."""
        return sorted(name for name, plugin in self.plugins.items() if plugin.is_tracker)

    def schemas(self) -> dict[str, EventSchema]:
        """The schema of every plugin that has one, by probe."""
        return {
            name: plugin.schema
            for name, plugin in sorted(self.plugins.items())
            if plugin.schema is not None
        }

    def load_bpf(self, probe: str, kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
        """The probe's BPF program. Raises PluginError."""
        try:
            self.check_options(probe, options)
        except ConfigError as error:
            raise PluginError(probe, "load_bpf", str(error)) from error
        program = self._call(probe, "load_bpf", kernel=kernel, options=options)
        if not isinstance(program, BpfProgram):
            raise PluginError(
                probe, "load_bpf", f"returned {type(program).__name__}, not BpfProgram"
            )
        return program

    def decode(self, probe: str, columns: Columns) -> Mapping[str, pa.Array]:
        """What the probe's block does not hold as the schema wants it; empty without a decode. Raises PluginError."""
        if "decode" not in self.plugins[probe].hooks:
            return {}
        return _arrays(probe, "decode", self._call(probe, "decode", columns=columns), columns.rows)

    def enrich(self, batch: pa.RecordBatch, context: EnrichContext) -> dict[str, pa.Array]:
        """The columns of every enricher; one that fails is counted, logged, and leaves its columns out.

        The core's own come first, then the others by name; each sees the columns of those before it. `tags` are merged.
        """
        columns: dict[str, pa.Array] = {}
        before = dict(zip(batch.schema.names, batch.columns, strict=True))
        tags = (
            [before["tags"]] if "tags" in before else []
        )  # as given: what is merged forgets which entries a null had
        for name in sorted(
            (n for n, p in self.plugins.items() if "enrich" in p.hooks), key=self._turn
        ):
            own = evolve(context, options=self.options.get(name, {}))
            known = (
                pa.RecordBatch.from_arrays([*(before | columns).values()], [*(before | columns)])
                if columns
                else batch
            )
            try:
                added = dict(
                    _arrays(
                        name,
                        "enrich",
                        self._call(name, "enrich", batch=known, context=own),
                        batch.num_rows,
                    )
                )
                if "tags" in added:
                    given = [*tags, added["tags"]]
                    added["tags"], tags = _tags(name, given), given
            except PluginError as error:
                if self._said.get(name) != error.reason:  # once, not per batch
                    log.warning(
                        "enricher failed", plugin=name, probe=context.probe, reason=error.reason
                    )
                self._said[name] = error.reason
            else:
                self._said.pop(name, None)
                columns |= added
        return columns

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Validates the options of a loaded plugin against its `infrasight_options`.

        Raises:
            ConfigError: An option is unknown, or its value is not allowed.
        """
        module = self._pluggy.get_plugin(name)
        options_of(name, options, getattr(module, "infrasight_options", NoOptions))

    def _turn(self, name: str) -> bool:
        """Sorts the core's own plugins before a third party's, whose columns those may need."""
        return not self.plugins[name].distribution.startswith("infrasight-core ")

    def _call(self, name: str, hook: str, **arguments: Any) -> Any:
        plugin = self._pluggy.get_plugin(name)
        caller = self._pluggy.subset_hook_caller(
            hook, [p for p in self._pluggy.get_plugins() if p is not plugin]
        )
        try:
            result = caller(**arguments)
        except (
            Exception
        ) as error:  # a plugin may raise anything; its name and hook must be in what we say
            FAILURES.labels(name, hook).inc()
            reason = str(error) if isinstance(error, InfraSightError) else _one_line(error)
            raise PluginError(name, hook, reason) from error
        spec = getattr(hookspecs, hook).infrasight_spec  # set by pluggy's marker
        return result if spec["firstresult"] else next(iter(result), None)


def _arrays(name: str, hook: str, columns: Any, rows: int) -> Mapping[str, pa.Array]:
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise PluginError(
            name,
            hook,
            f"returned {type(columns).__name__}, not a mapping of column names to arrays",
        )
    for column, array in columns.items():
        if not isinstance(array, pa.Array) or len(array) != rows:
            raise PluginError(name, hook, f"column {column!r} is not an Arrow array of {rows} rows")
    return columns


def _tags(name: str, given: list[pa.Array]) -> pa.Array:
    try:
        return merge_tags(given)
    except pa.ArrowException as error:
        raise PluginError(
            name,
            "enrich",
            f"column 'tags' is {given[-1].type}, not a map of strings: {_one_line(error)}",
        ) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
