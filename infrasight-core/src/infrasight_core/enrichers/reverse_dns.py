"""The enricher `reverse_dns`: adds the DNS name of each remote address.

It applies to probes with the columns `remote_address` and `remote_name`. It is disabled by default
because a DNS query tells the name server which hosts this machine communicates with. The owner of
an address chooses its name, so a name is no proof of identity. Lookups run beside the events: an
address has its name from the second batch on, or within `wait_seconds`.
"""

from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

import dns.exception
import dns.resolver
import dns.reversename
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import field, frozen, validators

from infrasight_core.enrichers.async_lookup import AsyncLookup, LookupBounds, LookupFailedError
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1
_MAX_NAME_BYTES = 255  # source: RFC 1035
_ADDRESS_BYTES = 16
_NO_ADDRESS = bytes(_ADDRESS_BYTES)
_MAX_COUNT = 1 << 20


def _between(lowest: float, highest: float) -> Any:
    return validators.and_(validators.ge(lowest), validators.le(highest))


@frozen
class ReverseDnsOptions:
    """The options of the enricher `reverse_dns`, in `options.reverse_dns`.

    Attributes:
        enabled: Whether to look up names.
        servers: IP addresses of the name servers. Empty, the default, uses those of
            /etc/resolv.conf.
        port: The port of the servers in `servers`.
        timeout_seconds: The longest time of one lookup, in seconds, from 0.01 to 60.
        wait_seconds: How long a batch waits for names that are not cached, in seconds, from 0 to
            1.
        threads: The number of lookups at the same time, from 1 to 64.
        queue_size: The number of lookups that may wait for a thread.
        cache_size: The number of cached answers.
        ttl_seconds: How long a name is cached, in seconds.
        absent_ttl_seconds: How long it is cached, in seconds, that an address has no name or that
            no server answered.
    """

    enabled: bool = False
    servers: tuple[str, ...] = ()
    port: int = field(default=53, validator=_between(1, 65535))
    timeout_seconds: float = field(default=2.0, validator=_between(0.01, 60))
    wait_seconds: float = field(default=0.0, validator=_between(0, 1))
    threads: int = field(default=4, validator=_between(1, 64))
    queue_size: int = field(default=1024, validator=_between(1, _MAX_COUNT))
    cache_size: int = field(default=65536, validator=_between(1, _MAX_COUNT))
    ttl_seconds: float = field(default=3600.0, validator=_between(1, _MAX_COUNT))
    absent_ttl_seconds: float = field(default=300.0, validator=_between(1, _MAX_COUNT))


infrasight_options = ReverseDnsOptions


class ReverseResolver:
    """Resolves addresses to names, with a cache.

    Args:
        options: The enricher's options.
    """

    def __init__(self, options: ReverseDnsOptions) -> None:
        self._options = options
        bounds = LookupBounds(
            options.threads,
            options.queue_size,
            options.cache_size,
            options.ttl_seconds,
            options.absent_ttl_seconds,
        )
        self._lookup = AsyncLookup("reverse_dns", self._query, bounds)

    def names_of(self, addresses: list[bytes]) -> list[bytes | None]:
        """Returns the name of each address.

        Returns:
            Names; empty if there is no name or no address, None if the name is not known yet.
        """
        questions = [address for address in addresses if address != _NO_ADDRESS]
        names = self._lookup.get(questions, self._options.wait_seconds)
        return [names.get(address, b"") for address in addresses]

    def close(self) -> None:
        """Ends the threads of the lookup."""
        self._lookup.close()

    def _query(self, address: bytes) -> bytes:
        """Queries DNS. Raises LookupFailedError."""
        ip = IPv6Address(address)
        question = dns.reversename.from_address(str(ip.ipv4_mapped or ip))
        try:
            resolver = dns.resolver.Resolver(configure=not self._options.servers)
            if self._options.servers:
                resolver.nameservers = list(self._options.servers)
                resolver.port = self._options.port
            resolver.lifetime = self._options.timeout_seconds
            answer = resolver.resolve(question, "PTR", search=False)
            name: bytes = b".".join(answer[0].target.labels[:-1])
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return b""
        except (dns.exception.DNSException, OSError) as error:
            # The error's text holds the elapsed time: every failure would be logged as a new one.
            raise LookupFailedError(type(error).__name__) from error
        return name[:_MAX_NAME_BYTES]


_resolver = OptionState(
    "reverse_dns", ReverseDnsOptions, lambda options, _: ReverseResolver(options)
)


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `remote_name` if it is enabled; null for an address whose name is not known yet."""
    if context.side != "agent" or not context.options.get("enabled"):
        return {}
    if "remote_address" not in batch.schema.names:
        return {}
    resolver = _resolver.of(context)

    def resolve(values: list[bytes]) -> list[bytes | None]:
        # NumPy strips trailing zero bytes.
        return resolver.names_of([value.ljust(_ADDRESS_BYTES, b"\0") for value in values])

    addresses = _as_numpy(batch.column("remote_address"))
    return {"remote_name": map_distinct(addresses, resolve, pa.binary())}


def _as_numpy(addresses: pa.Array) -> npt.NDArray[np.bytes_]:
    values = np.frombuffer(addresses.buffers()[1], f"S{_ADDRESS_BYTES}")
    return values[addresses.offset : addresses.offset + len(addresses)]
