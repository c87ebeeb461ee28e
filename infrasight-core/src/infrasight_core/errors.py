"""Everything that InfraSight raises on purpose. Each message names what failed, where, and what to do."""


class InfraSightError(Exception):
    """The root of the tree; commands print its message as one line and exit with status 1."""


class ConfigError(InfraSightError):
    """A setting is unknown or has a value that is not allowed."""


class UnknownProbeError(ConfigError):
    """A probe was named that no installed plugin provides."""


class PluginError(InfraSightError):
    """A plugin failed; it hurts only itself.

    Attributes:
        plugin: The plugin's entry-point name.
        hook: `schema`, `load_bpf`, `decode`, `enrich`, or `import` when it could not even be loaded.
        reason: One line for people.
    """

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        super().__init__(f"plugin {plugin!r}: {hook}: {reason}")
        self.plugin = plugin
        self.hook = hook
        self.reason = reason


class SchemaError(InfraSightError):
    """A protobuf message, an Arrow batch and a table do not say the same."""


class KernelError(InfraSightError):
    """The kernel, or what stands between us and it (bcc, tracefs, BTF, a capability), refused."""


class RuntimeUnavailableError(InfraSightError):
    """A container runtime cannot be reached, or does not answer in time."""


class RuntimeAnswerError(InfraSightError):
    """A container runtime is there, but has no usable answer to this one question."""


class TransportError(InfraSightError):
    """The server cannot be reached, or did not understand."""


class InstallError(InfraSightError):
    """A package cannot be installed beside the agent."""


class QueryError(InfraSightError):
    """A query was refused, or the store could not answer it."""


class StoreError(InfraSightError):
    """The store cannot be opened, migrated or written."""


class StoreUnavailableError(StoreError):
    """The store does not answer, or cannot for now; the same can succeed later."""
