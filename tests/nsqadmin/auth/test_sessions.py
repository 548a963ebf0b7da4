"""Sessions: how they are found, and when they end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.auth import Identity, Means, Role
from nsqadmin.auth.sessions import MAX_SESSIONS, Sessions, new_session_id
from nsqadmin.auth.users import User, Users
from tests.nsqadmin.auth.people import user

IDLE_S, LIFETIME_S = 600.0, 3600.0
ALICE, BOB = user("alice", Role.ADMIN), user("bob", Role.OPERATOR, "orders")


@pytest.fixture
def sessions(mock_clock: trio.testing.MockClock) -> Sessions:
    return Sessions(IDLE_S, LIFETIME_S)


def opened(sessions: Sessions, user: User = ALICE) -> tuple[bytes, Identity]:
    key = sessions.key_of(new_session_id().encode())
    return key, sessions.open(user, Means.SESSION, key)


async def test_a_session_is_its_user_s(sessions: Sessions) -> None:
    key, identity = opened(sessions, BOB)
    assert sessions.find(key) is identity
    assert (identity.name, identity.means, identity.role) == ("bob", Means.SESSION, Role.OPERATOR)
    assert identity.topics == BOB.topics
    assert sessions.find(b"") is None
    assert sessions.find(sessions.key_of(b"")) is None


async def test_ids_keys_and_tokens_are_not_the_same_twice(sessions: Sessions) -> None:
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100
    assert min(map(len, ids)) >= 43
    tokens = {opened(sessions)[1].token for _ in range(10)}
    assert len(tokens) == 10
    assert Sessions(1, 1).key_of(b"x") != Sessions(1, 1).key_of(b"x") != b"x"


async def test_a_session_ends_when_it_is_not_used(
    sessions: Sessions, mock_clock: trio.testing.MockClock
) -> None:
    used, _ = opened(sessions)
    idle, identity = opened(sessions)
    for _ in range(3):
        mock_clock.jump(IDLE_S / 2)
        assert sessions.find(used) is not None
    assert sessions.find(idle) is None
    assert identity.ended.is_set()
    assert len(sessions) == 1


async def test_a_session_ends_after_its_time_however_much_it_is_used(
    sessions: Sessions, mock_clock: trio.testing.MockClock
) -> None:
    key, _ = opened(sessions)
    for _ in range(int(LIFETIME_S / 60) - 1):
        mock_clock.jump(60)
        assert sessions.find(key) is not None
    mock_clock.jump(60)
    assert sessions.find(key) is None


async def test_a_session_that_nobody_asks_for_ends_too(
    sessions: Sessions, mock_clock: trio.testing.MockClock
) -> None:
    """Its streams wait for that."""
    _, identity = opened(sessions)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.run)
        mock_clock.autojump_threshold = 0
        began = trio.current_time()
        await identity.ended.wait()
        assert IDLE_S <= trio.current_time() - began <= IDLE_S + 10
        nursery.cancel_scope.cancel()
    assert len(sessions) == 0


async def test_a_logout_ends_one_session(sessions: Sessions) -> None:
    (key, identity), (other, _) = opened(sessions), opened(sessions)
    sessions.end(key)
    sessions.end(key)
    assert identity.ended.is_set()
    assert sessions.find(key) is None
    assert sessions.find(other) is not None


@pytest.mark.parametrize(
    "users",
    [
        Users([BOB]),
        Users([user("alice", Role.VIEWER), BOB]),
        Users([user("alice", Role.ADMIN, "orders"), BOB]),
        Users([user("alice", Role.ADMIN, password="another one"), BOB]),
    ],
    ids=["removed", "another role", "other topics", "another password"],
)
async def test_the_sessions_of_a_user_who_is_removed_or_changed_end(sessions: Sessions, users: Users) -> None:
    of_alice, of_bob = [opened(sessions) for _ in range(3)], opened(sessions, BOB)
    assert sessions.keep_only(users) == 3
    assert all(identity.ended.is_set() for _, identity in of_alice)
    assert all(sessions.find(key) is None for key, _ in of_alice)
    assert sessions.find(of_bob[0]) is of_bob[1]


async def test_a_user_has_only_so_many_sessions_and_takes_none_of_others(sessions: Sessions) -> None:
    of_bob = opened(sessions, BOB)
    first, *others = [opened(sessions) for _ in range(MAX_SESSIONS)]
    assert sessions.find(first[0]) is not None  # now it is the one that was used last
    opened(sessions)
    assert others[0][1].ended.is_set()
    assert not any(identity.ended.is_set() for _, identity in (first, *others[1:], of_bob))
    assert len(sessions) == MAX_SESSIONS + 1
