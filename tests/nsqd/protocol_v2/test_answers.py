"""Level `disk`: no answer before the sync that covers it, in order; messages and heartbeats pass. Failed appends."""

from __future__ import annotations

from typing import Any

import pytest

from nsqkit.wire import CLOSE_WAIT, HEARTBEAT, OK, decode_message
from tests.nsqd.protocol_v2.harness import (
    FIN_FAILED,
    UNKNOWN_ID,
    Machine,
    dpub,
    error,
    fin,
    identify,
    is_message,
    mpub,
    pub,
    sub,
)


def disk(**options: Any) -> Machine:
    """Level `disk`; jobs wait until the test runs them."""
    machine = Machine(sync_on_commit=True, **options)
    machine.run_jobs = False
    return machine


@pytest.mark.parametrize("data", [pub(b"x"), mpub(b"x", b"y"), dpub(b"x", 0), dpub(b"x", 9), sub()])
def test_an_answer_waits_for_the_sync(data: bytes) -> None:
    machine = disk()
    client = machine.client().send(data)
    assert client.answers() == []
    machine.run_job()
    assert client.answers() == [OK]


def test_level_os_waits_for_nothing() -> None:
    machine = Machine()
    machine.run_jobs = False
    assert machine.client().send(pub(b"x")).answers() == [OK]


def test_answers_that_need_no_sync_are_given_at_once() -> None:
    machine = disk()
    client = machine.client().send(identify())
    assert client.answers() == [OK]
    client.send(sub())
    machine.run_job()
    assert client.answers() == [OK]
    client.send(fin(UNKNOWN_ID) + b"CLS\n")
    assert client.answers() == [FIN_FAILED, CLOSE_WAIT]


def test_answers_after_a_held_answer_are_held_too() -> None:
    """In the order of the commands, the fatal error and the close included."""
    machine = disk()
    client = machine.client().send(sub())
    client.send(fin(UNKNOWN_ID))
    client.send(pub(b"x"))
    client.send(b"CLS\n")
    client.send(b"what\n")
    client.send(pub(b"never read"))
    assert client.answers() == []
    assert not client.closed
    while machine.broker.store.jobs:
        machine.run_job()
    assert client.answers() == [OK, FIN_FAILED, OK, CLOSE_WAIT, error("E_INVALID invalid command what")]
    assert client.closed


def test_a_sync_releases_only_the_answers_it_covers() -> None:
    """What came while a sync ran waits for the next one."""
    machine = disk()
    one = machine.client().send(pub(b"one"))
    sync = machine.begin_job()
    two = machine.client().send(pub(b"two"))
    one.send(pub(b"three"))
    machine.finish_job(sync)
    assert one.answers() == [OK]
    assert two.answers() == []
    machine.run_job()
    assert one.answers() == [OK]
    assert two.answers() == [OK]


def test_publishes_before_a_sync_begins_are_covered_by_the_sync() -> None:
    """A sync that could not begin at once is for all who have come meanwhile."""
    machine = disk()
    clients = [machine.client().send(pub(b"x")) for _ in range(3)]
    machine.run_job()
    assert [client.answers() for client in clients] == [[OK]] * 3
    assert not machine.broker.store.jobs


def test_messages_and_heartbeats_pass() -> None:
    machine = disk()
    consumer = machine.client().send(identify(heartbeat_interval=1000) + sub() + b"RDY 5\n")
    while machine.broker.store.jobs:
        machine.run_job()
    assert consumer.answers() == [OK, OK]
    consumer.send(pub(b"hello"))
    (frame,) = consumer.new()
    assert decode_message(frame).body == b"hello"
    machine.advance(1)
    assert consumer.answers() == [HEARTBEAT]
    machine.run_job()
    assert consumer.answers() == [OK]


def test_nothing_is_delivered_before_the_answer_to_sub() -> None:
    machine = disk()
    machine.client().send(pub(b"x"))
    consumer = machine.client().send(sub() + b"RDY 5\n")
    assert consumer.new() == []
    while machine.broker.store.jobs:
        machine.run_job()
    ok, message = consumer.new()
    assert ok == OK
    assert is_message(message)


def test_the_answers_come_after_the_client_has_closed_its_side() -> None:
    machine = disk()
    client = machine.client().send(pub(b"x")).eof()
    assert not client.closed
    machine.run_job()
    assert client.answers() == [OK]
    assert client.closed


