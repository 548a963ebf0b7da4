"""Checks of what a user passes. An error names the parameter, the value, the rule and, where there is one, the nearest
right value. A value of a wrong type is a `TypeError`, any other wrong value a `ValueError`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Set
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from nsqkit.client.address import Address
from nsqkit.client.options import ClientOptions, OptionChanges
from nsqkit.discovery import registry_url
from nsqkit.options import did_you_mean
from nsqkit.wire import is_valid_name
from nsqkit.wire.names import MAX_NAME_LENGTH

__all__ = [
    "Addresses",
    "changed",
    "checked_bodies",
    "checked_body",
    "checked_name",
    "nsqd_addresses",
    "registry_addresses",
]

Addresses = list[str] | tuple[str, ...] | Set[str]
"""Several addresses. Not `Iterable[str]`, which a single text would match."""

TCP_PORT: Final = 4150
HTTP_PORT: Final = 4151
REGISTRY_PORT: Final = 4161
_RULE: Final = f"a name has 1 to {MAX_NAME_LENGTH} of the characters .a-zA-Z0-9_-, and perhaps #ephemeral"


def changed(options: ClientOptions | None, changes: OptionChanges) -> ClientOptions:
    """The options with these changes. `TypeError` for names that are no options."""
    names = attrs.fields_dict(ClientOptions)
    for name in changes:
        if name not in names:
            raise TypeError(f"there is no parameter or option {name!r}{did_you_mean(name, names)}")
    return attrs.evolve(options or ClientOptions(), **changes)


def nsqd_addresses(addresses: Addresses) -> list[Address]:
    """The nsqds in `nsqd_tcp_addresses`."""
    return [_nsqd(text) for text in _several("nsqd_tcp_addresses", addresses)]


def registry_addresses(addresses: Addresses) -> list[str]:
    """The registries in `lookupd_http_addresses`."""
    several = _several("lookupd_http_addresses", addresses)
    for text in several:
        try:
            registry_url(text, "lookup")
        except ValueError as error:
            hint = f" (did you mean '{text}:{REGISTRY_PORT}'?)" if _is_host(text) else ""
            raise ValueError(f"lookupd_http_addresses: {error}{hint}") from None
    return several


@functools.lru_cache(maxsize=1024)
def checked_name(parameter: str, name: str) -> str:
    """The name of a topic or channel, if it is a valid one."""
    if not isinstance(name, str):
        raise TypeError(f"{parameter} is text, not {name!r}{_decoded(name)}")
    if is_valid_name(name):
        return name
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{parameter}: {name[:100]!r} has {len(name)} characters; {_RULE}")
    nearest = re.sub(r"[^.a-zA-Z0-9_-]+", "_", name)
    hint = f" (did you mean {nearest!r}?)" if is_valid_name(nearest) else ""
    raise ValueError(f"{parameter}: {name!r} is not a {parameter} name; {_RULE}{hint}")


def checked_body(body: Any) -> bytes:
    """The body of a message, as bytes."""
    if isinstance(body, bytes):
        return body
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        raise TypeError(f"body is bytes, not the text {body[:50]!r}: encode it, as in text.encode()")
    raise TypeError(f"body is bytes, not {type(body).__name__}: encode it, or use publish_value with a codec")


def checked_bodies(bodies: Any) -> list[bytes]:
    """The bodies of a batch."""
    if isinstance(bodies, str | bytes | bytearray | memoryview):
        raise TypeError("bodies is a list of bodies, not a single one: write [body]")
    return [body if body.__class__ is bytes else checked_body(body) for body in bodies]


def _several(parameter: str, addresses: Any) -> list[str]:
    if isinstance(addresses, str | bytes) or not isinstance(addresses, Collection):
        raise TypeError(f"{parameter} is a list of addresses, not {addresses!r}: write [{addresses!r}]")
    for text in addresses:
        if not isinstance(text, str):
            raise TypeError(f"{parameter}: an address is text, host:port, not {text!r}{_decoded(text)}")
    return list(addresses)


def _nsqd(text: str) -> Address:
    if "://" in text:
        parts = urlsplit(text)
        port = re.sub(r".*:|\D", "", parts.netloc) or str(TCP_PORT)
        port = str(TCP_PORT) if int(port) == HTTP_PORT else port
        raise ValueError(
            f"nsqd_tcp_addresses: an address is host:port, not a URL: {text!r} "
            f"(did you mean '{parts.hostname}:{port}'?)"
        )
    try:
        return Address.parse(text)
    except ValueError as error:
        hint = f" (did you mean '{text}:{TCP_PORT}'?)" if _is_host(text) else ""
        raise ValueError(f"nsqd_tcp_addresses: {error}{hint}") from None


def _is_host(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+", text) is not None


def _decoded(value: object) -> str:
    return f" (did you mean {value.decode('utf-8', 'replace')!r}?)" if isinstance(value, bytes) else ""
