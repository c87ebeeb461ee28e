"""Defines every error that InfraSight raises. Messages name what failed, where, and the remedy."""


class InfraSightError(Exception):
    """The base class. Commands print its message as one line and exit with status 1."""


class ConfigError(InfraSightError):
    """A setting is unknown, or its value is not allowed."""


class UnknownProbeError(ConfigError):
    """No installed plugin has the given name."""


class PluginError(InfraSightError):
    """A plugin failed. Other plugins are not affected.

    Attributes:
        plugin: The plugin's entry-point name.
        hook: The hook that failed: `schema`, `load_bpf`, `decode` or `enrich`; `import` if the
            plugin could not be loaded, `options` or `filters` if its settings are invalid.
        reason: The reason in one line.
    """

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        super().__init__(f"plugin {plugin!r}: {hook}: {reason}")
        self.plugin = plugin
        self.hook = hook
        self.reason = reason


class SchemaError(InfraSightError):
    """A protobuf message, an Arrow batch and a table do not match."""


class KernelError(InfraSightError):
    """The kernel does not permit an operation, or bcc, tracefs, BTF or a capability is missing."""


class RuntimeUnavailableError(InfraSightError):
    """A container runtime cannot be reached or does not answer in time."""


class RuntimeAnswerError(InfraSightError):
    """A container runtime answered, but not usefully to this one question."""


class TransportError(InfraSightError):
    """A server or operator cannot be reached, or sent an unusable answer."""


class ProtocolError(TransportError):
    """A server or operator sent what the protocol does not allow; its stream counts as broken."""


class AccessError(InfraSightError):
    """A peer may not do what it asks for."""


class AuthenticationError(AccessError):
    """A peer has not proved who it is."""


class InstallError(InfraSightError):
    """A package cannot be installed beside the agent."""


class QueryError(InfraSightError):
    """A query was rejected, or the store could not answer it."""


class StoreError(InfraSightError):
    """The store cannot be opened, migrated or written."""


class StoreUnavailableError(StoreError):
    """The store does not answer, or not for now; the operation may succeed later."""


class TableMissingError(StoreUnavailableError):
    """A table or the database was deleted; the operation succeeds when it exists again."""


class ClaimsChangedError(StoreError):
    """Another server has claimed a node, so an insert was not made."""


class BatchConflictError(StoreError):
    """A batch was sent again with other rows than those that are stored."""


class SpoolError(InfraSightError):
    """The agent's disk cannot store its batches, or what is stored there is damaged."""


class LimitError(InfraSightError):
    """A peer uses as much as it may, or all peers together do; it can try again later."""
