"""AUTH, and what it allows: who asks, when, and what is answered meanwhile. The auth server is played by the test."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from nsqd.auth import AuthClient
from nsqd.auth.state import AuthState
from nsqd.protocol_v2.authorization import MAX_SECRET
from nsqd.protocol_v2.client_stats import client_stats
from nsqkit.access import NOTHING
from nsqkit.wire import CLOSE_WAIT, OK
from tests.nsqd.auth.answers import parsed
from tests.nsqd.protocol_v2.harness import Client, Machine, dpub, error, identify, mpub, pub, size, sized, sub
from tests.nsqd.protocol_v2.serving import Server, serving
from tests.timing import patience

EVERYTHING = {"topic": ".*", "channels": [".*"], "permissions": ["subscribe", "publish"]}
EVERYTHING_ALLOWED = json.dumps({"ttl": 60, "authorizations": [EVERYTHING]}).encode()
FIRST = "E_AUTH_FIRST AUTH required before "
FAILED = error("E_AUTH_FAILED AUTH failed")


def auth(secret: bytes = b"secret") -> bytes:
    return b"AUTH\n" + sized(secret)


class Guarded(Machine):
    """A daemon with an auth server that answers when the test says so."""

    def __init__(self, **options: Any) -> None:
        self.asked: list[AuthClient] = []
        super().__init__(ask=self.asked.append, **options)

    def state(self, *authorizations: dict[str, Any], ttl: int = 60, **fields: str) -> AuthState:
        answer = {"ttl": ttl, "authorizations": authorizations, **fields}
        return parsed(json.dumps(answer).encode(), self.now)

    def decide(self, *authorizations: dict[str, Any], ttl: int = 60, **fields: str) -> None:
        """The oldest question is answered."""
        self._answer(self.state(*authorizations, ttl=ttl, **fields))

    def refuse(self) -> None:
        """The oldest question gets no answer that could be believed."""
        self._answer(None)

    def _answer(self, state: AuthState | None) -> None:
        session = self.asked.pop(0)
        self.rounds.begin()
        session.authorized(state)
        self.settle()

    def authorized(self, *authorizations: dict[str, Any], ttl: int = 60) -> Client:
        client = self.client().send(auth())
        self.decide(*authorizations, ttl=ttl)
        client.answers()
        return client


def test_the_answer_to_auth() -> None:
    machine = Guarded()
    client = machine.client().send(identify(feature_negotiation=True))
    assert client.json()["auth_required"] is True
    client.send(auth(b"open sesame"))
    assert client.new() == []
    assert machine.asked[0].auth_request().secret == b"open sesame"
    machine.decide(EVERYTHING, EVERYTHING, identity="ali", identity_url="http://ali")
    (frame,) = client.answers()
    assert frame[8:] == b'{"identity":"ali","identity_url":"http://ali","permission_count":2}'
    stats = client_stats(client.session)
    assert (stats.authed, stats.auth_identity, stats.auth_identity_url) == (True, "ali", "http://ali")
    assert b"open sesame".decode() not in repr(client.session.authorization)


@pytest.mark.parametrize(
    ("line", "name"), [(b"PUB t\n", "PUB"), (b"DPUB t 5\n", "DPUB"), (b"MPUB t\n", "MPUB")]
)
def test_before_auth_no_large_body_is_waited_for(line: bytes, name: str) -> None:
    """Its error is known, and nobody is to hold memory that has not said who it is (I12)."""
    machine = Guarded()
    client = machine.client().send(line + size(100_000))
    assert client.answers() == [error(FIRST + name)]
    assert client.closed
    assert machine.context.buffered == 0
    bad = machine.client().send(b"PUB t\n" + size(0))
    assert bad.answers() == [error("E_BAD_MESSAGE PUB invalid message body size 0")]


@pytest.mark.parametrize("line", [b"IDENTIFY\n", b"AUTH\n"])
def test_before_auth_bodies_are_small(line: bytes) -> None:
    machine = Guarded()
    client = machine.client().send(line + size(65_536))
    assert not client.closed
    client = machine.client().send(line + size(65_537))
    name = line.decode().strip()
    assert client.answers() == [error(f"E_BAD_BODY {name} body too big 65537 > 65536")]
    authorized = machine.authorized(EVERYTHING)
    authorized.send(line + size(65_537))
    assert not authorized.closed


def test_before_auth_few_answers_are_given_to_a_client_that_reads_none() -> None:
    machine = Guarded()
    client = machine.client()
    client.taking = False
    for _ in range(1000):
        if not client.session.wants_input:
            break
        client.send(identify(feature_negotiation=True))
    assert client.session.outbox.size < 20_000
    client.take()
    assert client.session.wants_input


def test_those_before_auth_have_a_memory_of_their_own() -> None:
    """However many they are, they take nothing from those that have authenticated (I12)."""
    machine = Guarded(max_buffered_bytes=1_000_000)
    honest = machine.authorized(EVERYTHING)
    honest.send(b"PUB t\n" + size(900_000) + b"x" * 890_000)
    strangers = [machine.client().send(b"AUTH\n" + size(60_000) + b"x" * 50_000) for _ in range(50)]
    assert 1 <= sum(not stranger.closed for stranger in strangers) <= 2
    assert machine.context.buffers_of_strangers.used <= 1_000_000 // 8
    honest.send(b"x" * 10_000)
    assert honest.answers() == [OK]


def test_what_a_client_holds_counts_among_the_others_once_it_has_authenticated() -> None:
    machine = Guarded()
    client = machine.client().send(auth() + b"PUB t\n" + size(50_000) + b"x" * 10_000)
    held = machine.context.buffers_of_strangers.used
    assert held > 10_000
    machine.decide(EVERYTHING)
    assert (machine.context.buffers_of_strangers.used, machine.context.buffers.used) == (0, held)
    client.send(b"x" * 40_000)
    assert client.answers()[1:] == [OK]
    assert machine.context.buffered == 0


def test_a_connection_is_of_use_once_it_has_authenticated() -> None:
    """Where that is required: the others give way first when all connections are taken."""
    machine = Guarded()
    client = machine.client().send(identify())
    assert not client.session.is_useful
    assert machine.authorized(EVERYTHING).session.is_useful
    assert not Machine().client().session.is_useful
    assert Machine().client().send(pub(b"x")).session.is_useful
    assert Machine().consumer().session.is_useful


def test_auth_is_disabled_without_auth_servers() -> None:
    client = Machine().client().send(identify(feature_negotiation=True))
    assert client.json()["auth_required"] is False
    client.send(auth())
    assert client.answers() == [error("E_AUTH_DISABLED AUTH disabled")]
    assert client.closed


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (b"AUTH x\n" + sized(b"s"), "E_INVALID AUTH invalid number of parameters"),
        (b"AUTH\n\0\0\0\0", "E_BAD_BODY AUTH invalid body size 0"),
        (b"AUTH\n\x7f\0\0\0", f"E_BAD_BODY AUTH body too big {0x7F000000} > {5 << 20}"),
        (sub() + auth(), f"{FIRST}SUB"),
    ],
)
def test_malformed_auth_commands(command: bytes, reason: str) -> None:
    machine = Guarded()
    client = machine.client().send(command)
    assert client.answers() == [error(reason)]
    assert client.closed
    assert not machine.asked


@pytest.mark.parametrize("body", [b"\0\0\0\5ab", b"\0\0"])
def test_a_body_that_is_cut_off(body: bytes) -> None:
    client = Guarded().client().send(b"AUTH\n" + body).eof()
    size = " size" if len(body) < 4 else ""
    assert client.answers() == [error(f"E_BAD_BODY AUTH failed to read body{size}")]


def test_only_once_and_only_before_sub() -> None:
    machine = Guarded()
    client = machine.authorized(EVERYTHING).send(auth())
    assert client.answers() == [error("E_INVALID AUTH already set")]
    client = machine.authorized(EVERYTHING).send(sub() + auth())
    assert client.answers() == [OK, error("E_INVALID cannot AUTH in current state")]


def test_no_authorizations() -> None:
    machine = Guarded()
    client = machine.client().send(auth())
    machine.decide()
    assert client.answers() == [error("E_UNAUTHORIZED AUTH no authorizations found")]
    assert client.closed


def test_without_a_usable_answer_the_client_is_refused() -> None:
    machine = Guarded()
    client = machine.client().send(auth() + pub(b"x"))
    machine.refuse()
    assert client.answers() == [FAILED]
    assert client.closed
    assert not machine.broker.topics


# --- checks


@pytest.mark.parametrize(
    ("command", "name"), [(pub(b"x"), "PUB"), (mpub(b"x"), "MPUB"), (dpub(b"x", 5), "DPUB"), (sub(), "SUB")]
)
def test_nothing_without_auth(command: bytes, name: str) -> None:
    machine = Guarded()
    client = machine.client().send(b"NOP\n" + command)
    assert client.answers() == [error(FIRST + name)]
    assert not machine.broker.topics


@pytest.mark.parametrize(
    ("authorization", "publishes", "subscribes"),
    [
        (EVERYTHING, True, True),
        ({**EVERYTHING, "permissions": ["publish"]}, True, False),
        ({**EVERYTHING, "permissions": ["subscribe"]}, False, True),
        ({**EVERYTHING, "permissions": []}, False, False),
        ({**EVERYTHING, "topic": "^t$"}, True, True),
        ({**EVERYTHING, "topic": "^other$"}, False, False),
        ({**EVERYTHING, "channels": ["^c$"]}, False, True),
        ({**EVERYTHING, "channels": ["^d$", "c"]}, False, True),
        ({**EVERYTHING, "channels": ["^d$"]}, False, False),
        ({**EVERYTHING, "channels": []}, False, False),
    ],
)
def test_commands_that_an_authorization_allows(
    authorization: dict[str, Any], publishes: bool, subscribes: bool
) -> None:
    for name, command in (("PUB", pub(b"x")), ("MPUB", mpub(b"x")), ("DPUB", dpub(b"x", 1))):
        client = Guarded().authorized(authorization).send(command)
        refused = error(f'E_UNAUTHORIZED AUTH failed for {name} on "t" ""')
        assert client.answers() == [OK if publishes else refused]
        assert client.closed is not publishes
    client = Guarded().authorized(authorization).send(sub())
    refused = error('E_UNAUTHORIZED AUTH failed for SUB on "t" "c"')
    assert client.answers() == [OK if subscribes else refused]


def test_one_of_several_is_enough() -> None:
    machine = Guarded()
    client = machine.authorized({**EVERYTHING, "topic": "^a"}, {**EVERYTHING, "topic": "b$"})
    assert client.send(pub(b"x", "axe") + pub(b"x", "bob") + pub(b"x", "abc")).answers() == [OK] * 3


def test_bad_names_are_told_first_and_multi_publishes_before_their_body() -> None:
    client = Guarded().client().send(pub(b"x", "no/name"))
    assert client.answers() == [error('E_BAD_TOPIC PUB topic name "no/name" is not valid')]
    client = Guarded().client().send(b"MPUB t\n")
    assert client.answers() == [error(FIRST + "MPUB")]
    client = Guarded().client().send(b"PUB t\n\0\0\0\1")
    assert client.answers() == []
    assert client.send(b"x").answers() == [error(FIRST + "PUB")]


def test_rdy_and_the_like_are_not_checked() -> None:
    machine = Guarded()
    client = machine.authorized({**EVERYTHING, "permissions": ["subscribe"]}, ttl=1)
    client.send(sub())
    assert client.answers() == [OK]
    machine.advance(5)
    assert client.send(b"RDY 1\nNOP\nCLS\n").answers() == [CLOSE_WAIT]


# --- while it is asked


def test_nothing_is_read_while_a_server_is_asked() -> None:
    machine = Guarded()
    client = machine.client().send(auth() + pub(b"one") + pub(b"two")[:-1])
    assert client.new() == []
    assert not client.session.wants_input
    client.machine.rounds.begin()
    client.session.feed(b"o")  # read before the driver knew
    machine.settle()
    machine.decide(EVERYTHING)
    frames = client.answers()
    assert frames[1:] == [OK, OK]
    assert client.session.wants_input


def test_an_answer_that_has_expired_is_asked_for_again() -> None:
    machine = Guarded()
    client = machine.authorized(EVERYTHING, ttl=5)
    machine.advance(4.875)
    assert client.send(pub(b"x")).answers() == [OK]
    machine.advance(0.125)
    client.send(pub(b"y") + mpub(b"z", b"z") + b"NOP\n")
    assert client.answers() == []
    assert len(machine.asked) == 1
    machine.decide(EVERYTHING, ttl=5)
    assert client.answers() == [OK, OK]
    assert machine.broker.topics["t"].message_count == 4
    machine.advance(5)
    client.send(sub())
    machine.decide({**EVERYTHING, "permissions": ["publish"]})
    assert client.answers() == [error('E_UNAUTHORIZED AUTH failed for SUB on "t" "c"')]


def test_asked_again_and_refused() -> None:
    machine = Guarded()
    client = machine.authorized(EVERYTHING, ttl=1)
    machine.advance(2)
    client.send(pub(b"x"))
    machine.refuse()
    assert client.answers() == [FAILED]
    client = machine.authorized(EVERYTHING, ttl=1)
    machine.advance(2)
    client.send(pub(b"x"))
    machine.decide()
    assert client.answers() == [error('E_UNAUTHORIZED AUTH failed for PUB on "t" ""')]


def test_a_client_that_has_gone_meanwhile() -> None:
    machine = Guarded()
    client = machine.client().send(auth())
    client.drop()
    machine.decide(EVERYTHING)
    assert client.new() == []


def test_heartbeats_go_on_during_a_query_and_the_client_is_not_dropped() -> None:
    machine = Guarded()
    client = machine.client().send(identify(heartbeat_interval=1000) + auth())
    client.answers()
    machine.advance(10)
    assert len(client.answers()) == 10
    assert not client.closed


def allow(server: Server, client: AuthClient) -> None:
    """The auth server lets the client do everything."""
    server.rounds.begin()
    client.authorized(parsed(EVERYTHING_ALLOWED, trio.current_time()))
    server.rounds.end()


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_an_authorization_that_expires_in_the_middle_of_a_multi_publish(
    server: Server, layers: str
) -> None:
    """When it was there again the connection was never read again."""
    asked: list[AuthClient] = []
    server.context.ask = asked.append
    server.context.restrict(NOTHING)
    peer = await server.connect(layers=layers)
    await peer.send(auth())
    await server.settled()
    allow(server, asked.pop())
    await peer.frame()
    assert peer.session.authorization.state is not None
    peer.session.authorization.state.expires = 0
    command = mpub(b"one", b"two" * 1000)
    await peer.send(command[:40])
    await server.settled()
    allow(server, asked.pop())
    await peer.send(command[40:])
    with trio.fail_after(patience(5)):
        assert await peer.frame() == OK


def test_a_secret_that_is_too_long_is_refused_unasked() -> None:
    """Megabytes of it were kept as long as the connection lived, and escaped for a URL."""
    machine = Guarded()
    client = machine.client().send(auth(b"s" * (MAX_SECRET + 1)))
    assert client.answers() == [FAILED]
    assert not machine.asked


async def test_a_publish_after_auth_is_taken_though_the_client_has_closed_its_side() -> None:
    """Commands that were read before its end are carried out, also those that wait for an auth server."""
    async with serving("plain") as server:
        asked: list[AuthClient] = []
        server.context.ask = asked.append
        server.context.restrict(NOTHING)
        peer = await server.connect()
        # more than a turn of commands, then AUTH, then a publish
        await peer.send(b"NOP\n" * 4100 + auth() + pub(b"x"))
        await peer.stream.raw.send_eof()
        await server.settled()
        (session,) = asked
        allow(server, session)
        assert OK in await peer.all()
        assert server.broker.existing("t").message_count == 1
