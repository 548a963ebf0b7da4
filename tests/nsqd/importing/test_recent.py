"""What is remembered of a queue, to import once what the original has written twice."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from nsqd.importing import recent
from nsqd.importing.recent import Recent
from tests.nsqd.importing.original import Ids


@pytest.fixture
def messages() -> list[bytes]:
    ids = Ids()
    return [ids.message(b"%d" % number).encode() for number in range(20)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT", 4)
    monkeypatch.setattr(recent, "TOTAL", 12)


def add_each(memory: Recent, messages: Iterable[bytes]) -> None:
    for message in messages:
        assert memory.add([message]) == [message]


def test_within_one_list(messages: list[bytes]) -> None:
    a, b, c = messages[:3]
    assert Recent(1).add([a, b, a, c, b]) == [a, b, c]


def test_between_lists(messages: list[bytes]) -> None:
    a, b, c = messages[:3]
    memory = Recent(1)
    assert memory.add([a, b]) == [a, b]
    assert memory.add([b, c, a, c]) == [c]
    assert memory.known([c, messages[5], a, c]) == [0, 2, 3]
    assert memory.known([messages[5]]) == []


@pytest.mark.parametrize(("queues", "size"), [(1, 4), (3, 4), (4, 3), (12, 1), (100, 1)])
def test_at_least_the_last_ones_and_at_most_twice_as_many(
    messages: list[bytes], queues: int, size: int
) -> None:
    """With many queues fewer of each, so that all together are bounded."""
    for count in range(1, len(messages) + 1):
        memory = Recent(queues)
        add_each(memory, messages[:count])
        known = memory.known(messages)
        assert known == list(range(known[0], count)), "the last ones"
        assert min(count, size) <= len(known) <= 2 * size


def test_another_delivery_of_the_same_message_is_no_other_message(messages: list[bytes]) -> None:
    memory = Recent(1)
    memory.add(messages[:1])
    again = messages[0][:8] + b"\0\5" + messages[0][10:]
    assert memory.add([again]) == []


def test_another_timestamp_is_another_message(messages: list[bytes]) -> None:
    memory = Recent(1)
    memory.add(messages[:1])
    other = bytes(8) + messages[0][8:]
    assert memory.add([other]) == [other]
