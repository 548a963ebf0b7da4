"""Consumers against a scripted nsqd in memory: what is on the wire, and when."""

# ruff: noqa: SIM117, ASYNC110 - what stands inside belongs to what stands outside
from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from nsqkit import wire
from nsqkit.client import Address, AlreadyAnswered, ClientOptions, Consumer, Message
from tests.nsqkit.client.fake import FakeNsqd, Peer, both_backends, fake_nsqd, full_id, run, run_mocked


def consumer_of(nsqd: FakeNsqd, **options: Any) -> Consumer:
    """With fixed addresses and known chances."""
    settings: dict[str, Any] = {
        "nsqd_tcp_addresses": ["a:1"],
        "random": random.Random(1),
        "connect": nsqd.connect,
    }
    return Consumer("t", "c", **(settings | options))


async def ready(nsqd: FakeNsqd, rdy: int) -> Peer:
    """The next connection, when it has sent its RDY."""
    peer = await nsqd.peer()
    await peer.expect("IDENTIFY", "SUB t c", f"RDY {rdy}")
    return peer


@contextlib.asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[None]:
    """`consumer.run()` beside the block, cancelled at its end."""
    async with anyio.create_task_group() as group:
        group.start_soon(consumer.run)
        yield
        group.cancel_scope.cancel()


async def nothing(message: Message) -> None:
    """A handler that is content."""


# Answers.


@both_backends
def test_a_message_is_finished_when_its_handler_returns(backend: str) -> None:
    """A coroutine function or a plain one."""

    async def main() -> None:
        for handler in (nothing, lambda message: None):
            async with fake_nsqd() as nsqd, running(consumer_of(nsqd, handler=handler)):
                peer = await ready(nsqd, 1)
                peer.message("m1")
                await peer.expect("FIN m1")

    run(main, backend)


@both_backends
def test_the_fins_of_a_chunk_share_one_send(backend: str) -> None:
    """Ten messages in one read are answered with one write."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, running(consumer_of(nsqd, handler=nothing, max_in_flight=50)):
            peer = await ready(nsqd, 50)
            before = peer.sends
            peer.frame(b"".join(wire.encode_message(1, 1, full_id(f"m{n}"), b"x") for n in range(10)))
            await peer.expect(*[f"FIN m{n}" for n in range(10)])
            assert peer.sends - before == 1

    run(main, backend)


def test_the_order_on_the_wire_of_a_backoff() -> None:
    """RDY always before the FIN or REQ that caused it."""

    async def handle(message: Message) -> None:
        if message.body == b"bad":
            raise ValueError("bad")

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            slow = {"backoff_multiplier": 1, "max_backoff_duration": 120}
            consumer = consumer_of(nsqd, handler=handle, max_in_flight=5, default_requeue_delay=0, **slow)
            async with running(consumer):
                peer = await ready(nsqd, 5)
                peer.message("m1")
                await peer.expect("FIN m1")
                peer.message("m2", b"bad")
                await peer.expect("RDY 0", "REQ m2 0", "RDY 1")
                assert peer.times[-1] - peer.times[-2] == pytest.approx(2.0, abs=0.01)
                peer.message("m2", b"bad", 2)
                await peer.expect("RDY 0", "REQ m2 0", "RDY 1")
                assert peer.times[-1] - peer.times[-2] == pytest.approx(4.0, abs=0.01)
                peer.message("m3")
                await peer.expect("RDY 0", "FIN m3", "RDY 1")
                assert peer.times[-1] - peer.times[-2] == pytest.approx(2.0, abs=0.01)
                peer.message("m4")
                await peer.expect("RDY 5", "FIN m4")
                assert consumer.stats().backoff_level == 0

    run_mocked(main)


def test_requeue_delays_grow_with_the_attempts() -> None:
    """0.5 s times attempts, at most 15 minutes; given ones as they are; in milliseconds."""
    delays = {b"default": None, b"own": 0.25, b"now": 0.0}

    async def handle(message: Message) -> None:
        message.requeue(delays[message.body], backoff=False)

    async def main() -> None:
        async with fake_nsqd() as nsqd, running(consumer_of(nsqd, handler=handle, max_attempts=0)):
            peer = await ready(nsqd, 1)
            for attempts, body, expected in [
                (1, b"default", 500),
                (3, b"default", 1_500),
                (2000, b"default", 900_000),
                (1, b"own", 250),
                (1, b"now", 0),
            ]:
                peer.message("m1", body, attempts)
                await peer.expect(f"REQ m1 {expected}")

    run_mocked(main)


def test_a_message_is_answered_once() -> None:
    """The second answer is an error of the code that gives it."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, consumer_of(nsqd, max_in_flight=2) as consumer:
            peer = await ready(nsqd, 2)
            peer.message("m1")
            async for message in consumer:
                message.finish()
                with pytest.raises(AlreadyAnswered):
                    message.requeue()
                with pytest.raises(AlreadyAnswered):
                    message.finish()
                assert message.nsqd_address == "a:1"
                break
            await peer.expect("FIN m1")

    run(main)


