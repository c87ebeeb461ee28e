"""Reads and writes the names by which a certificate states its role.

A certificate has exactly one of these names. It is a URI name:

    spiffe://TRUST-DOMAIN/infrasight/agent/NODE
    spiffe://TRUST-DOMAIN/infrasight/agents/CLUSTER
    spiffe://TRUST-DOMAIN/infrasight/reader/NAME
    spiffe://TRUST-DOMAIN/infrasight/operator
    spiffe://TRUST-DOMAIN/infrasight/server

or, for tools that cannot issue URI names, a DNS name with the same parts in the reverse order, such
as `NODE.agent.infrasight.internal`.
"""

import re
from collections.abc import Iterable

from infrasight_core.errors import AuthenticationError
from infrasight_core.net.identity import Identity, Role

DNS_SUFFIX = "infrasight.internal"
DOCUMENT = "docs/certificates.md"
_NAMED = (Role.AGENT, Role.AGENTS, Role.READER)
_PREFIX = re.compile(r"spiffe://[a-z0-9._-]{1,255}/infrasight/")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_LONGEST_SHOWN = 300  # characters


def uri_name(role: Role, name: str = "", trust_domain: str = DNS_SUFFIX) -> str:
    """Returns the URI name of a role.

    Args:
        role: The role.
        name: The node, cluster or reader; empty for operator and server.
        trust_domain: The SPIFFE trust domain, which InfraSight does not interpret.

    Raises:
        AuthenticationError: The role needs a name or takes none, or the name has other characters
            than letters, digits and `.-_`.
    """
    _identity(role, name)
    path = f"{role}/{name}" if name else str(role)
    return f"spiffe://{trust_domain}/infrasight/{path}"


def read_identity(subject: str, uris: Iterable[str], dns_names: Iterable[str]) -> Identity:
    """Returns the identity that a certificate names.

    Args:
        subject: The certificate's subject, for messages.
        uris: The certificate's URI names.
        dns_names: The certificate's DNS names.

    Raises:
        AuthenticationError: The certificate has no such name, several, or an unknown one.
    """
    named = {_from_uri(uri) for uri in uris if _PREFIX.match(uri)}
    named |= {_from_dns(name) for name in dns_names if name.endswith(f".{DNS_SUFFIX}")}
    if not named:
        raise AuthenticationError(
            f"the certificate {subject!r} names no role: it needs one URI name such as "
            f"spiffe://example.org/infrasight/reader/NAME; see {DOCUMENT}"
        )
    if len(named) > 1:
        names = ", ".join(sorted(identity.name for identity in named))
        raise AuthenticationError(
            f"the certificate {subject!r} names several roles ({names[:_LONGEST_SHOWN]}): it must "
            "name exactly one"
        )
    return named.pop()


def _from_uri(uri: str) -> Identity:
    role, slash, name = _PREFIX.sub("", uri, count=1).partition("/")
    if slash and not name:
        raise AuthenticationError(f"the certificate's URI name {_show(uri)} ends with a slash")
    return _identity(role, name)


def _from_dns(dns_name: str) -> Identity:
    name, _, role = dns_name.removesuffix(f".{DNS_SUFFIX}").rpartition(".")
    return _identity(role, name)


def _identity(role: str, name: str) -> Identity:
    if role not in list(Role):
        known = ", ".join(Role)
        raise AuthenticationError(
            f"the certificate's role {_show(role)} is unknown; roles are {known}"
        )
    if role not in _NAMED:
        if name:
            raise AuthenticationError(f"the role {role} takes no name, but has {_show(name)}")
        return Identity(role, frozenset({Role(role)}))
    if not _NAME.fullmatch(name):
        raise AuthenticationError(
            f"the role {role} needs a name of letters, digits and '.-_', not {_show(name)}"
        )
    node = name if role == Role.AGENT else ""
    return Identity(f"{role}/{name}", frozenset({Role(role)}), node)


def _show(text: str) -> str:
    return repr(text[:_LONGEST_SHOWN])
