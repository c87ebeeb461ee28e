"""The enricher `reverse_dns`: what DNS calls a remote address, for probes with the columns `remote_address` and `remote_name`.

It is off unless `options.reverse_dns.enabled` says otherwise: a question tells the name server whom this machine talks to.
Who owns an address chooses its name, so a name proves nothing. Questions are asked beside the data: a name comes from the
second time on, or within `wait_seconds`.
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

from infrasight_core.enrichers.async_lookup import AsyncLookup, Bounds, NoAnswer
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.hookspecs import hookimpl

infrasight_api = 1
LONGEST = 255  # bytes of a name, as RFC 1035 has it
NOWHERE = bytes(16)


def _from(least: float, most: float) -> Any:
    return validators.and_(validators.ge(least), validators.le(most))


@frozen
class Options:
    """What the enricher may be told, in `options.reverse_dns`.

    Attributes:
        enabled: Ask at all.
        servers: Addresses of name servers; none: those of /etc/resolv.conf.
        port: Theirs.
        timeout_seconds: How long a question may take in all.
        wait_seconds: How long a batch waits for names that are not known yet.
        threads: How many questions are asked at once.
        waiting: How many may wait to be asked.
        kept: How many answers are remembered.
        seconds: How long a name holds.
        absent_seconds: How long it holds that there is none, or that no server answered.
    """

    enabled: bool = False
    servers: tuple[str, ...] = ()
    port: int = field(default=53, validator=_from(1, 65535))
    timeout_seconds: float = field(default=2.0, validator=_from(0.01, 60))
    wait_seconds: float = field(default=0.0, validator=_from(0, 1))
    threads: int = field(default=4, validator=_from(1, 64))
    waiting: int = field(default=1024, validator=_from(1, 1 << 20))
    kept: int = field(default=65536, validator=_from(1, 1 << 20))
    seconds: float = field(default=3600.0, validator=_from(1, 1 << 20))
    absent_seconds: float = field(default=300.0, validator=_from(1, 1 << 20))


infrasight_options = Options


class ReverseNames:
    """The names of addresses.

    Args:
        options: Whom to ask, and how much.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        bounds = Bounds(
            options.threads, options.waiting, options.kept, options.seconds, options.absent_seconds
        )
        self._later = AsyncLookup("reverse_dns", self._ask, bounds)

    def of(self, addresses: list[bytes]) -> list[bytes | None]:
        """The names; empty where there is none or no address, None where it is not known, or not yet."""
        known = self._later.get([a for a in addresses if a != NOWHERE], self._options.wait_seconds)
        return [known.get(address, b"") for address in addresses]

    def close(self) -> None:
        """Asks nothing more."""
        self._later.close()

    def _ask(self, address: bytes) -> bytes:
        """Asks DNS. Raises NoAnswer."""
        text = IPv6Address(address)
        question = dns.reversename.from_address(str(text.ipv4_mapped or text))
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
            raise NoAnswer(
                type(error).__name__
            ) from error  # the text has how long it took: each would be logged
        return name[:LONGEST]


_kept = OptionState("reverse_dns", Options, ReverseNames)


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `remote_name` where it is on; null where the address's name is not known, or not yet."""
    if (
        context.side != "agent"
        or not context.options.get("enabled")
        or "remote_address" not in batch.schema.names
    ):
        return {}
    names = _kept.of(context.options)
    return {
        "remote_name": map_distinct(
            _whole(batch.column("remote_address")),
            lambda values: names.of(_padded(values)),
            pa.binary(),
        )
    }


def _whole(addresses: pa.Array) -> npt.NDArray[np.bytes_]:
    return np.frombuffer(addresses.buffers()[1], "S16")[
        addresses.offset : addresses.offset + len(addresses)
    ]


def _padded(values: list[bytes]) -> list[bytes]:
    """What NumPy cut the zeros of at the end."""
    return [value.ljust(16, b"\0") for value in values]