def test_a_client_that_is_gone_when_the_sync_ends() -> None:
    machine = disk()
    client = machine.client().send(pub(b"x"))
    client.drop()
    other = machine.client().send(pub(b"y"))
    while machine.broker.store.jobs:
        machine.run_job()
    assert client.answers() == []
    assert other.answers() == [OK]
    assert not machine.rounds.has_unreleased_answers


def test_a_failed_sync_answers_nothing() -> None:
    """It is final: the daemon stops, and not even what comes later is acknowledged (I15)."""
    machine = disk()
    client = machine.client().send(pub(b"x"))
    machine.fail_job()
    assert len(machine.fatal) >= 1
    client.send(pub(b"y"))
    machine.client().send(pub(b"z"))
    while machine.broker.store.jobs:
        machine.run_job()
    assert client.answers() == []


@pytest.mark.parametrize("junk", [fin(UNKNOWN_ID) * 5000, pub(b"x") * 5000], ids=["errors", "OKs"])
def test_held_answers_are_bounded(junk: bytes) -> None:
    """I12: while a slow sync holds the answers back, a client is not read without end."""
    machine = disk()
    client = machine.client().send(sub())
    fed = 0
    while client.session.wants_input and fed < 100:
        client.send(junk)
        fed += 1
    assert fed < 100
    while machine.broker.store.jobs:
        machine.run_job()
    assert client.session.wants_input
    assert len(client.answers()) == 1 + 5000 * fed


# --- an append that failed


def test_the_ok_becomes_the_error_and_later_commands_are_not_answered() -> None:
    machine = Machine()
    machine.client().send(pub(b"x", "good") + pub(b"x", "bad"))
    machine.fail_appends(topic="topic-bad")
    client = machine.client().send(pub(b"1", "good") + pub(b"2", "bad") + pub(b"3", "good") + b"what\n")
    assert client.answers() == [OK, error("E_PUB_FAILED PUB failed Input/output error")]
    assert client.closed


def test_a_failed_append_of_one_topic_is_not_told_to_others() -> None:
    """I7."""
    machine = Machine()
    machine.client().send(pub(b"x", "good") + pub(b"x", "bad"))
    machine.fail_appends(topic="topic-bad")
    good, bad = machine.client(), machine.client()
    machine.rounds.begin()
    good.session.feed(pub(b"1", "good"))
    bad.session.feed(pub(b"2", "bad"))
    machine.settle()
    assert good.answers() == [OK]
    assert bad.answers() == [error("E_PUB_FAILED PUB failed Input/output error")]
    assert (good.closed, bad.closed) == (False, True)


def test_all_publishers_of_a_failed_append_get_the_error() -> None:
    machine = Machine()
    machine.client().send(pub(b"x"))
    machine.fail_appends()
    clients = [machine.client() for _ in range(3)]
    machine.rounds.begin()
    for client, data in zip(clients, (pub(b"1"), mpub(b"2", b"3"), dpub(b"4", 1)), strict=True):
        client.session.feed(data)
    machine.settle()
    for client, name in zip(clients, ("PUB", "MPUB", "DPUB"), strict=True):
        assert client.answers() == [error(f"E_{name}_FAILED {name} failed Input/output error")]
        assert client.closed


def test_a_sub_after_a_failed_publish_gets_no_message() -> None:
    """Its SUB is not answered, so nothing may be delivered to it either."""
    machine = Machine()
    machine.client().send(pub(b"x", "good") + pub(b"x", "bad"))
    machine.fail_appends(topic="topic-bad")
    client = machine.client().send(pub(b"2", "bad") + sub("c", "good") + b"RDY 5\n")
    assert client.new() == [error("E_PUB_FAILED PUB failed Input/output error")]
    assert client.closed
    assert machine.channel("c", "good").depth == 1


def test_a_failed_append_at_level_disk_stays_in_order() -> None:
    machine = disk()
    client = machine.client().send(pub(b"1"))
    machine.fail_appends()
    client.send(pub(b"2") + pub(b"3"))
    assert client.answers() == []
    while machine.broker.store.jobs:
        machine.run_job()
    assert client.answers() == [OK, error("E_PUB_FAILED PUB failed Input/output error")]
    assert client.closed