# Too many attempts.


@both_backends
def test_without_a_hook_a_message_above_max_attempts_is_requeued_for_long(backend: str) -> None:
    """Never discarded silently, never given to the handler again."""
    handled: list[Message] = []

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=handled.append, max_attempts=2)
            async with running(consumer):
                peer = await ready(nsqd, 1)
                peer.message("m1", attempts=2)
                await peer.expect("FIN m1")
                peer.message("m2", attempts=3)
                await peer.expect("REQ m2 900000")
                assert [message.id for message in handled] == [full_id("m1")]
                assert consumer.stats().given_up == 1
                assert consumer.stats().backoff_level == 0

    run(main, backend)


@both_backends
def test_the_hook_decides_about_a_message_above_max_attempts(backend: str) -> None:
    """It returned: finished. It answered: as it says. It failed: requeued."""

    async def hook(message: Message) -> None:
        if message.body == b"again":
            message.requeue(1, backoff=False)
        if message.body == b"broken":
            raise RuntimeError("the dead letter topic is gone")

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=nothing, max_attempts=1, on_giving_up=hook)
            async with running(consumer):
                peer = await ready(nsqd, 1)
                for body, answer in ((b"ok", "FIN m"), (b"again", "REQ m 1000"), (b"broken", "REQ m 900000")):
                    peer.message("m", body, attempts=2)
                    await peer.expect(answer)

    run(main, backend)


def test_a_handler_that_fails_over_and_over_logs_one_traceback_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handle(message: Message) -> None:
        raise RuntimeError("no")

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            async with running(consumer_of(nsqd, handler=handle, max_in_flight=50, max_backoff_duration=0)):
                peer = await ready(nsqd, 50)
                for number in range(50):
                    peer.message(f"m{number}")
                assert len(await peer.take(50)) == 50
                await anyio.sleep(1)
                peer.message("m50")
                await peer.take(1)

    run_mocked(main)
    lines = [record.getMessage() for record in caplog.records if record.exc_info]
    assert len(lines) == 2
    assert lines[1].endswith("(and 49 more since the last such line)")


# Time.


def test_a_long_handler_s_message_is_touched_at_half_its_time() -> None:
    """And what waits for a worker likewise."""

    async def handle(message: Message) -> None:
        await anyio.sleep(95)

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=25) as nsqd:
            async with running(consumer_of(nsqd, handler=handle, max_in_flight=2)):
                peer = await ready(nsqd, 2)
                start = anyio.current_time()
                peer.message("m1")
                await anyio.sleep(10)
                peer.message("m2")
                got = await peer.take(6, within_s=1000)
                assert got == ["TOUCH m1", "TOUCH m2", "TOUCH m1", "TOUCH m2", "TOUCH m1", "FIN m1"]
                times = [time - start for time in peer.times[3:]]
                assert times == pytest.approx([30, 40, 60, 70, 90, 95], abs=0.01)

    run_mocked(main)


