"""Producers against a scripted nsqd in memory."""

# ruff: noqa: SIM117 - what stands inside belongs to what stands outside
from __future__ import annotations

import itertools
import random
from typing import Any

import anyio
import pytest

from nsqkit import wire
from nsqkit.client import (
    BadMessage,
    MultiPublishFailed,
    NotConnected,
    Producer,
    PublishFailed,
    ServerError,
    UncertainPublish,
)
from tests.nsqkit.client.fake import FakeNsqd, Peer, both_backends, fake_nsqd, run, run_mocked

ROUNDS = 20


def producer_of(nsqd: FakeNsqd, **options: Any) -> Producer:
    settings: dict[str, Any] = {
        "nsqd_tcp_addresses": ["a:1"],
        "random": random.Random(1),
        "reconnect_delay": 0.01,
    }
    return Producer(connect=nsqd.connect, **(settings | options))


async def identified(nsqd: FakeNsqd) -> Peer:
    peer = await nsqd.peer()
    await peer.expect("IDENTIFY")
    return peer


@both_backends
def test_the_three_ways_to_publish(backend: str) -> None:
    """Each on the wire as documented."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, producer_of(nsqd) as producer:
            await producer.publish("t", b"one")
            await producer.publish_multi("t", [b"two", b"three"])
            await producer.publish_deferred("t", b"four", 1.5)
            peer = await nsqd.peer()
            await peer.expect("IDENTIFY", "PUB t", "MPUB t", "DPUB t 1500")
            assert peer.bodies[1:] == [b"one", b"\0\0\0\2\0\0\0\3two\0\0\0\5three", b"four"]
            stats = producer.stats()
            assert (stats.published, stats.failed, stats.in_air, stats.connected) == (3, 0, 0, ("a:1",))

    run(main, backend)


@both_backends
def test_publishes_of_many_tasks_share_one_send_and_keep_their_order(backend: str) -> None:
    """Pipelined; each returns with its own answer."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, producer_of(nsqd) as producer:
            await producer.publish("t", b"first")
            peer = await nsqd.peer()
            before = peer.sends
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(producer.publish, "t", b"%d" % number)
            assert sorted(peer.bodies[2:]) == sorted(b"%d" % number for number in range(50))
            assert peer.sends - before <= 2

    run(main, backend)


@both_backends
def test_what_was_waiting_goes_to_the_nsqd_that_is_there(backend: str) -> None:
    """One address is down."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd:
            async with producer_of(nsqd, nsqd_tcp_addresses=["a:1", "b:2"]) as producer:
                await producer.publish("t", b"x")
                peer = await nsqd.peer()
                assert peer.address.port == 2

    run(main, backend)


@both_backends
def test_an_unanswered_publish_is_sent_again_elsewhere(backend: str) -> None:
    """at_least_once: the default."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd, producer_of(nsqd) as producer:
            async with anyio.create_task_group() as group:
                group.start_soon(producer.publish, "t", b"x")
                first = await identified(nsqd)
                await first.expect("PUB t")
                nsqd.answers.clear()
                await first.close()
            second = await identified(nsqd)
            await second.expect("PUB t")
            assert producer.stats().resent == 1

    run(main, backend)


