"""Who holds how much of something that there is only so much of, so that the right one gives way when it runs out.

Strangers must not be able to fill a budget and keep it. A budget that refuses whoever comes next can be taken by one
peer, for ever. So when one is exhausted, the address that holds most of it gives way, and only then.

An address is no person: many honest clients may share one, behind a NAT or on a host of containers. What is drawn from
these figures has to allow for that, with generous shares, and none while there is room.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from ipaddress import AddressValueError, IPv6Address
from typing import Generic, TypeVar

__all__ = ["Shares", "address_group", "remote_group"]

_HolderT = TypeVar("_HolderT", bound=Hashable)


def address_group(address: str) -> str:
    """What one peer can have many of counts as one: of an IPv6 address the network of 64 bits, `2001:db8::/64`.

    An IPv4 address, or a text that is no address (a unix socket has none), stands for itself.
    """
    if ":" not in address:
        return address
    try:
        network = int(IPv6Address(address.partition("%")[0])) >> 64
    except AddressValueError:
        return address
    return f"{IPv6Address(network << 64)}/64"


def remote_group(remote: str) -> str:
    """The group of a peer, `ip:port` or `[ip]:port`."""
    return address_group(remote.rpartition(":")[0].strip("[]"))


class Shares(Generic[_HolderT]):
    """The amounts of all holders, in groups."""

    def __init__(self) -> None:
        self.total = 0
        self._groups: dict[str, dict[_HolderT, int]] = {}
        self._sums: dict[str, int] = {}

    def add(self, group: str, holder: _HolderT, amount: int) -> None:
        """The holder has so much more; less, if negative. A holder is always of the same group."""
        holders = self._groups.get(group)
        if holders is None:
            holders = self._groups[group] = {}
        held = holders.get(holder, 0) + amount
        assert held >= 0, f"{held} held"
        self.total += amount
        if held:
            holders[holder] = held
            self._sums[group] = self._sums.get(group, 0) + amount
            return
        holders.pop(holder, None)
        if holders:
            self._sums[group] += amount
        else:
            del self._groups[group]
            self._sums.pop(group, None)

    def remove(self, group: str, holder: _HolderT) -> None:
        """The holder has nothing any more."""
        if held := self.of(group).get(holder, 0):
            self.add(group, holder, -held)

    def of(self, group: str) -> Mapping[_HolderT, int]:
        """The holders of a group, with what each has; the one that has had something for the longest comes first."""
        return self._groups.get(group, {})

    def oldest(self, group: str) -> _HolderT | None:
        """The one of the group that has had something for the longest."""
        return next(iter(self._groups.get(group, ())), None)

    def newest(self, group: str) -> _HolderT | None:
        """The one of the group that has had something for the shortest time."""
        return next(reversed(self._groups.get(group, {})), None)

    def sum_of(self, group: str) -> int:
        """What the group has."""
        return self._sums.get(group, 0)

    def largest(self) -> str:
        """The group that has most; empty if nobody has anything. Looks at every group."""
        return max(self._sums, key=self._sums.__getitem__, default="")