def test_what_took_longer_than_nsqd_allows_is_let_go() -> None:
    """No touching for ever; and what was not begun is not handled any more, for it comes again."""
    handled: list[bytes] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)
        await anyio.sleep(1000)

    async def main() -> None:
        features = {"msg_timeout": 10_000, "max_msg_timeout": 25_000, "max_rdy_count": 2500}
        async with fake_nsqd(features=features, heartbeat_s=25) as nsqd:
            consumer = consumer_of(nsqd, handler=handle, max_in_flight=2)
            async with running(consumer):
                peer = await ready(nsqd, 2)
                peer.message("m1", b"1")
                peer.message("m2", b"2")
                await peer.take(2 * 4, within_s=24)
                await anyio.sleep(30)
                touches = [command for command in peer.commands if command == "TOUCH m1"]
                assert len(touches) in (3, 4)
                assert consumer.stats().timed_out == 2
                assert consumer.stats().in_flight == 0
                await anyio.sleep(2000)
                assert handled == [b"1"]
                assert peer.commands[-1] == "FIN m1"  # late, and nsqd will say so

    run_mocked(main)


def test_touching_can_be_switched_off() -> None:
    """auto_touch=False."""

    async def handle(message: Message) -> None:
        await anyio.sleep(50)

    async def main() -> None:
        async with fake_nsqd() as nsqd, running(consumer_of(nsqd, handler=handle, auto_touch=False)):
            peer = await ready(nsqd, 1)
            peer.message("m1")
            await peer.expect("FIN m1", within_s=100)

    run_mocked(main)


def test_rdy_moves_between_more_connections_than_messages_in_flight() -> None:
    """An idle one gives its turn to one that had none."""

    async def main() -> None:
        addresses = ["a:1", "b:2", "c:3"]
        async with fake_nsqd(heartbeat_s=25) as nsqd:
            async with running(consumer_of(nsqd, handler=nothing, nsqd_tcp_addresses=addresses)):
                await anyio.sleep(200)
                for peer in nsqd.peers:
                    assert "RDY 1" in peer.commands
                changes = sorted(
                    (time, command)
                    for peer in nsqd.peers
                    for time, command in zip(peer.times, peer.commands, strict=True)
                    if command.startswith("RDY")
                )
                held = 0
                for _, command in changes:  # at equal times RDY 0 sorts first, as it is sent first
                    held += 1 if command == "RDY 1" else -1
                    assert held <= 1

    run_mocked(main)


def test_reconnects_wait_longer_each_time_and_begin_anew_after_success() -> None:
    """Exponential, with a little chance, up to the maximum."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd:
            consumer = consumer_of(nsqd, handler=nothing, reconnect_delay=1, max_reconnect_delay=8)
            async with running(consumer):
                await anyio.sleep(40)
                waits = [
                    after - before for before, after in zip(nsqd.attempts, nsqd.attempts[1:], strict=False)
                ]
                for wait, longest in zip(waits, [1, 2, 4, 8, 8, 8], strict=False):
                    assert 0.75 * longest <= wait <= longest + 0.01
                nsqd.down.clear()
                peer = await nsqd.peer(20)
                await anyio.sleep(1)
                await peer.close()
                lost_at = anyio.current_time()
                await ready(nsqd, 1)
                assert nsqd.attempts[-1] - lost_at <= 1.01
                assert consumer.stats().connects == 2

    run_mocked(main)


def test_a_silent_connection_is_given_up_and_the_others_go_on() -> None:
    """Nothing for read_timeout, not even a heartbeat."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(
                nsqd, handler=nothing, nsqd_tcp_addresses=["a:1", "b:2"], max_in_flight=2, read_timeout=60
            )
            async with running(consumer):
                silent, alive = await nsqd.peer(), await nsqd.peer()
                for _ in range(5):
                    await anyio.sleep(20)
                    alive.frame(wire.HEARTBEAT)
                alive.message("m1")
                await anyio.sleep(1)
                assert "FIN m1" in alive.commands
                assert alive.commands.count("NOP") == 5
                assert silent.ended.is_set()
                assert not alive.ended.is_set()

    run_mocked(main)