@both_backends
def test_or_it_is_said_that_nobody_knows(backend: str) -> None:
    """at_least_once=False; what was certainly not sent goes on."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd:
            async with producer_of(nsqd, at_least_once=False, max_publishes_in_air=1) as producer:
                outcome: list[str] = []

                async def publish(body: bytes) -> None:
                    try:
                        await producer.publish("t", body)
                        outcome.append(f"ok {body.decode()}")
                    except UncertainPublish:
                        outcome.append(f"uncertain {body.decode()}")

                async with anyio.create_task_group() as group:
                    first = await identified(nsqd)
                    group.start_soon(publish, b"1")
                    await first.expect("PUB t")
                    group.start_soon(publish, b"2")
                    await anyio.sleep(0.01)
                    nsqd.answers.clear()
                    await first.close()
                assert sorted(outcome) == ["ok 2", "uncertain 1"]

    run(main, backend)


@both_backends
def test_a_bad_publish_fails_alone(backend: str) -> None:
    """nsqd stops at it and closes: what stood behind was not executed and is sent again."""

    async def main() -> None:
        async with (
            fake_nsqd(answers={"PUB": None}) as nsqd,
            producer_of(nsqd, at_least_once=False) as producer,
        ):
            errors: list[Exception] = []

            async def publish(body: bytes) -> None:
                try:
                    await producer.publish("t", body)
                except BadMessage as error:
                    errors.append(error)

            async with anyio.create_task_group() as group:
                for body in (b"1", b"2", b"3"):
                    group.start_soon(publish, body)
                first = await identified(nsqd)
                await first.take(3)
                nsqd.answers.clear()
                first.frame(wire.OK)
                first.frame(wire.encode_error(b"E_BAD_MESSAGE PUB message too big 2 > 1"))
                await first.ended.wait()
            assert [str(error) for error in errors] == ["E_BAD_MESSAGE PUB message too big 2 > 1"]
            stats = producer.stats()
            assert (stats.published, stats.failed) == (2, 1)

    run(main, backend)


@both_backends
def test_an_error_that_nobody_knows_is_an_answer_too(backend: str) -> None:
    """The publish fails at once with what nsqd said, instead of being sent again until its time-out."""

    async def main() -> None:
        refusal = wire.encode_error(b"E_QUOTA topic t is over its quota")
        async with fake_nsqd(answers={"PUB": refusal}) as nsqd, producer_of(nsqd) as producer:
            with pytest.raises(ServerError, match="E_QUOTA topic t is over its quota"):
                await producer.publish("t", b"x")
            assert producer.stats().resent == 0

    run(main, backend)


@both_backends
def test_an_nsqd_without_room_makes_way_for_another(backend: str) -> None:
    """E_PUB_FAILED is a certain no; when all have said it, it is raised."""

    async def main() -> None:
        full = wire.encode_error(b"E_PUB_FAILED PUB failed no space left on device")
        async with fake_nsqd() as nsqd:
            async with producer_of(nsqd, nsqd_tcp_addresses=["a:1", "b:2"], reconnect_delay=50) as producer:
                first, second = await identified(nsqd), await identified(nsqd)
                while len(producer.stats().connected) < 2:
                    await anyio.lowlevel.checkpoint()
                first.answers = {"PUB": full}
                second.answers = {"PUB": full}
                with pytest.raises(PublishFailed, match="no space left"):
                    await producer.publish("t", b"x")
                assert "PUB t" in first.commands + second.commands

    run(main, backend)


@both_backends
def test_a_batch_is_refused_as_one(backend: str) -> None:
    """One error, of its own class."""

    async def main() -> None:
        failed = wire.encode_error(b"E_MPUB_FAILED MPUB failed exiting")
        async with fake_nsqd(answers={"MPUB": failed}) as nsqd, producer_of(nsqd) as producer:
            with pytest.raises(MultiPublishFailed):
                await producer.publish_multi("t", [b"a", b"b"])

    run(main, backend)


def test_a_publish_without_any_nsqd_fails_after_its_time_with_the_reason() -> None:
    """NotConnected: it was certainly not accepted."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd, producer_of(nsqd, publish_timeout=10) as producer:
            start = anyio.current_time()
            with pytest.raises(NotConnected, match="nobody at a:1"):
                await producer.publish("t", b"x")
            assert anyio.current_time() - start == pytest.approx(10, abs=0.01)

    run_mocked(main)


def test_an_nsqd_that_works_for_a_moment_is_tried_again_soon() -> None:
    """Each time, as long as it answers something: the pauses grow only while it does not."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            async with producer_of(nsqd, reconnect_delay=1, max_reconnect_delay=60) as producer:
                for _ in range(5):
                    await producer.publish("t", b"x")
                    peer = await nsqd.peer()
                    await peer.close()
                pauses = [later - sooner for sooner, later in itertools.pairwise(nsqd.attempts)]
                assert max(pauses) <= 1.01

    run_mocked(main)


def test_a_publish_that_is_never_answered_fails_as_uncertain() -> None:
    """The connection lives, the answer does not come."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}, heartbeat_s=20) as nsqd:
            async with producer_of(nsqd, publish_timeout=45) as producer:
                start = anyio.current_time()
                with pytest.raises(UncertainPublish, match="no answer within 45 s"):
                    await producer.publish("t", b"x")
                assert anyio.current_time() - start == pytest.approx(45, abs=0.01)

    run_mocked(main)


def test_a_silent_nsqd_s_publishes_move_on() -> None:
    """Nothing heard for read_timeout: the other nsqd takes them."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            options: dict[str, Any] = {"publish_timeout": 300, "heartbeat_interval": 5, "read_timeout": 10}
            async with producer_of(nsqd, nsqd_tcp_addresses=["a:1", "b:2"], **options) as producer:
                first, second = await identified(nsqd), await identified(nsqd)
                await anyio.sleep(0.1)
                first.answers = {"PUB": None, "IDENTIFY": None}
                second.heartbeat_s = 5
                nsqd.group.start_soon(second.beat)
                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(producer.publish, "t", b"x")
                assert second.commands.count("PUB t") == 4
                assert first.commands.count("PUB t") == 2

    run_mocked(main)


def test_back_pressure_bounds_what_waits() -> None:
    """No more than so many in the queue and in the air; the rest waits its turn, in order."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}, heartbeat_s=20) as nsqd:
            async with producer_of(nsqd, max_publishes_in_air=3, publish_timeout=300) as producer:
                peer = await identified(nsqd)
                async with anyio.create_task_group() as group:
                    for number in range(10):
                        group.start_soon(producer.publish, "t", b"%d" % number)
                        await anyio.sleep(0.01)
                    assert (producer.stats().in_air, producer.stats().queued) == (3, 3)
                    for _ in range(10):
                        peer.frame(wire.OK)
                        await anyio.sleep(0.1)
                assert [int(body) for body in peer.bodies[1:]] == list(range(10))

    run_mocked(main)


