"""One registry, from connect to the next connect, on a clock that jumps."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nsqd.lookup.peer import Followers, Peer, PeerOptions
from nsqd.lookup.protocol import HttpAddress, encode_grant, encode_identify, encode_leaving
from tests.nsqd.lookup.fake_registry import WITNESS, FakeRegistry, good, reply, witness

FIELDS: dict[str, str | int] = {
    "broadcast_address": "b.example",
    "http_port": 4151,
    "tcp_port": 4150,
    "version": "1.4.0",
}
settled = trio.testing.wait_all_tasks_blocked


@attrs.define
class FakeTopic:
    channels: dict[str, None] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Setting:
    """A peer, the registry that it speaks to, and the topics that it tells of."""

    peer: Peer
    registry: FakeRegistry
    topics: dict[str, FakeTopic]

    def create_topic(self, name: str) -> None:
        self.topics[name] = FakeTopic()
        self.peer.topic_created(name)

    def delete_topic(self, name: str) -> None:
        del self.topics[name]
        self.peer.topic_deleted(name)

    def create_channel(self, topic: str, name: str) -> None:
        self.topics[topic].channels[name] = None
        self.peer.channel_created(topic, name)

    def delete_channel(self, topic: str, name: str) -> None:
        del self.topics[topic].channels[name]
        self.peer.channel_deleted(topic, name)


@asynccontextmanager
async def running(
    topics: dict[str, list[str]] | None = None,
    *,
    answer: Callable[[str], bytes | None] = good,
    refusing: bool = False,
    hears: bool = True,
    **changes: Any,
) -> AsyncIterator[Setting]:
    """A peer that has had the time to do what it does at once."""
    async with trio.open_nursery() as nursery:
        registry = FakeRegistry(nursery, answer=answer, refusing=refusing, hears=hears)
        options = PeerOptions(lambda: encode_identify(FIELDS), 1000, lambda: registry.connect, **changes)
        there = {name: FakeTopic(dict.fromkeys(channels)) for name, channels in (topics or {}).items()}
        peer = Peer("r.example:4160", there, options)
        nursery.start_soon(peer.run)
        await settled()
        yield Setting(peer, registry, there)
        nursery.cancel_scope.cancel()


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


class TestConnected:
    async def test_identify_and_replay(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running({"a": ["x", "y#ephemeral"], "b": [], "e#ephemeral": ["z"]}) as s:
            assert s.registry.identities == [FIELDS]
            assert s.registry.said[0] == "IDENTIFY"
            assert sorted(s.registry.said[1:]) == [
                "REGISTER a x",
                "REGISTER a y#ephemeral",
                "REGISTER b",
                "REGISTER e#ephemeral z",
            ]
            assert s.peer.identified
            assert s.peer.http == HttpAddress("r.example", 4161)

    async def test_replay_of_many_in_batches(self, autojump_clock: trio.testing.MockClock) -> None:
        topics = {f"t{number}": ["c", "d"] for number in range(1234)}
        async with running(topics) as s:
            assert len(s.registry.said) == 1 + 2 * 1234
            assert len(s.registry.registered) == 3 * 1234

    async def test_ping_every_15_seconds(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running() as s:
            began = trio.current_time()
            await trio.sleep(50)
            assert s.registry.times_of("PING") == [began + 15, began + 30, began + 45]
            assert len(s.registry.attempts) == 1

    async def test_pings_go_on_under_a_steady_stream_of_changes(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running() as s:
            for number in range(40):
                s.create_topic(f"t{number}")
                await trio.sleep(1)
            assert len(s.registry.times_of("PING")) == 2

    async def test_changes_are_told_at_once(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running() as s:
            began = trio.current_time()
            s.create_topic("t")
            await settled()
            s.create_channel("t", "c")
            await settled()
            s.delete_channel("t", "c")
            await settled()
            s.create_channel("t", "d")
            s.delete_topic("t")
            await settled()
            assert s.registry.commands[1:] == [
                (began, "REGISTER t"),
                (began, "REGISTER t c"),
                (began, "UNREGISTER t c"),
                (began, "UNREGISTER t"),
            ]

    async def test_changes_while_an_answer_is_awaited(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running() as s:
            s.registry.answer = lambda command: None
            s.create_topic("a")
            await settled()
            s.create_topic("b")
            s.create_topic("c")
            s.delete_topic("b")
            s.create_channel("c", "x")
            s.registry.answer = good
            await s.registry.streams[0].send_all(reply(b"OK"))
            await settled()
            assert s.registry.said[1:] == ["REGISTER a", "REGISTER c x"]

    async def test_changes_during_the_replay(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running({f"t{number}": [] for number in range(700)}) as s:
            await s.registry.hang_up()
            held = trio.Event()

            def answer(command: str) -> bytes | None:
                held.set()
                return None if command == "REGISTER t499" else good(command)

            s.registry.answer = answer
            await held.wait()
            await settled()
            s.delete_topic("t10")  # told already
            s.delete_topic("t600")  # not yet
            s.create_topic("new")
            s.registry.answer = good
            await s.registry.streams[0].send_all(reply(b"OK"))
            await settled()
            assert s.registry.registered == {(name, "") for name in s.topics}
            assert "UNREGISTER t600" not in s.registry.said

    async def test_no_broadcast_address(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def answer(command: str) -> bytes | None:
            return reply(b"{}") if command == "IDENTIFY" else good(command)

        async with running({"t": []}, answer=answer) as s:
            assert s.peer.identified
            assert s.peer.http is None
            assert s.registry.said == ["IDENTIFY", "REGISTER t"]
        assert "no address for HTTP in the reply to IDENTIFY" in caplog.text

    async def test_answers_that_come_byte_by_byte(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running() as s:
            s.registry.answer = lambda command: None
            for name in "ab":
                s.create_topic(name)
            await settled()
            for byte in reply(b"OK") * 2:
                await trio.sleep(0.15)
                await s.registry.streams[0].send_all(bytes([byte]))
            await trio.sleep(5)
            assert len(s.registry.attempts) == 1
            assert s.peer.identified

    async def test_close(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running() as s:
            s.peer.close()
            await settled()
            assert (s.registry.ended, s.peer.identified) == (1, False)
            await trio.sleep(60)
            assert len(s.registry.attempts) == 1
            assert s.registry.said == ["IDENTIFY"]  # no farewell


class TestTrouble:
    async def test_comes_back_when_the_registry_does(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with running({"t": ["c"]}, refusing=True) as s:
            await trio.sleep(60)
            pauses = [b - a for a, b in zip(s.registry.attempts, s.registry.attempts[1:], strict=False)]
            assert all(0.1 <= pause <= 2.5 for pause in pauses)
            assert all(pause >= 1.25 for pause in pauses[6:])
            s.registry.refusing = False
            await trio.sleep(3)
            assert s.peer.identified
            assert s.registry.registered == {("t", ""), ("t", "c")}
        assert caplog.messages == [
            "LOOKUPD(r.example:4160): connecting",
            "LOOKUPD(r.example:4160): refused; trying again until it answers",
            "LOOKUPD(r.example:4160): connected",
        ]

    async def test_replays_after_a_loss_what_is_true_by_then(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running({"a": ["x"], "b": []}) as s:
            await trio.sleep(100)
            s.registry.refusing = True
            await s.registry.hang_up()
            await settled()
            assert not s.peer.identified
            s.delete_topic("b")
            s.create_topic("c")
            s.create_channel("a", "y")
            s.delete_channel("a", "x")
            s.registry.refusing = False
            s.registry.commands.clear()
            await trio.sleep(0.3)  # a long life: it begins with the shortest pause
            assert s.registry.said[0] == "IDENTIFY"
            assert sorted(s.registry.said[1:]) == ["REGISTER a y", "REGISTER c"]

    async def test_the_http_address_is_remembered_when_the_connection_is_lost(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running() as s:
            s.registry.refusing = True
            await s.registry.hang_up()
            await trio.sleep(100)
            assert not s.peer.identified
            assert s.peer.http == HttpAddress("r.example", 4161)
            s.registry.answer = lambda command: reply(b"{}") if command == "IDENTIFY" else good(command)
            s.registry.refusing = False
            await trio.sleep(3)
            assert s.peer.identified
            assert s.peer.http is None  # what it says of itself last counts

    async def test_a_loss_is_noticed_while_there_is_nothing_to_say(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running() as s:
            await trio.sleep(5)
            await s.registry.hang_up()
            await trio.sleep(0.2)
            assert len(s.registry.attempts) == 2
            assert s.peer.identified

    @pytest.mark.parametrize("silent_on", ["IDENTIFY", "REGISTER t", "PING"])
    async def test_silence(self, autojump_clock: trio.testing.MockClock, silent_on: str) -> None:
        def answer(command: str) -> bytes | None:
            return None if command == silent_on else good(command)

        async with running({"t": []}, answer=answer) as s:
            await trio.sleep(15.5)
            asked = s.registry.times_of(silent_on)[0]
            await trio.sleep(5)
            assert s.registry.ended >= 1
            again = s.registry.attempts[1]
            assert asked + 1.1 <= again <= asked + 1.2

    async def test_a_registry_that_does_not_read(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running({"t": []}, hears=False) as s:
            assert not s.peer.identified
            await trio.sleep(1.3)
            assert len(s.registry.attempts) == 2

    @pytest.mark.parametrize(
        ("command", "said", "logged"),
        [
            ("IDENTIFY", reply(b"E_INVALID"), "E_INVALID"),
            ("IDENTIFY", reply(b"E_BAD_BODY IDENTIFY missing fields"), "E_BAD_BODY IDENTIFY missing fields"),
            ("IDENTIFY", reply(b"OK"), "failed to parse the reply to IDENTIFY - OK"),
            ("IDENTIFY", reply(b"x" * 1001), "reply of 1001 bytes, where 0 to 1000 are allowed"),
            ("IDENTIFY", b"HTTP/1.1 400 Bad Request\r\n", "reply of 1213486160 bytes"),
            (
                "REGISTER t",
                reply(b"E_BAD_TOPIC REGISTER topic name 't' is not valid"),
                "E_BAD_TOPIC REGISTER",
            ),
            ("REGISTER t", reply(b"OK") * 2, "data that is not the reply to a command"),
            ("PING", b"\xff\xff\xff\xff", "reply of -1 bytes"),
        ],
    )
    async def test_answers_that_break_the_protocol(
        self,
        autojump_clock: trio.testing.MockClock,
        caplog: pytest.LogCaptureFixture,
        command: str,
        said: bytes,
        logged: str,
    ) -> None:
        async with running({"t": []}, answer=lambda c: said if c == command else good(c)) as s:
            await trio.sleep(15.05)
            assert s.registry.ended >= 1
            s.registry.answer = good
            await trio.sleep(3)
            assert s.peer.identified
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert logged in errors[0]

    async def test_another_reason_of_an_outage_is_logged_once(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A registry that closes the connection, as a token was revoked, says at the next IDENTIFY what it wants."""
        refused = reply(b"E_UNAUTHORIZED IDENTIFY needs a valid token")
        async with running({"t": []}) as s:
            s.registry.answer = lambda command: refused if command == "IDENTIFY" else good(command)
            await s.registry.hang_up()
            await trio.sleep(30)
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 2
        assert "E_UNAUTHORIZED IDENTIFY needs a valid token" in errors[1]

    async def test_babbling(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running() as s:
            await trio.sleep(3.5)
            await s.registry.streams[0].send_all(reply(b"news"))
            await trio.sleep(0.2)
            assert len(s.registry.attempts) == 2
        assert "data that is not the reply to a command" in caplog.text

    async def test_a_registry_that_always_disconnects_is_asked_at_growing_intervals(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        def answer(command: str) -> bytes | None:
            return reply(b"E_BAD_TOPIC no") if command == "REGISTER t" else good(command)

        async with running({"t": []}, answer=answer) as s:
            await trio.sleep(60)
            assert 20 <= len(s.registry.attempts) <= 50

    async def test_an_error_in_here_is_logged_once_and_ends_nothing(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running() as s:

            async def broken(address: str) -> trio.abc.Stream:
                raise ZeroDivisionError

            s.peer._connect = broken
            await s.registry.hang_up()
            await trio.sleep(20)
            s.peer._connect = s.registry.connect
            await trio.sleep(3)
            assert s.peer.identified
        assert caplog.messages.count("LOOKUPD(r.example:4160): unexpected error; reconnecting") == 1


LIFE = "1" * 32
FOLLOWERS = Followers((LIFE,), 8.0, 300.0)
ANNOUNCED = ("FOLLOWERS", {"followers": [LIFE], "adopt_after_ms": 8000, "restart_grace_ms": 300_000})


class TestWitness:
    async def test_who_may_adopt_is_announced_after_each_connect_and_each_change(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running({"t": []}, answer=witness) as s:
            assert s.peer.witness == WITNESS
            s.peer.announce_followers(FOLLOWERS)
            await settled()
            assert s.registry.bodies == [ANNOUNCED]
            await s.registry.hang_up()
            await trio.sleep(0.3)
            assert s.registry.said[-3:] == ["IDENTIFY", "FOLLOWERS", "REGISTER t"]
            s.peer.announce_followers(Followers((), 8.0, 300.0))
            await settled()
            assert [body["followers"] for _, body in s.registry.bodies] == [[LIFE], [LIFE], []]

    async def test_pings_come_four_times_before_an_adoption(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running(answer=witness) as s:
            began = trio.current_time()
            await trio.sleep(5)
            s.peer.announce_followers(FOLLOWERS)
            await trio.sleep(4.5)
            assert s.registry.times_of("PING") == [began + 5, began + 7, began + 9]
            s.peer.announce_followers(Followers((LIFE,), 600.0, 600.0))
            await trio.sleep(30)
            assert s.registry.times_of("PING")[3:] == [began + 24, began + 39]

    async def test_an_original_gets_none_of_the_new_commands(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running({"t": ["c"]}) as s:
            s.peer.announce_followers(FOLLOWERS)
            assert s.peer.witness == ""
            assert await s.peer.ask(encode_grant(LIFE)) is None
            assert await s.peer.ask(encode_leaving(for_good=True)) is None
            began = trio.current_time()
            await trio.sleep(20)
            assert s.registry.said == ["IDENTIFY", "REGISTER t c", "PING"]
            assert s.registry.times_of("PING") == [began + 15]
            s.registry.answer = witness  # it is replaced by ours
            await s.registry.hang_up()
            await trio.sleep(0.3)
            assert s.registry.bodies == [ANNOUNCED]
            s.registry.answer = good  # and back
            await s.registry.hang_up()
            await trio.sleep(0.3)
            assert s.peer.witness == ""
            assert s.registry.bodies == [ANNOUNCED]

    async def test_questions_at_once_between_other_commands(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running(answer=witness) as s, trio.open_nursery() as nursery:
            replies: list[bytes | None] = []

            async def ask(command: bytes) -> None:
                replies.append(await s.peer.ask(command))

            s.create_topic("t")
            nursery.start_soon(ask, encode_grant(LIFE))
            nursery.start_soon(ask, encode_leaving(for_good=False))
            s.create_topic("u")
            await settled()
            assert sorted(replies, key=str) == [b"OK", b'{"granted":true,"reason":"silent for 60.0 s"}']
            assert sorted(s.registry.said[1:]) == ["GRANT", "LEAVING", "REGISTER t", "REGISTER u"]

    @pytest.mark.parametrize("trouble", ["silence", "error", "hang-up", "close"])
    async def test_a_question_without_an_answer_ends(
        self, autojump_clock: trio.testing.MockClock, trouble: str
    ) -> None:
        async with running(answer=witness) as s, trio.open_nursery() as nursery:
            ended: list[tuple[float, bytes | None]] = []

            @nursery.start_soon
            async def ask() -> None:
                reply = await s.peer.ask(encode_grant(LIFE))
                ended.append((trio.current_time(), reply))

            began = trio.current_time()
            s.registry.answer = lambda command: None
            if trouble == "error":
                s.registry.answer = lambda command: reply(b"E_INVALID no")
            await settled()
            if trouble == "hang-up":
                await s.registry.hang_up()
            elif trouble == "close":
                s.peer.close()
            await trio.sleep(1.01)
            assert ended == [(began + (1 if trouble == "silence" else 0), None)]
            s.registry.answer = witness
            await trio.sleep(3)
            assert s.registry.said.count("GRANT") == 1, "it is not asked again on the next connection"

    async def test_a_question_that_nobody_waits_for_any_more_is_not_sent(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running(answer=witness) as s:
            s.registry.answer = lambda command: None
            s.create_topic("t")
            await settled()
            with trio.move_on_after(0.5):
                await s.peer.ask(encode_grant(LIFE))
            s.registry.answer = witness
            await s.registry.streams[0].send_all(reply(b"OK"))
            await trio.sleep(5)
            assert "GRANT" not in s.registry.said
            assert len(s.registry.attempts) == 1

    async def test_heard_since_the_command_was_sent(self, autojump_clock: trio.testing.MockClock) -> None:
        async with running(answer=witness, refusing=True) as s:
            assert s.peer.heard_at == float("-inf")
            s.registry.refusing = False
            await trio.sleep(3)
            began = s.registry.commands[0][0]
            assert s.peer.heard_at == began
            await trio.sleep_until(began + 16)
            assert s.peer.heard_at == began + 15
            s.registry.answer = lambda command: None
            s.create_topic("t")
            await trio.sleep(0.75)
            assert s.peer.heard_at == began + 15, "there is no reply yet"
            await s.registry.streams[0].send_all(reply(b"OK"))
            await settled()
            assert s.peer.heard_at == began + 16


class TestFence:
    """A leader with a fence wants to know whether somebody may serve its copy."""

    async def test_a_witness_is_asked_at_once_and_in_place_of_pings(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        heard: list[tuple[str, bool, float]] = []
        adopted = b"false"
        began = trio.current_time()

        def answer(command: str) -> bytes | None:
            return reply(b'{"adopted":%b}' % adopted) if command == "STANDING" else witness(command)

        note = lambda *said: heard.append(said)  # noqa: E731
        async with running(answer=answer, ping_interval=4.0, on_ping=note) as s:
            assert s.registry.said == ["IDENTIFY", "STANDING"]
            adopted = b"true"
            await trio.sleep(4.5)
            assert s.registry.said == ["IDENTIFY", "STANDING", "STANDING"]
            assert heard == [("r.example:4160", False, began), ("r.example:4160", True, began + 4.0)]

    async def test_r6_an_answer_that_is_read_late_is_one_to_what_was_asked_then(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """After a SIGSTOP it has waited in the socket, and is read before the time-out is seen."""
        heard: list[float] = []
        silent = lambda command: witness(command) if command == "IDENTIFY" else None  # noqa: E731
        note = lambda _address, _adopted, asked_at: heard.append(asked_at)  # noqa: E731
        async with running(answer=silent, on_ping=note) as s:
            began = trio.current_time()
            await trio.sleep(0.9)
            await s.registry.streams[0].send_all(reply(b'{"adopted":false}'))
            await settled()
            assert heard == [began]

    async def test_an_original_knows_of_nobody(self, autojump_clock: trio.testing.MockClock) -> None:
        heard: list[tuple[str, bool]] = []
        note = lambda address, is_adopted, _: heard.append((address, is_adopted))  # noqa: E731
        async with running(ping_interval=4.0, on_ping=note) as s:
            await trio.sleep(4.5)
            assert s.registry.said == ["IDENTIFY", "PING", "PING"]
            assert heard == [("r.example:4160", False)] * 2

    @pytest.mark.parametrize("said", [b"OK", b'{"adopted":1}', b"{}"])
    async def test_an_answer_that_cannot_be_read_is_none(
        self, autojump_clock: trio.testing.MockClock, said: bytes
    ) -> None:
        heard: list[tuple[str, bool]] = []
        note = lambda address, is_adopted, _: heard.append((address, is_adopted))  # noqa: E731

        def answer(command: str) -> bytes | None:
            return reply(said) if command == "STANDING" else witness(command)

        async with running(answer=answer, on_ping=note) as s:
            assert not s.peer.identified  # the connection has ended
            assert heard == []