# The end.


@both_backends
def test_a_stop_lets_handlers_finish_and_takes_nothing_more(backend: str) -> None:
    """CLS, then the answers, then the end of the connection."""
    go_on: list[anyio.Event] = []
    consumers: list[Consumer] = []

    async def handle(message: Message) -> None:
        consumers[0].stop()
        await go_on[0].wait()

    async def main() -> None:
        go_on.append(anyio.Event())
        async with fake_nsqd() as nsqd:
            consumers.append(consumer_of(nsqd, handler=handle, max_in_flight=2))
            async with anyio.create_task_group() as group:
                group.start_soon(consumers[0].run)
                peer = await ready(nsqd, 2)
                peer.frame(b"".join(wire.encode_message(1, 1, full_id(name), b"x") for name in ("m1", "m2")))
                await peer.expect("CLS")
                assert not peer.ended.is_set()
                go_on[0].set()
                await peer.expect("FIN m1", "FIN m2")
            assert peer.ended.is_set()
            assert peer.unexpected() == []

    run(main, backend)


def test_a_stop_ends_after_its_time_whatever_the_handlers_do() -> None:
    """30 s, then what is unanswered goes back."""

    async def handle(message: Message) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=handle, auto_touch=False)
            async with anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                peer = await ready(nsqd, 1)
                peer.message("m1")
                await anyio.sleep(1)
                consumer.stop()
                stopped_at = anyio.current_time()
            assert anyio.current_time() - stopped_at == pytest.approx(30, abs=2.1)
            await peer.expect("CLS", "REQ m1 0")

    run_mocked(main)


def test_a_stop_ends_even_if_nsqd_is_silent() -> None:
    """CLS unanswered: bounded as well."""

    async def main() -> None:
        async with fake_nsqd(answers={"CLS": None}) as nsqd:
            consumer = consumer_of(nsqd, handler=nothing)
            async with anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                await ready(nsqd, 1)
                consumer.stop()
                stopped_at = anyio.current_time()
            assert anyio.current_time() - stopped_at <= 35

    run_mocked(main)


@both_backends
def test_a_stop_without_a_connection_is_at_once(backend: str) -> None:
    """Also before the start."""

    async def main() -> None:
        async with fake_nsqd(down={1}) as nsqd:
            consumer = consumer_of(nsqd, handler=nothing, reconnect_delay=60, max_reconnect_delay=60)
            async with anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                while not nsqd.attempts:
                    await anyio.lowlevel.checkpoint()
                await anyio.sleep(0.01)
                consumer.stop()
            early = consumer_of(nsqd, handler=nothing)
            early.stop()
            await early.run()

    run(main, backend)


@both_backends
def test_cancelling_gives_everything_back(backend: str) -> None:
    """What runs and what waits is requeued at once; nothing is lost, nobody is blamed."""

    started: list[anyio.Event] = []

    async def handle(message: Message) -> None:
        started[0].set()
        await anyio.sleep_forever()

    async def main() -> None:
        started.append(anyio.Event())
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=handle, max_in_flight=2)
            async with running(consumer):
                peer = await ready(nsqd, 2)
                peer.frame(b"".join(wire.encode_message(1, 1, full_id(name), b"x") for name in ("m1", "m2")))
                await started[0].wait()
            got = await peer.take(3)
            assert got == ["CLS", "REQ m1 0", "REQ m2 0"]  # CLS first, or they might come right back
            assert peer.ended.is_set()

    run(main, backend)


def test_cancelling_is_bounded_even_if_nsqd_is_silent() -> None:
    """close_timeout, 2 s."""

    async def main() -> None:
        async with fake_nsqd(answers={"CLS": None}) as nsqd:
            async with running(consumer_of(nsqd, max_in_flight=2, handler=lambda message: anyio.sleep(50))):
                peer = await ready(nsqd, 2)
                peer.message("m1")
                await anyio.sleep(1)
                cancelled_at = anyio.current_time()
            assert anyio.current_time() - cancelled_at <= 2.01
            await peer.expect("CLS", "REQ m1 0")

    run_mocked(main)