def test_answers_make_room_for_bytes() -> None:
    """Round after round as many are in the air as the bytes allow."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}, heartbeat_s=20) as nsqd:
            async with producer_of(nsqd, max_bytes_in_air=200) as producer:
                peer = await identified(nsqd)
                async with anyio.create_task_group() as group:
                    for _ in range(6):
                        group.start_soon(producer.publish, "t", b"x" * 60)
                    for _ in range(3):
                        await anyio.sleep(1)
                        assert producer.stats().in_air == 2
                        peer.frame(wire.OK * 2)
                assert producer.stats().published == 6

    run_mocked(main)


def test_waiting_for_room_has_the_same_time_out() -> None:
    """And its bytes count as well."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd:
            async with producer_of(nsqd, max_bytes_in_air=100, publish_timeout=10) as producer:
                start = anyio.current_time()
                failed: list[float] = []

                async def publish() -> None:
                    with pytest.raises(NotConnected):
                        await producer.publish("t", b"x" * 60)
                    failed.append(anyio.current_time() - start)

                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(publish)
                    await anyio.sleep(1)
                    assert producer.stats().queued == 1
                assert max(failed) <= 10.01

    run_mocked(main)


@both_backends
def test_a_cancelled_publish_that_waits_is_not_sent(backend: str) -> None:
    """And leaves no trace."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd, producer_of(nsqd) as producer:
            with anyio.move_on_after(0.02):
                await producer.publish("t", b"never")
            nsqd.down.clear()
            await producer.publish("t", b"now")
            peer = await nsqd.peer()
            assert peer.bodies[1:] == [b"now"]

    run(main, backend)


@both_backends
def test_bad_arguments_are_refused_before_anything_is_sent(backend: str) -> None:
    """They would cost everybody the connection."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, producer_of(nsqd) as producer:
            for topic, body in (("", b"x"), ("bad topic", b"x"), ("t" * 65, b"x"), ("t", b"")):
                with pytest.raises(ValueError):
                    await producer.publish(topic, body)
            with pytest.raises(ValueError):
                await producer.publish_multi("t", [])
            with pytest.raises(ValueError):
                await producer.publish_deferred("t", b"x", -1)
        with pytest.raises(NotConnected, match="closed"):
            await producer.publish("t", b"x")
        with pytest.raises(NotConnected, match="async with"):
            await producer_of(nsqd).publish("t", b"x")

    run(main, backend)


@both_backends
def test_leaving_waits_for_what_other_tasks_publish(backend: str) -> None:
    """A publish that was begun gets its answer."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, anyio.create_task_group() as group:
            async with producer_of(nsqd) as producer:
                group.start_soon(producer.publish, "t", b"x")
                while not producer.stats().queued:
                    await anyio.lowlevel.checkpoint()
            assert producer.stats().published == 1

    run(main, backend)


@both_backends
def test_leaving_does_not_wait_for_publishes_that_were_given_up(backend: str) -> None:
    """A publish of another task that is cancelled while the block waits for its answer."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd, anyio.create_task_group() as group:
            async with producer_of(nsqd) as producer:
                peer = await identified(nsqd)
                group.start_soon(give_up, producer)
                await peer.expect("PUB t")
            assert producer.stats().published == 0

    async def give_up(producer: Producer) -> None:
        with anyio.move_on_after(0.02) as scope:
            await producer.publish("t", b"x")
        assert scope.cancelled_caught

    run(main, backend)


@both_backends
def test_nsqd_gets_the_next_publishes_while_half_of_the_answers_are_worked_through(backend: str) -> None:
    """All answered at once: the next ones leave in two sends, so that neither side waits for the other.

    On trio, which runs tasks in random order, in half of the cases.
    """

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd, producer_of(nsqd) as producer:
            peer = await identified(nsqd)

            async def publish_many() -> None:
                for _ in range(ROUNDS):
                    await producer.publish("t", b"1")

            sends = []
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(publish_many)
                await peer.take(100)
                for _ in range(ROUNDS - 1):
                    before = peer.sends
                    peer.frame(wire.OK * 100)
                    await peer.take(100)
                    sends.append(peer.sends - before)
                peer.frame(wire.OK * 100)
            assert set(sends) <= {1, 2}
            assert 2 in sends
            assert backend == "trio" or 1 not in sends
            assert producer.stats().published == 100 * ROUNDS

    run(main, backend)


