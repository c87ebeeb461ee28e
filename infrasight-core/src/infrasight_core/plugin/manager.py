"""Loads the installed plugins and calls their hooks, each plugin separately.

A plugin that fails does not affect the others. The recorder calls `decode` and `enrich` for each
batch; the server calls `enrich` again before it stores the batch.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

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
from infrasight_core.settings.reserved_names import RESERVED_NAMES, describe_reserved

log = structlog.get_logger(__name__)
FAILURES = Counter(
    "infrasight_plugin_failures", "Failed calls of a plugin, by hook.", ["plugin", "hook"]
)


def installed_plugins() -> dict[str, EntryPoint]:
    """Returns the entry point of every installed plugin by its name, sorted."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return dict(sorted(points.items()))


@frozen
class Plugin:
    """A loaded plugin.

    Attributes:
        name: Its entry-point name, which is the probe's name if it is a probe.
        distribution: The distribution that contains it, as `name version`.
        hooks: The hooks that it implements.
        schema: The schema of its events; None for an enricher.
    """

    name: str
    distribution: str
    hooks: frozenset[str]
    schema: EventSchema | None

    @property
    def is_probe(self) -> bool:
        """Whether it records events."""
        return self.schema is not None and "load_bpf" in self.hooks

    @property
    def is_tracker(self) -> bool:
        """Whether it is an enricher with its own kernel program, whose rows are not events."""
        return self.schema is None and {"load_bpf", "decode"} <= self.hooks