@both_backends
def test_a_block_left_with_an_error_gives_everything_back(backend: str) -> None:
    """And the error is the user's own, not a group of them."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what is tested
                async with consumer_of(nsqd, max_in_flight=3) as consumer:
                    peer = await ready(nsqd, 3)
                    for name in ("m1", "m2", "m3"):
                        peer.message(name)
                    async for message in consumer:
                        if message.id == full_id("m2"):
                            raise ZeroDivisionError
                        message.finish()
            got = await peer.take(4)
            assert got[0] == "FIN m1"
            assert sorted(got[1:]) == ["CLS", "REQ m2 0", "REQ m3 0"]

    run(main, backend)


@both_backends
def test_iteration_ends_after_a_stop_with_the_last_message(backend: str) -> None:
    """What has come is still given out."""

    async def main() -> None:
        seen: list[bytes] = []
        async with fake_nsqd() as nsqd, consumer_of(nsqd, max_in_flight=3) as consumer:
            peer = await ready(nsqd, 3)
            for name in ("m1", "m2", "m3"):
                peer.message(name)
            await anyio.sleep(0.01)
            async for message in consumer:
                seen.append(message.id)
                consumer.stop()
                message.finish()
            assert seen == [full_id("m1"), full_id("m2"), full_id("m3")]

    run(main, backend)


@both_backends
def test_a_stop_waits_for_a_handler_whose_connection_is_lost(backend: str) -> None:
    """Its message comes again elsewhere; but it may end what it has begun."""
    ended: list[bool] = []
    go_on: list[anyio.Event] = []

    async def handle(message: Message) -> None:
        await go_on[0].wait()
        ended.append(True)

    async def main() -> None:
        go_on.append(anyio.Event())
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=handle, max_in_flight=3)
            async with anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                peer = await ready(nsqd, 3)
                peer.message("m1")
                peer.message("m2")
                while consumer.stats().queued != 1:
                    await anyio.sleep(0.001)
                consumer.stop()
                await peer.close()
                await anyio.sleep(0.02)
                go_on[0].set()
            assert ended == [True]
            assert consumer.stats().lost_answers == 1

    run(main, backend)


# Faults.


@both_backends
def test_an_answer_to_a_lost_connection_is_dropped(backend: str) -> None:
    """It must not go out on the next connection."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, consumer_of(nsqd, reconnect_delay=0.001) as consumer:
            first = await ready(nsqd, 1)
            first.message("m1")
            async for message in consumer:
                await first.close()
                second = await ready(nsqd, 1)
                message.finish()
                second.message("m1", attempts=2)
                again = await anext(consumer)
                again.requeue(0, backoff=False)
                await second.expect("REQ m1 0")
                break
            assert consumer.stats().lost_answers == 1

    run(main, backend)


@both_backends
def test_what_waits_when_its_connection_is_lost_is_not_handled(backend: str) -> None:
    """It comes again anyway."""

    async def main() -> None:
        async with fake_nsqd() as nsqd, consumer_of(nsqd, max_in_flight=2, reconnect_delay=0.001) as consumer:
            first = await ready(nsqd, 2)
            first.message("m1", b"old")
            await anyio.sleep(0.01)
            await first.close()
            second = await ready(nsqd, 2)
            second.message("m1", b"new", attempts=2)
            message = await anext(consumer)
            assert message.body == b"new"
            message.finish()

    run(main, backend)