@both_backends
def test_answers_count_that_came_with_the_end(backend: str) -> None:
    """Many in one piece, and the connection broken right behind: what was answered is not sent again."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd:
            async with producer_of(nsqd, at_least_once=False) as producer:
                peer = await identified(nsqd)
                async with anyio.create_task_group() as group:
                    for _ in range(100):
                        group.start_soon(producer.publish, "t", b"1")
                    await peer.take(100)
                    peer.frame(wire.OK * 100)
                    await peer.close()
                stats = producer.stats()
                assert (stats.published, stats.failed, stats.resent) == (100, 0, 0)

    run(main, backend)


@both_backends
def test_an_error_in_the_block_is_the_user_s_own(backend: str) -> None:
    """Not a group."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            with pytest.raises(ZeroDivisionError):
                async with producer_of(nsqd):
                    raise ZeroDivisionError

    run(main, backend)


@both_backends
def test_a_publish_that_breaks_every_connection_is_given_up(backend: str) -> None:
    """After five: otherwise it would do so until its time-out, and disturb all others."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": b"\0\0\0\0\0\0\0\0"}) as nsqd:
            async with producer_of(nsqd, max_reconnect_delay=0.01) as producer:
                with pytest.raises(UncertainPublish):
                    await producer.publish("t", b"x")
                assert producer.stats().connects == 5

    run(main, backend)


def test_a_refused_publish_does_not_hold_up_the_others() -> None:
    """The one who might have taken it is gone: it fails with what was said, and those behind it go on."""

    async def main() -> None:
        full = wire.encode_error(b"E_PUB_FAILED PUB failed no space left on device")
        async with fake_nsqd(answers={"PUB": None}, heartbeat_s=20) as nsqd:
            options: dict[str, Any] = {"max_publishes_in_air": 1, "at_least_once": False}
            async with producer_of(nsqd, nsqd_tcp_addresses=["a:1", "b:2"], **options) as producer:
                first, second = await identified(nsqd), await identified(nsqd)
                await anyio.sleep(1)
                outcome: list[str] = []

                async def publish(body: bytes) -> None:
                    try:
                        await producer.publish("t", body)
                        outcome.append(f"{body.decode()} ok")
                    except (PublishFailed, UncertainPublish) as error:
                        outcome.append(f"{body.decode()} {type(error).__name__}")

                async with anyio.create_task_group() as group:
                    for body in (b"1", b"2", b"3"):
                        group.start_soon(publish, body)
                        await anyio.sleep(1)
                    refused = first if first.bodies[-1] == b"1" else second
                    other = second if refused is first else first
                    nsqd.down = {other.address.port}
                    refused.frame(full)  # the first publish waits for the other one, in front of the third
                    await anyio.sleep(0.005)
                    nsqd.answers.clear()
                    await other.close()
                assert outcome == ["2 UncertainPublish", "1 PublishFailed", "3 ok"]

    run_mocked(main)


@pytest.mark.parametrize("away_s", [3.6, 7.0, 13.5, 29.9])
@pytest.mark.parametrize("publishes_first", [True, False])
def test_an_nsqd_that_is_away_for_less_than_the_time_out_fails_no_publish(
    away_s: float, publishes_first: bool
) -> None:
    """While a publish waits, attempts to connect are at most a second apart, however long it was away before."""

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=25) as nsqd, producer_of(nsqd, publish_timeout=30) as producer:
            await producer.publish("t", b"before")
            nsqd.down.add(1)
            await nsqd.peers[0].close()
            await anyio.sleep(0 if publishes_first else 100)
            asked_at = anyio.current_time()

            async def come_back() -> None:
                await anyio.sleep(away_s)
                nsqd.down.clear()

            async with anyio.create_task_group() as group:
                group.start_soon(come_back)
                await producer.publish("t", b"meanwhile")
            assert anyio.current_time() - asked_at - away_s <= 1.01
            attempts = [at for at in nsqd.attempts if at >= asked_at]
            assert all(b - a <= 1.01 for a, b in zip([asked_at, *attempts], attempts, strict=False))
            assert len(attempts) < away_s + 25

    run_mocked(main)


def test_without_publishes_the_pauses_grow() -> None:
    """Nobody waits for the connection."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd, producer_of(nsqd):
            await anyio.sleep(200)
            assert len(nsqd.attempts) < 30
            assert nsqd.attempts[-1] - nsqd.attempts[-2] > 10

    run_mocked(main)
