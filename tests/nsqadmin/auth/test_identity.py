"""Roles, the topics of a user, and what an identity is called."""

from __future__ import annotations

import pytest

from nsqadmin.auth import ALL_TOPICS, STRANGER, Identity, Means, Role, Topics, identity_of
from nsqkit.access import ScopeError
from tests.nsqadmin.asking import request


def test_each_role_may_what_those_before_it_may() -> None:
    assert list(Role) == sorted(Role)
    identities = [Identity("a", Means.SESSION, role) for role in Role]
    assert [each.may_operate for each in identities] == [False, False, True, True]
    assert [each.may_read_messages for each in identities] == [False, False, False, True]


def test_nodes_are_for_users_without_a_limit() -> None:
    limited = Topics.parse(["orders.*"])
    assert Identity("a", Means.SESSION, Role.OPERATOR).may_operate_nodes
    assert not Identity("a", Means.SESSION, Role.ADMIN, limited).may_operate_nodes


@pytest.mark.parametrize(
    ("patterns", "included", "others"),
    [
        (["orders.*"], ["orders.", "orders.new"], ["orders", "payments", "", "xorders.new", "Orders.new"]),
        (["a", "b*#ephemeral"], ["a", "b#ephemeral", "bc#ephemeral"], ["b", "aa", "bc"]),
        (["a", "*"], ["a", "z", ""], []),
    ],
)
def test_topics_are_those_of_any_pattern(patterns: list[str], included: list[str], others: list[str]) -> None:
    topics = Topics.parse(patterns)
    assert all(topics.include(each) for each in included)
    assert not any(topics.include(each) for each in others)
    assert topics.are_all == (others == [])
    assert Topics.parse(str(topics).split(",")) == topics


@pytest.mark.parametrize("pattern", ["", "a b", "a/b", "ü", "x" * 101])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ScopeError, match="is no pattern"):
        Topics.parse([pattern])


def test_an_identity_has_a_name_for_logs() -> None:
    named = [str(Identity("bob", means)) for means in Means]
    assert named == ["anonymous:bob", "session:bob", "basic:bob", "header:bob"]
    assert str(Identity("", Means.HEADER)) == "header"
    assert str(STRANGER) == "anonymous"
    assert "secret" not in repr(Identity("bob", Means.SESSION, token="secret"))


def test_a_request_that_nobody_has_asked_about_is_a_stranger_s() -> None:
    asked, other = request(), request()
    asked.identity = identity = Identity("bob", Means.HEADER, Role.ADMIN, ALL_TOPICS)
    assert identity_of(asked) is identity
    assert identity_of(other) is STRANGER