class PluginManager:
    """A set of plugins.

    Attributes:
        plugins: The loaded plugins by name.
        failures: Why other plugins could not be loaded, by name.
        options: The options of each plugin by name; enrichers get theirs with each batch.
    """

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.failures: dict[str, PluginError] = {}
        self.options: Mapping[str, Mapping[str, Any]] = {}
        self._pluggy = pluggy.PluginManager("infrasight")
        self._pluggy.add_hookspecs(hookspecs)
        self._last_enrich_failures: dict[str, str] = {}  # the reason by plugin

    @classmethod
    def discover(
        cls, enable: Iterable[str] | None = None, disable: Iterable[str] = ()
    ) -> "PluginManager":
        """Loads the installed plugins.

        Args:
            enable: The names of the probes to load; None for all. Enrichers are loaded anyway.
            disable: The names of plugins not to load, enrichers included.

        Raises:
            UnknownProbeError: No installed plugin has a name in `enable` or `disable`.
        """
        manager = cls()
        installed = installed_plugins()
        enabled = None if enable is None else set(enable)
        disabled = set(disable)
        unknown = sorted((disabled | (enabled or set())) - installed.keys())
        if unknown:
            raise UnknownProbeError(
                f"no installed plugin is called {', '.join(map(repr, unknown))}; "
                f"installed: {', '.join(installed) or 'none'}; see `infrasight probes`"
            )
        for name, point in installed.items():
            if name not in disabled:
                manager._load(point)
        if enabled is not None:
            # Whether a plugin is a probe shows only after it is loaded.
            for name in manager.schemas().keys() - enabled:
                manager.unregister(name)
            shown = enabled | RESERVED_NAMES
            manager.failures = {n: e for n, e in manager.failures.items() if n in shown}
        return manager

    def _load(self, point: EntryPoint) -> None:
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        if point.name in RESERVED_NAMES:
            reason = f"{describe_reserved(point.name)}: uninstall {distribution}"
            self._add_failure(PluginError(point.name, "import", reason))
            return
        try:
            module = point.load()
        except Exception as error:  # noqa: BLE001 - a third-party module may raise anything
            self._add_failure(PluginError(point.name, "import", _one_line(error)))
            return
        self.register(point.name, module, distribution)

    def register(self, name: str, module: object, distribution: str = "unknown") -> None:
        """Adds a plugin; a failure is stored in `failures`.

        Args:
            name: Its entry-point name.
            module: Its module.
            distribution: The distribution that contains it, as `name version`.
        """
        api = getattr(module, "infrasight_api", None)
        if api != API_VERSION:
            built_for = (
                "declares no `infrasight_api`" if api is None else f"is built for plugin API {api}"
            )
            reason = f"{distribution} {built_for}; this infrasight-core has {API_VERSION}"
            self._add_failure(PluginError(name, "import", reason))
            return
        try:
            self._pluggy.register(module, name)
            self._pluggy.check_pending()
            hooks = frozenset(h.name for h in self._pluggy.get_hookcallers(module) or [])
            schema = self._schema_of(name) if "schema" in hooks else None
        except PluginError as error:
            self._add_failure(error)
        except Exception as error:  # noqa: BLE001 - from pluggy, about a hook's signature, or a schema
            self._add_failure(PluginError(name, "schema", _one_line(error)))
        else:
            self.plugins[name] = Plugin(name, distribution, hooks, schema)
            return
        if self._pluggy.has_plugin(name):
            self._pluggy.unregister(name=name)

    def _schema_of(self, name: str) -> EventSchema | None:
        schema = self._call(name, "schema")
        if schema is None:
            return None
        if not isinstance(schema, EventSchema):
            raise PluginError(name, "schema", f"returned {type(schema).__name__}, not EventSchema")
        _ = schema.stored  # raises if no schema can be derived from the message
        _ = schema.ddl_text()
        return schema

    def unregister(self, name: str) -> None:
        """Removes a loaded plugin."""
        del self.plugins[name]
        self._pluggy.unregister(name=name)

    def _add_failure(self, error: PluginError) -> None:
        self.failures[error.plugin] = error
        FAILURES.labels(error.plugin, error.hook).inc()
        log.warning("plugin failed", plugin=error.plugin, hook=error.hook, reason=error.reason)

    def probes(self) -> list[str]:
        """Returns the names of the loaded probes, sorted."""
        return sorted(name for name, plugin in self.plugins.items() if plugin.is_probe)

    def trackers(self) -> list[str]:
        """Returns the names of the loaded trackers, sorted."""
        return sorted(name for name, plugin in self.plugins.items() if plugin.is_tracker)

    def schemas(self) -> dict[str, EventSchema]:
        """Returns the schema of every loaded plugin that has one, by name."""
        return {
            name: plugin.schema
            for name, plugin in sorted(self.plugins.items())
            if plugin.schema is not None
        }

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Validates the options of a loaded plugin against its `infrasight_options`.

        Raises:
            ConfigError: An option is unknown, or its value is not allowed.
        """
        module = self._pluggy.get_plugin(name)
        options_of(name, options, getattr(module, "infrasight_options", NoOptions))

    def load_bpf(self, name: str, kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
        """Returns the BPF program of a probe or tracker. Raises PluginError."""
        try:
            self.check_options(name, options)
        except ConfigError as error:
            raise PluginError(name, "load_bpf", str(error)) from error
        program = self._call(name, "load_bpf", kernel=kernel, options=options)
        if not isinstance(program, BpfProgram):
            reason = f"returned {type(program).__name__}, not BpfProgram"
            raise PluginError(name, "load_bpf", reason)
        return program

    def decode(self, name: str, columns: Columns) -> Mapping[str, pa.Array]:
        """Returns the columns that the plugin's `decode` makes. Raises PluginError.

        Args:
            name: The probe or tracker.
            columns: Its drained rows.
        """
        if "decode" not in self.plugins[name].hooks:
            return {}
        decoded = self._call(name, "decode", columns=columns)
        return _checked_arrays(name, "decode", decoded, columns.rows)

    def enrichers(self, side: Literal["agent", "server"]) -> list[str]:
        """Returns the names of the plugins whose `enrich` is called on a side, in that order.

        The core's own ones add what only the agent's machine knows, and are not called on the
        server.
        """
        enrichers = [name for name, plugin in self.plugins.items() if "enrich" in plugin.hooks]
        if side == "server":
            return list(filter(self._is_third_party, enrichers))
        return sorted(enrichers, key=self._is_third_party)  # stable: otherwise by name

    def enrich(self, batch: pa.RecordBatch, context: EnrichContext) -> dict[str, pa.Array]:
        """Returns the columns of every enricher; `tags` are merged.

        The core's enrichers are called first, then the others by name. Each gets the columns of
        those before it. An enricher that fails is counted and logged, and adds no columns.

        Args:
            batch: The batch so far.
            context: The context, without the plugin's own options.
        """
        enriched: dict[str, pa.Array] = {}
        # `merge_tags` needs the arrays as given: its result does not say who knew which entries.
        tags = [batch.column("tags")] if "tags" in batch.schema.names else []
        for name in self.enrichers(context.side):
            own_context = evolve(context, options=self.options.get(name, {}))
            try:
                added = self._enrich_with(name, _with_columns(batch, enriched), own_context)
                if "tags" in added:
                    all_tags = [*tags, added["tags"]]
                    added["tags"] = _merge_tags(name, all_tags)
                    tags = all_tags
            except PluginError as error:
                if self._last_enrich_failures.get(name) != error.reason:  # once, not per batch
                    log.warning(
                        "enricher failed", plugin=name, probe=context.probe, reason=error.reason
                    )
                self._last_enrich_failures[name] = error.reason
            else:
                self._last_enrich_failures.pop(name, None)
                enriched |= added
        return enriched

    def _is_third_party(self, name: str) -> bool:
        return not self.plugins[name].distribution.startswith("infrasight-core ")

    def _enrich_with(
        self, name: str, batch: pa.RecordBatch, context: EnrichContext
    ) -> dict[str, pa.Array]:
        added = self._call(name, "enrich", batch=batch, context=context)
        return dict(_checked_arrays(name, "enrich", added, batch.num_rows))

    def _call(self, name: str, hook: str, **arguments: Any) -> Any:
        """Calls a hook of one plugin. Raises PluginError for whatever the plugin raises."""
        plugin = self._pluggy.get_plugin(name)
        others = [other for other in self._pluggy.get_plugins() if other is not plugin]
        caller = self._pluggy.subset_hook_caller(hook, others)
        try:
            result = caller(**arguments)
        except Exception as error:  # a plugin may raise anything
            FAILURES.labels(name, hook).inc()
            reason = str(error) if isinstance(error, InfraSightError) else _one_line(error)
            raise PluginError(name, hook, reason) from error
        specification = getattr(hookspecs, hook).infrasight_spec  # set by pluggy's marker
        return result if specification["firstresult"] else next(iter(result), None)


def _with_columns(batch: pa.RecordBatch, added: Mapping[str, pa.Array]) -> pa.RecordBatch:
    if not added:
        return batch
    columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | dict(added)
    return pa.RecordBatch.from_arrays([*columns.values()], [*columns])


def _checked_arrays(name: str, hook: str, columns: Any, rows: int) -> Mapping[str, pa.Array]:
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        reason = f"returned {type(columns).__name__}, not a mapping of column names to arrays"
        raise PluginError(name, hook, reason)
    for column, array in columns.items():
        if not isinstance(array, pa.Array) or len(array) != rows:
            raise PluginError(name, hook, f"column {column!r} is not an Arrow array of {rows} rows")
    return columns


def _merge_tags(name: str, arrays: list[pa.Array]) -> pa.Array:
    try:
        return merge_tags(arrays)
    except pa.ArrowException as error:
        reason = f"column 'tags' is {arrays[-1].type}, not a map of strings: {_one_line(error)}"
        raise PluginError(name, "enrich", reason) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
