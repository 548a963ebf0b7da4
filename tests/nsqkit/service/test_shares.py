"""Who holds how much of a budget, by address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.service.shares import Shares, address_group, remote_group


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_the_group_of_an_address(address: str, group: str) -> None:
    assert address_group(address) == group


@pytest.mark.parametrize(
    ("remote", "group"),
    [("192.0.2.7:4150", "192.0.2.7"), ("[2001:db8::1]:4150", "2001:db8::/64"), ("@", "")],
)
def test_the_group_of_a_peer(remote: str, group: str) -> None:
    assert remote_group(remote) == group


def test_nobody_holds_anything() -> None:
    shares: Shares[str] = Shares()
    assert (shares.total, shares.largest(), shares.sum_of("a"), dict(shares.of("a"))) == (0, "", 0, {})
    shares.remove("a", "x")
    shares.add("a", "x", 0)
    assert (shares.total, shares.largest()) == (0, "")


changes = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(-3, 5)), min_size=1, max_size=40
)


@given(changes)
def test_sums_are_those_of_the_holders(changes: list[tuple[str, str, int]]) -> None:
    shares: Shares[str] = Shares()
    held: dict[tuple[str, str], int] = {}
    for group, name, amount in changes:
        holder = group + name
        amount = max(amount, -held.get((group, holder), 0))
        held[group, holder] = held.get((group, holder), 0) + amount
        shares.add(group, holder, amount)
        for each in "ab":
            mine = {h: size for (g, h), size in held.items() if g == each and size}
            assert dict(shares.of(each)) == mine
            assert shares.sum_of(each) == sum(mine.values())
            assert (shares.oldest(each) is None) == (shares.newest(each) is None) == (not mine)
        assert shares.total == sum(held.values())
        largest = shares.largest()
        assert shares.sum_of(largest) == max(shares.sum_of("a"), shares.sum_of("b"))
    for group, holder in held:
        shares.remove(group, holder)
    assert (shares.total, shares.largest()) == (0, "")


def test_a_holder_cannot_give_back_more_than_it_has() -> None:
    shares: Shares[str] = Shares()
    shares.add("a", "x", 2)
    with pytest.raises(AssertionError):
        shares.add("a", "x", -3)


def test_holders_in_the_order_of_their_first_amount() -> None:
    shares: Shares[str] = Shares()
    for holder, amount in (("x", 1), ("y", 1), ("x", 5), ("z", 1)):
        shares.add("a", holder, amount)
    assert (shares.oldest("a"), shares.newest("a")) == ("x", "z")
    shares.remove("a", "x")
    shares.add("a", "x", 1)
    assert (shares.oldest("a"), shares.newest("a")) == ("y", "x")