@both_backends
def test_refused_answers_are_counted(backend: str) -> None:
    """E_FIN_FAILED leaves the connection open."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=nothing)
            async with running(consumer):
                peer = await ready(nsqd, 1)
                peer.frame(wire.encode_error(b"E_FIN_FAILED FIN 0123 failed ID not in flight"))
                peer.message("m1")
                await peer.expect("FIN m1")
                assert consumer.stats().failed_answers == 1
                assert not peer.ended.is_set()

    run(main, backend)


@pytest.mark.parametrize("what", ["giving up on", "took too long", "E_FIN_FAILED"])
def test_a_stream_of_bad_messages_fills_no_log(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line a second of each kind, which says for how many it stands; the numbers are in the statistics."""

    def messages(peer: Peer, count: int) -> None:
        for number in range(count):
            if what == "E_FIN_FAILED":
                peer.frame(wire.encode_error(b"E_FIN_FAILED FIN 0123 failed ID not in flight"))
            else:
                peer.message(f"m{number}", attempts=9 if what == "giving up on" else 1)

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=25) as nsqd:
            consumer = consumer_of(
                nsqd, handler=lambda message: anyio.sleep(100), max_in_flight=200, auto_touch=False
            )
            async with running(consumer):
                peer = await ready(nsqd, 200)
                messages(peer, 100)
                await anyio.sleep(70)
                messages(peer, 1)
                await anyio.sleep(70)
                stats = consumer.stats()
                assert stats.given_up + stats.timed_out + stats.failed_answers == 101

    with caplog.at_level(logging.INFO, "nsq.client"):
        run_mocked(main)
    first, second = [text for text in caplog.messages if what in text]
    assert "more since" not in first
    assert second.endswith("(and 99 more since the last such line)")


@both_backends
@pytest.mark.parametrize(
    "frame", [b"HTTP/1.1 400 Bad Request\r\n", wire.encode_error(b"E_INVALID no"), wire.OK]
)
def test_garbage_and_fatal_errors_lead_to_a_new_connection(backend: str, frame: bytes) -> None:
    """And the consumer lives on."""

    async def main() -> None:
        async with (
            fake_nsqd() as nsqd,
            running(consumer_of(nsqd, handler=nothing, reconnect_delay=0.001, max_reconnect_delay=0.01)),
        ):
            first = await ready(nsqd, 1)
            first.frame(frame)
            second = await ready(nsqd, 1)
            second.message("m1")
            await second.expect("FIN m1")
            assert first.ended.is_set()

    run(main, backend)


