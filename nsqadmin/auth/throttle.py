"""Limits on tries to log in: after some that fail, each further one has to wait, twice as long as the one before.

Failures are counted for each name, whether there is such a user or not, and for each address. A try counts as failed
from its begin, so that many at once are no way around. An address from which a user has logged in before has a count of
its own for him: strangers who try his name elsewhere do not lock him out.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import Final

import attrs

__all__ = [
    "FREE_TRIES",
    "FREE_TRIES_OF_ADDRESS",
    "MAX_REMEMBERED",
    "MAX_WAIT_S",
    "Throttle",
    "address_of",
    "is_this_machine",
]

FREE_TRIES: Final = 5
"""Failures of a name before the first wait."""
FREE_TRIES_OF_ADDRESS: Final = 20
"""The same of an address, which several users may share."""
MAX_WAIT_S: Final = 60.0
FORGOTTEN_AFTER_S: Final = 15 * 60.0
MAX_REMEMBERED: Final = 10_000
"""Names and addresses, and pairs of them; those of the longest time ago are forgotten first."""

_THIS_MACHINE: Final = "this machine"
_Key = tuple[str, ...]


@attrs.define
class _Failures:
    count: int = 0
    last: float = -math.inf
    next_try: float = -math.inf


@attrs.define(eq=False)
class Throttle:
    """Times are seconds of a clock that is never set."""

    _failures: OrderedDict[_Key, _Failures] = attrs.field(factory=OrderedDict, init=False)
    _known: OrderedDict[_Key, None] = attrs.field(factory=OrderedDict, init=False)
    """Names with addresses from which they have logged in."""

    def begin(self, name: str, address: str, now: float) -> float:
        """Begin a try: 0, or for how many seconds none may be made. It has failed unless `succeeded` is called."""
        keys = self._keys(name, address)
        # A try that is not made leaves nothing behind: else names that nobody has would push out those that count.
        wait = max(self._failures[key].next_try - now if key in self._failures else 0.0 for key, _ in keys)
        if wait > 0:
            return wait
        for failures, free in [(self._find(key, now), free) for key, free in keys]:
            failures.count += 1
            failures.last = now
            if failures.count >= free:
                # Without the bound a power of a large count would be an error.
                failures.next_try = now + min(2.0 ** min(failures.count - free, 30), MAX_WAIT_S)
        return 0.0

    def succeeded(self, name: str, address: str) -> None:
        """The last try of this name from this address has not failed."""
        pair = (name, address)
        for key, _ in self._keys(name, address):
            if key == ("address", address):
                # Others of this address may have failed, and be guessing.
                failures = self._failures.get(key, _Failures())
                failures.count = max(0, failures.count - 1)
                failures.next_try = -math.inf
            else:
                self._failures.pop(key, None)
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def _keys(self, name: str, address: str) -> list[tuple[_Key, int]]:
        if (name, address) in self._known:
            return [(("both", name, address), FREE_TRIES)]
        return [(("name", name), FREE_TRIES), (("address", address), FREE_TRIES_OF_ADDRESS)]

    def _find(self, key: _Key, now: float) -> _Failures:
        failures = self._failures.get(key)
        if failures is None or now - failures.last > FORGOTTEN_AFTER_S:
            failures = self._failures[key] = _Failures()
            if len(self._failures) > MAX_REMEMBERED:
                self._failures.popitem(last=False)
        self._failures.move_to_end(key)
        return failures


def address_of(remote: str, forwarded: bytes | None) -> str:
    """Of a client, for counting: without its port, and of IPv6 the network, which one client has all of.

    `remote` is the other end of the connection. If that is this machine, it may be a proxy, and `forwarded`, the header
    X-Forwarded-For, ends with the address that the proxy has seen.
    """
    address = _parse(remote.rpartition(":")[0])
    if forwarded and (address is None or address.is_loopback):
        address = _parse(forwarded.decode("latin-1").rpartition(",")[2].strip()) or address
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or _THIS_MACHINE)


def is_this_machine(address: str) -> bool:
    """Whether what `address_of` has returned is of this machine."""
    return address == _THIS_MACHINE or ipaddress.ip_network(address, strict=False).is_loopback


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