MANY = b"".join(wire.encode_message(1, 1, full_id(f"{number}"), b"x") for number in range(2000))
HOSTILE = {
    "a number of 5000 digits": ("IDENTIFY", wire.encode_response(b'{"max_rdy_count":1' + b"0" * 5000 + b"}")),
    "deep nesting": ("IDENTIFY", wire.encode_response(b'{"version":' + b"[" * 100_000)),
    "a list": ("IDENTIFY", wire.encode_response(b"[1]")),
    "a size below zero": ("IDENTIFY", b"\xff" * 8),
    "a huge frame": ("SUB", b"\x7f\xff\xff\xff" + bytes(4)),
    "an unknown frame": ("SUB", wire.OK + b"\0\0\0\4\0\0\0\x09"),
    "messages above RDY": ("RDY", MANY),
    "the same message again and again": ("RDY", wire.encode_message(1, 1, full_id("m"), b"x") * 2000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_nsqd_is_said_once_and_the_others_go_on(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again after the longest pause."""
    command, answer = HOSTILE[what]

    async def main() -> None:
        async with fake_nsqd(answers={command: answer}) as bad, fake_nsqd(heartbeat_s=25) as good:

            async def connect(address: Address, options: ClientOptions) -> ByteStream:
                return await (bad if address.port == 1 else good).connect(address, options)

            consumer = consumer_of(
                good,
                connect=connect,
                nsqd_tcp_addresses=["bad:1", "good:2"],
                handler=nothing,
                max_in_flight=9,
            )
            async with running(consumer):
                peer = await good.peer()
                await anyio.sleep(100)
                peer.message("m1")
                await anyio.sleep(1)
                assert "FIN m1" in peer.commands
                waits = [b - a for a, b in zip(bad.attempts, bad.attempts[1:], strict=False)]
                assert waits
                assert all(11 < wait < 16 for wait in waits)
                assert consumer.stats().queued < 2000

    with caplog.at_level(logging.WARNING, "nsq"):
        run_mocked(main)
    assert len([text for text in caplog.messages if "bad:1" in text]) == 1


def test_an_error_that_nobody_foresaw_stays_with_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the stream raises."""

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=25) as good:

            async def connect(address: Address, options: ClientOptions) -> ByteStream:
                if address.port == 1:
                    raise KeyError("of a resolver")
                return await good.connect(address, options)

            addresses = ["bad:1", "good:2"]
            async with running(
                consumer_of(good, connect=connect, nsqd_tcp_addresses=addresses, handler=nothing)
            ):
                peer = await good.peer()
                await anyio.sleep(100)
                peer.message("m1")
                await anyio.sleep(1)
                assert "FIN m1" in peer.commands

    with caplog.at_level(logging.WARNING, "nsq"):
        run_mocked(main)
    [text] = [text for text in caplog.messages if "bad:1" in text]
    assert "unexpected error: KeyError('of a resolver')" in text


def test_an_error_text_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """It is cut, and has no control characters."""
    text = b"E_INVALID no\n2026 ERROR: forged\x1b[2J" + b"x" * 100_000

    async def main() -> None:
        async with fake_nsqd(answers={"SUB": wire.encode_error(text)}) as nsqd:
            async with running(consumer_of(nsqd, handler=nothing)):
                await anyio.sleep(1)

    with caplog.at_level(logging.WARNING, "nsq"):
        run_mocked(main)
    assert caplog.messages
    assert all(text.isprintable() and len(text) < 5000 for text in caplog.messages)


def test_connections_are_said_once_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    """To how many nsqds, and to which; those that connect at the same time share a line."""

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=25) as nsqd:
            addresses = [f"n{number}:{number}" for number in range(1, 7)]
            async with running(consumer_of(nsqd, handler=nothing, nsqd_tcp_addresses=addresses)):
                await anyio.sleep(100)
                nsqd.down.add(1)
                [lost] = [peer for peer in nsqd.peers if peer.address.port == 1]
                await lost.close()
                await anyio.sleep(100)

    with caplog.at_level(logging.INFO, "nsq"):
        run_mocked(main)
    assert [text for text in caplog.messages if "connected to" in text] == [
        "t/c: connected to 6 nsqds: n1:1, n2:2, n3:3, n4:4, n5:5 and 1 more",
        "t/c: connected to 5 nsqds: n2:2, n3:3, n4:4, n5:5, n6:6",
    ]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_one_error_is_raised_as_itself(error: type[BaseException]) -> None:
    """Not in groups of groups, from the block as from a handler."""

    async def in_the_block() -> None:
        async with fake_nsqd() as nsqd:
            with pytest.raises(error):
                async with consumer_of(nsqd):
                    raise error

    async def in_a_handler() -> None:
        def handle(message: Message) -> None:
            raise error

        async def feed() -> None:
            (await ready(nsqd, 1)).message("m1")

        async with fake_nsqd() as nsqd, anyio.create_task_group() as group:
            group.start_soon(feed)
            with pytest.raises(error):
                await consumer_of(nsqd, handler=handle).run()

    run_mocked(in_the_block)
    if error is not ValueError:  # of a handler, that is a failed message
        run_mocked(in_a_handler)


def test_a_handler_that_awaits_something_cancelled_is_a_failure_not_the_end() -> None:
    """On asyncio a CancelledError can come from another task: the worker must survive it."""
    import asyncio

    async def handle(message: Message) -> None:
        if message.body == b"bad":
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other

    async def main() -> None:
        async with fake_nsqd() as nsqd, running(consumer_of(nsqd, handler=handle, max_backoff_duration=0)):
            peer = await ready(nsqd, 1)
            peer.message("m1", b"bad")
            await peer.expect("REQ m1 500")
            peer.message("m2")
            await peer.expect("FIN m2")

    run(main, "asyncio")


@both_backends
def test_concurrency_bounds_the_handlers(backend: str) -> None:
    """Three at a time, never more."""
    running_now = most = 0

    async def handle(message: Message) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await anyio.sleep(0.001)
        running_now -= 1

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            async with running(consumer_of(nsqd, handler=handle, concurrency=3, max_in_flight=20)):
                peer = await ready(nsqd, 20)
                for number in range(20):
                    peer.message(f"m{number}")
                got = await peer.take(20)
                assert sorted(got) == sorted(f"FIN m{number}" for number in range(20))
                assert most == 3

    run(main, backend)


def test_bad_arguments_are_refused_at_once() -> None:
    """Before anything is connected."""
    good: dict[str, Any] = {"nsqd_tcp_addresses": ["a:1"]}
    bad: dict[str, Any]
    for bad in (
        {"nsqd_tcp_addresses": ["a"]},
        {"nsqd_tcp_addresses": []},
        {"concurrency": 0},
        {"max_in_flight": -1},
        {"heartbeat_interval": -1},
        {"lookupd_http_addresses": ["a"]},
    ):
        with pytest.raises(ValueError):
            Consumer("t", "c", **(good | bad))
    with pytest.raises(ValueError, match="topic"):
        Consumer("bad topic", "c", **good)
    with pytest.raises(ValueError, match="channel"):
        Consumer("t", "", **good)
    with pytest.raises(TypeError):
        Consumer("t", "c", no_such_option=1, **good)


@both_backends
def test_a_consumer_needs_a_handler_to_run_and_none_to_iterate(backend: str) -> None:
    """Each form says what the other one is."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            with pytest.raises(TypeError, match="needs a handler"):
                await consumer_of(nsqd).run()
            with pytest.raises(TypeError, match="has a handler"):
                aiter(consumer_of(nsqd, handler=nothing))
            with pytest.raises(RuntimeError, match="async with"):
                aiter(consumer_of(nsqd))

    run(main, backend)


@both_backends
def test_max_in_flight_can_change_while_it_runs(backend: str) -> None:
    """0 pauses."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = consumer_of(nsqd, handler=nothing, max_in_flight=5)
            async with running(consumer):
                peer = await ready(nsqd, 5)
                consumer.change_max_in_flight(0)
                consumer.change_max_in_flight(7)
                await peer.expect("RDY 0", "RDY 7")

    run(main, backend)


@both_backends
def test_the_secret_is_sent_when_it_is_asked_for(backend: str) -> None:
    """Before SUB; without a secret the connection is given up with a reason."""

    async def main() -> None:
        features = {"auth_required": True, "max_rdy_count": 2500}
        async with fake_nsqd(features=features) as nsqd:
            async with running(consumer_of(nsqd, handler=nothing, auth_secret="sesame")):
                peer = await nsqd.peer()
                await peer.expect("IDENTIFY", "AUTH", "SUB t c", "RDY 1")
                assert peer.bodies[1] == b"sesame"
            consumer = consumer_of(nsqd, handler=nothing)
            async with running(consumer):
                peer = await nsqd.peer()
                await peer.ended.wait()
                assert peer.commands == ["IDENTIFY"]

    run(main, backend)


def test_a_subscription_that_is_refused_is_tried_again_less_and_less_often() -> None:
    """The channel has all the consumers that it may have, say: no busy loop."""

    async def main() -> None:
        refusal = wire.encode_error(b"E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 1")
        async with fake_nsqd(answers={"SUB": refusal}) as nsqd:
            async with running(consumer_of(nsqd, handler=nothing, reconnect_delay=1, max_reconnect_delay=8)):
                await anyio.sleep(60)
                assert 8 <= len(nsqd.attempts) <= 12
                nsqd.answers.clear()
                await anyio.sleep(10)
                assert nsqd.peers[-1].commands == ["IDENTIFY", "SUB t c", "RDY 1"]

    run_mocked(main)
