"""The protocol as a table of conversations, each of them held whole, byte by byte, and with the answers compared to the
byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.wire.commands import MAX_LINE
from nsqlookupd.protocol_v1 import MAX_BODY, MAX_FIELD, MAX_IDENTIFY, Context, Session, SessionPhase
from nsqlookupd.registry import Registry, RegistryLimits
from nsqlookupd.witness import Terms
from tests.nsqlookupd.peer import (
    FOLLOWER,
    IDENTITY,
    LEADER,
    WITNESS_IDENTITY,
    answers,
    identify,
    identify_raw,
    with_body,
)

REMOTE = "192.0.2.7:50000"
MAGIC = b"  V1"
LONGEST_NAME = b"x" * 64

# what the client sends, what it is answered, whether the server has closed then
CONVERSATIONS: list[tuple[bytes, bytes, bool]] = [
    # the magic bytes
    (b"", b"", False),
    (b"  V", b"", False),
    (MAGIC, b"", False),
    (b"  V2", b"\x00\x00\x00\x0eE_BAD_PROTOCOL", True),
    (b"  V2PING\n", answers(b"E_BAD_PROTOCOL"), True),
    (b"GET / HTTP/1.1\r\n\r\n", answers(b"E_BAD_PROTOCOL"), True),
    (b"\n\n\n\n", answers(b"E_BAD_PROTOCOL"), True),
    # lines
    (MAGIC + b"PING\n", b"\x00\x00\x00\x02OK", False),
    (MAGIC + b"PING", b"", False),
    (MAGIC + b"PING\r\n", answers(b"OK"), False),
    (MAGIC + b" \t PING a  b \r\r\n", answers(b"OK"), False),
    (MAGIC + "\u00a0PING\u3000\n".encode(), answers(b"OK"), False),
    (MAGIC + b"PING\nPING\nPING\n", answers(b"OK", b"OK", b"OK"), False),
    (MAGIC + b"\n", answers(b"E_INVALID invalid command "), True),
    (MAGIC + b"   \r\n", answers(b"E_INVALID invalid command "), True),
    (MAGIC + b"ping\n", answers(b"E_INVALID invalid command ping"), True),
    (MAGIC + b"PING\tx\n", answers(b"E_INVALID invalid command PING\tx"), True),
    (MAGIC + b"PINGPONG 1 2\n", answers(b"E_INVALID invalid command PINGPONG"), True),
    (MAGIC + b"\x1cPING\n", answers(b"E_INVALID invalid command \x1cPING"), True),
    (MAGIC + b"a\xff\xfe\x00b\n", answers(b"E_INVALID invalid command a\xff\xfe\x00b"), True),
    (MAGIC + b"PING\nNOP\nPING\n", answers(b"OK", b"E_INVALID invalid command NOP"), True),
    (MAGIC + b"PING" + b" " * (MAX_LINE - 5) + b"\n", answers(b"OK"), False),
    (MAGIC + b"PING" + b" " * (MAX_LINE - 4) + b"\n", answers(b"E_INVALID command too long"), True),
    (MAGIC + b"x" * MAX_LINE, answers(b"E_INVALID command too long"), True),
    (MAGIC + b"x" * (MAX_LINE - 1), b"", False),
    # IDENTIFY
    (MAGIC + identify(), answers(IDENTITY), False),
    (MAGIC + identify().replace(b"IDENTIFY\n", b" IDENTIFY x y\r\n"), answers(IDENTITY), False),
    (MAGIC + identify() + b"PING\n", answers(IDENTITY, b"OK"), False),
    (MAGIC + identify() + b"IDENTIFY\n", answers(IDENTITY, b"E_INVALID cannot IDENTIFY again"), True),
    (MAGIC + identify()[:12], b"", False),
    (MAGIC + identify()[:-1], b"", False),
    (MAGIC + identify_raw(b"", size=-1), answers(b"E_BAD_BODY IDENTIFY invalid body size -1"), True),
    (
        MAGIC + identify_raw(b"", size=-(1 << 31)),
        answers(b"E_BAD_BODY IDENTIFY invalid body size -2147483648"),
        True,
    ),
    (
        MAGIC + identify_raw(b"", size=MAX_IDENTIFY + 1),
        answers(b"E_BAD_BODY IDENTIFY body too big 1048577 > 1048576"),
        True,
    ),
    (MAGIC + identify_raw(b""), answers(b"E_BAD_BODY IDENTIFY failed to decode JSON body"), True),
    # REGISTER and UNREGISTER
    (MAGIC + identify() + b"REGISTER t\nUNREGISTER t\n", answers(IDENTITY, b"OK", b"OK"), False),
    (MAGIC + identify() + b"REGISTER t c\nUNREGISTER t c\n", answers(IDENTITY, b"OK", b"OK"), False),
    (MAGIC + identify() + b"REGISTER t c d/ e\n", answers(IDENTITY, b"OK"), False),
    (MAGIC + identify() + b"REGISTER t  /\n", answers(IDENTITY, b"OK"), False),
    (MAGIC + identify() + b"REGISTER t#ephemeral c#ephemeral\r\n", answers(IDENTITY, b"OK"), False),
    (MAGIC + identify() + b"REGISTER " + LONGEST_NAME + b"\n", answers(IDENTITY, b"OK"), False),
    (MAGIC + identify() + b"UNREGISTER never seen\n", answers(IDENTITY, b"OK"), False),
]  # fmt: skip

for _command in (b"REGISTER", b"UNREGISTER"):
    for _line in (_command, _command + b" t", _command + b" / /"):
        _line += b"\n"
        CONVERSATIONS.append((MAGIC + _line, answers(b"E_INVALID client must IDENTIFY"), True))
    for _line, _error in (
        (b"", b"E_INVALID %b insufficient number of params"),
        (b" ", b"E_INVALID %b insufficient number of params"),
        (b"  t", b"E_BAD_TOPIC %b topic name '' is not valid"),
        (b" a/b", b"E_BAD_TOPIC %b topic name 'a/b' is not valid"),
        (b" \xff'", b"E_BAD_TOPIC %b topic name '\xff'' is not valid"),
        (b" t#eph c", b"E_BAD_TOPIC %b topic name 't#eph' is not valid"),
        (b" t c\tc", b"E_BAD_CHANNEL %b channel name 'c\tc' is not valid"),
        (b" / /", b"E_BAD_TOPIC %b topic name '/' is not valid"),
        (b" x" + LONGEST_NAME, b"E_BAD_TOPIC %b topic name 'x" + LONGEST_NAME + b"' is not valid"),
        (b" t x" + LONGEST_NAME, b"E_BAD_CHANNEL %b channel name 'x" + LONGEST_NAME + b"' is not valid"),
    ):
        CONVERSATIONS.append(
            (MAGIC + identify() + _command + _line + b"\nPING\n", answers(IDENTITY, _error % _command), True)
        )

BAD_BODIES: list[tuple[bytes, bytes]] = [
    (b"{", b"IDENTIFY failed to decode JSON body"),
    (b"{} {}", b"IDENTIFY failed to decode JSON body"),
    (b"[]", b"IDENTIFY failed to decode JSON body"),
    (b'"x"', b"IDENTIFY failed to decode JSON body"),
    (b"1", b"IDENTIFY failed to decode JSON body"),
    (b'{"tcp_port":"4150"}', b"IDENTIFY failed to decode JSON body"),
    (b'{"tcp_port":4150.0}', b"IDENTIFY failed to decode JSON body"),
    (b'{"tcp_port":true}', b"IDENTIFY failed to decode JSON body"),
    (b'{"tcp_port":9223372036854775808}', b"IDENTIFY failed to decode JSON body"),
    (b'{"version":1}', b"IDENTIFY failed to decode JSON body"),
    (b'{"x":NaN}', b"IDENTIFY failed to decode JSON body"),
    (b"[" * 500_000, b"IDENTIFY failed to decode JSON body"),
    (b"9" * 5_000, b"IDENTIFY failed to decode JSON body"),
    (b"null", b"IDENTIFY missing fields"),
    (b"{}", b"IDENTIFY missing fields"),
    *[(identify(**{name: None})[13:], b"IDENTIFY missing fields")
      for name in ("broadcast_address", "tcp_port", "http_port", "version")],
    *[(identify(**{name: value})[13:], b"IDENTIFY missing fields")
      for name, value in (("broadcast_address", ""), ("tcp_port", 0), ("http_port", 0), ("version", ""))],
    *[(identify(**{name: "x" * (MAX_FIELD + 1)})[13:], b"IDENTIFY %b too long" % name.encode())
      for name in ("broadcast_address", "version", "hostname", "topology_zone", "topology_region")],
]  # fmt: skip
CONVERSATIONS += [
    (MAGIC + identify_raw(body) + b"PING\n", answers(b"E_BAD_BODY " + text), True)
    for body, text in BAD_BODIES
]

# the witness: for nsqds that have announced a life
MEMBER = MAGIC + identify(life=LEADER, incarnation=3, replication_address="n1:4159", stands_in_for="")
FOLLOWERS = b'{"adopt_after_ms":10000,"followers":["%s"],"restart_grace_ms":30000}' % FOLLOWER.encode()
COPIES_COMMANDS: dict[bytes, bytes] = {
    b"FOLLOWERS": FOLLOWERS,
    b"LEAVING": b'{"for_good":false}',
    b"GRANT": b'{"life":"%s"}' % FOLLOWER.encode(),
    b"RELEASE": b'{"life":"%s"}' % FOLLOWER.encode(),
}
UNKNOWN = b"this nsqlookupd has watched for 0.0 s, of 60 s"
CONVERSATIONS += [
    (MEMBER, answers(WITNESS_IDENTITY), False),
    (MAGIC + identify(life="", stands_in_for=""), answers(IDENTITY), False),
    (MEMBER + with_body(b"FOLLOWERS", FOLLOWERS), answers(WITNESS_IDENTITY, b"OK"), False),
    (MEMBER + with_body(b"FOLLOWERS", FOLLOWERS).replace(b"\n", b" x\r\n") + b"PING\n",
     answers(WITNESS_IDENTITY, b"OK", b"OK"), False),
    (MEMBER + with_body(b"LEAVING", b'{"for_good":true,"more":[]}'), answers(WITNESS_IDENTITY, b"OK"), False),
    (MEMBER + with_body(b"GRANT", COPIES_COMMANDS[b"GRANT"]) + b"PING\n",
     answers(WITNESS_IDENTITY, b'{"granted":false,"reason":"' + UNKNOWN + b'"}', b"OK"), False),
    (MEMBER + with_body(b"RELEASE", COPIES_COMMANDS[b"RELEASE"]), answers(WITNESS_IDENTITY, b"OK"), False),
    (MEMBER + b"STANDING\nPING\n", answers(WITNESS_IDENTITY, b'{"adopted":false}', b"OK"), False),
    (MAGIC + b"STANDING\n", answers(b"E_INVALID client must IDENTIFY"), True),
    (MAGIC + identify() + b"STANDING\n",
     answers(IDENTITY, b"E_INVALID STANDING client has announced no life"), True),
]  # fmt: skip
for _command, _body in COPIES_COMMANDS.items():
    _name = _command.decode()
    _whole = with_body(_command, _body)
    CONVERSATIONS += [
        (MAGIC + _whole, answers(b"E_INVALID client must IDENTIFY"), True),
        (
            MAGIC + identify() + _whole,
            answers(IDENTITY, f"E_INVALID {_name} client has announced no life".encode()),
            True,
        ),
        (MEMBER + _whole[:-1], answers(WITNESS_IDENTITY), False),
        *[
            (
                MEMBER + with_body(_command, b"", size=size),
                answers(WITNESS_IDENTITY, f"E_BAD_BODY {_name} {reason}".encode()),
                True,
            )
            for size, reason in (
                (-1, "invalid body size -1"),
                (MAX_BODY + 1, "body too big 65537 > 65536"),
            )
        ],
        *[
            (
                MEMBER + with_body(_command, wrong) + b"PING\n",
                answers(WITNESS_IDENTITY, f"E_BAD_BODY {_name} failed to decode JSON body".encode()),
                True,
            )
            for wrong in (b"", b"{", b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 60_000, _body + b"{}")
        ],
    ]
for _name, _wrong, _error in (
    ("FOLLOWERS", FOLLOWERS.replace(b"10000", b"1e4"), "failed to decode JSON body"),
    ("FOLLOWERS", FOLLOWERS.replace(b"10000", b"true"), "failed to decode JSON body"),
    ("FOLLOWERS", FOLLOWERS.replace(b"10000", b"9" * 20), "failed to decode JSON body"),
    ("FOLLOWERS", FOLLOWERS.replace(b"10000", b"0"), "invalid adopt_after_ms 0"),
    ("FOLLOWERS", FOLLOWERS.replace(b"10000", b"604800001"), "invalid adopt_after_ms 604800001"),
    ("FOLLOWERS", FOLLOWERS.replace(b"30000", b"-1"), "invalid restart_grace_ms -1"),
    ("FOLLOWERS", FOLLOWERS.replace(b"2222", b"222"), "life is not valid"),
    ("FOLLOWERS", FOLLOWERS.replace(b"2222", b"222G"), "life is not valid"),
    ("FOLLOWERS", FOLLOWERS.replace(b'["', b'[1,"'), "failed to decode JSON body"),
    ("FOLLOWERS", FOLLOWERS.replace(b"[", b"[" + b'"%s",' % FOLLOWER.encode() * 16),
     "too many followers 17 > 16"),
    ("LEAVING", b'{"for_good":1}', "failed to decode JSON body"),
    ("GRANT", b'{"life":"%s"}' % b"A" * 1, "life is not valid"),
    ("GRANT", b'{"life":""}', "life is not valid"),
    ("GRANT", b'{"life":5}', "failed to decode JSON body"),
    ("RELEASE", b'{"life":"%s\\n"}' % LEADER.encode(), "life is not valid"),
):  # fmt: skip
    CONVERSATIONS.append(
        (
            MEMBER + with_body(_name.encode(), _wrong) + b"PING\n",
            answers(WITNESS_IDENTITY, f"E_BAD_BODY {_name} {_error}".encode()),
            True,
        )
    )
for _field, _value, _error in (
    ("life", "x", "life is not valid"),
    ("life", LEADER.replace("1", "A"), "life is not valid"),
    ("life", LEADER + "\n", "life is not valid"),
    ("life", 7, "failed to decode JSON body"),
    ("incarnation", "1", "failed to decode JSON body"),
    ("incarnation", 1.5, "failed to decode JSON body"),
    ("stands_in_for", "1" * 31, "stands_in_for is not valid"),
    ("replication_address", "x" * (MAX_FIELD + 1), "replication_address too long"),
):
    CONVERSATIONS.append(
        (
            MAGIC + identify(**{"life": LEADER, _field: _value}),
            answers(f"E_BAD_BODY IDENTIFY {_error}".encode()),
            True,
        )
    )

# what the client sends before it ends its sending, what it is answered then
CUT_SHORT: list[tuple[bytes, bytes]] = [
    (b"", b""),
    (b"  V", b""),
    (MAGIC, b""),
    (MAGIC + b"PING", b""),
    (MAGIC + b"IDENTIFY", b""),
    (MAGIC + b"IDENTIFY\n", answers(b"E_BAD_BODY IDENTIFY failed to read body size")),
    (MAGIC + b"IDENTIFY\n\0\0\0", answers(b"E_BAD_BODY IDENTIFY failed to read body size")),
    (MAGIC + b"IDENTIFY\n\0\0\0\2", answers(b"E_BAD_BODY IDENTIFY failed to read body")),
    (MAGIC + identify()[:-1], answers(b"E_BAD_BODY IDENTIFY failed to read body")),
    (MAGIC + b"bad\n", b""),
    (MEMBER + b"GRANT\n", answers(b"E_BAD_BODY GRANT failed to read body size")),
    (MEMBER + b"GRANT\n\0\0\0\2{", answers(b"E_BAD_BODY GRANT failed to read body")),
]


def new_context(limits: RegistryLimits | None = None) -> Context:
    return Context(registry=Registry(limits=limits), identity=IDENTITY, witness_identity=WITNESS_IDENTITY)


def feed(session: Session, data: bytes, piece: int, now: float = 0.0) -> bytes:
    """Feed it in pieces of this size until it closes."""
    out = b""
    for start in range(0, len(data), piece):
        out += session.feed(data[start : start + piece], now)
        if session.phase is SessionPhase.CLOSING:
            break
    return out


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(("sent", "answered", "closes"), CONVERSATIONS)
def test_conversations(sent: bytes, answered: bytes, closes: bool, piece: int) -> None:
    if len(sent) > 100_000 and piece == 1:
        piece = 1000
    context = new_context()
    session = Session(context, REMOTE)
    assert feed(session, sent, piece) == answered
    assert (session.phase is SessionPhase.CLOSING) == closes
    if closes:
        assert session.feed(MAGIC + b"PING\n", 0.0) == b""
        assert session.eof() == b""
        assert not session._buffer  # nothing is gathered behind an error
    session.end()
    session.end()
    assert context.registry.producers() == []
    assert context.buffered == 0


def test_the_longest_body() -> None:
    session = Session(new_context(), REMOTE)
    room = MAX_IDENTIFY - struct.unpack(">i", identify(x="")[9:13])[0]
    longest = identify(x="y" * room)
    assert struct.unpack(">i", longest[9:13])[0] == MAX_IDENTIFY
    assert feed(session, MAGIC + longest, 16_384) == answers(IDENTITY)


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(("sent", "answered"), CUT_SHORT)
def test_the_client_ends_its_sending(sent: bytes, answered: bytes, piece: int) -> None:
    session = Session(new_context(), REMOTE)
    feed(session, sent, piece)
    assert session.eof() == answered
    assert session.phase is SessionPhase.CLOSING


def test_the_identity_of_a_producer_is_kept() -> None:
    context = new_context()
    session = Session(context, REMOTE)
    body = (
        b'{"Broadcast_Address":"old","broadcast_address":"b\xc3\xa4d\xff\\ud800","TCP_PORT":1,"http_port":-2,'
        b'"version":"v","hostname":"h","topology_zone":"z","topology_region":null,"remote_address":5,"x":[{}]}'
    )
    assert session.feed(MAGIC + identify_raw(body), 3.0) == answers(IDENTITY)
    [producer] = context.registry.producers()
    assert producer.last_update == 3.0
    shown = producer.info
    assert (shown.remote_address, shown.broadcast_address) == (REMOTE, "b\u00e4d\ufffd\ufffd")
    assert (shown.tcp_port, shown.http_port) == (1, -2)
    assert (shown.version, shown.hostname, shown.topology_zone, shown.topology_region) == ("v", "h", "z", "")


def test_registrations_reach_the_registry_and_go_with_the_connection() -> None:
    context = new_context()
    registry = context.registry
    session = Session(context, REMOTE)
    session.feed(MAGIC + identify() + b"REGISTER t c\nREGISTER u\nUNREGISTER t c\n", 0.0)
    [producer] = registry.producers()
    assert (set(producer.topics), producer.channels) == ({"t", "u"}, {})
    session.feed(b"/\n", 0.0)  # a fatal error: the connection is about to end, but the producer has it still
    assert registry.producers() == [producer]
    session.end()
    assert registry.producers() == []
    assert registry.topics() == ["t", "u"]


def test_only_ping_refreshes() -> None:
    context = new_context()
    session = Session(context, REMOTE)
    session.feed(MAGIC + identify(), 1.0)
    [producer] = context.registry.producers()
    session.feed(b"REGISTER t\nUNREGISTER t\n", 2.0)
    assert producer.last_update == 1.0
    session.feed(b"PING\n", 3.0)
    assert producer.last_update == 3.0


def test_a_full_registry_refuses() -> None:
    session = Session(new_context(RegistryLimits(keys=1)), REMOTE)
    sent = MAGIC + identify() + b"REGISTER t\nREGISTER t\nREGISTER u\n"
    text = b"E_INVALID REGISTER too many topics and channels"
    assert session.feed(sent, 0.0) == answers(IDENTITY, b"OK", b"OK", text)


def test_long_bodies_are_counted_until_they_are_read_or_given_up() -> None:
    context = new_context()
    context.max_buffered = 50_000
    first, second, third = (Session(context, REMOTE) for _ in range(3))
    long = identify(x="y" * 30_000)
    size = struct.unpack(">i", long[9:13])[0]
    assert first.feed(MAGIC + long[:20], 0.0) == b""
    assert context.buffered == size
    assert second.feed(MAGIC + long, 0.0) == answers(b"E_BAD_BODY IDENTIFY no room for body")
    # No longer than a line may be.
    assert third.feed(MAGIC + identify(x="y" * 10_000), 0.0) == answers(IDENTITY)
    first.end()
    assert context.buffered == 0
    fourth = Session(context, REMOTE)
    assert feed(fourth, MAGIC + long, 1000) == answers(IDENTITY)
    assert context.buffered == 0


@pytest.mark.parametrize(
    ("sent", "incomplete"),
    [
        (b"", True),
        (b"  V", True),
        (MAGIC, False),
        (MAGIC + b"P", True),
        (MAGIC + b"PING\n", False),
        (MAGIC + b"IDENTIFY\n", True),
        (MAGIC + b"IDENTIFY\n\0\0\0\1", True),
        (MAGIC + identify(), False),
        (MAGIC + b"bad\n", False),
    ],
)
def test_whether_more_has_to_come(sent: bytes, incomplete: bool) -> None:
    session = Session(new_context(), REMOTE)
    session.feed(sent, 0.0)
    assert session.incomplete == incomplete


@given(
    st.lists(st.sampled_from([MAGIC, identify(), b"REGISTER t c\n", b"PING\r\n", b" ", b"\0\0", b"\xff\n"]))
)
def test_any_cut_gives_the_same_answers(parts: list[bytes]) -> None:
    data = MAGIC + b"".join(parts)
    whole, bytewise = Session(new_context(), REMOTE), Session(new_context(), REMOTE)
    assert whole.feed(data, 0.0) == feed(bytewise, data, 1)
    assert whole.phase is bytewise.phase


class TestWitness:
    """What sessions say, and what they let the witness know."""

    def test_a_lost_leader_is_granted_to_its_follower(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        context = new_context()
        leader, follower = Session(context, REMOTE), Session(context, REMOTE)
        context.witness.advance(-1.0)
        leader.feed(MEMBER + with_body(b"FOLLOWERS", FOLLOWERS), 0.0)
        follower.feed(MAGIC + identify(life=FOLLOWER, broadcast_address="n2"), 0.0)
        assert context.witness.terms_of(LEADER) == Terms(
            followers=(FOLLOWER,), adopt_after=10.0, restart_grace=30.0
        )
        question = with_body(b"GRANT", b'{"life":"%s"}' % LEADER.encode())
        for second in range(1, 10):
            context.witness.advance(second)
        leader.end()
        assert follower.feed(question, 9.5) == answers(
            b'{"granted":false,"reason":"heard 9.5 s ago, of 10 s"}'
        )
        assert follower.feed(question, 10.0) == answers(b'{"granted":true,"reason":"silent for 10.0 s"}')
        follower.feed(question * 3, 10.0)
        assert [line for line in caplog.messages if line.startswith("WITNESS")] == [
            f"WITNESS: life {LEADER} is not granted to n2:4151, life {FOLLOWER}: heard 9.5 s ago, of 10 s",
            f"WITNESS: life {LEADER} is granted to n2:4151, life {FOLLOWER}: silent for 10.0 s",
        ]
        release = with_body(b"RELEASE", b'{"life":"%s"}' % LEADER.encode())
        assert follower.feed(release, 10.0) == answers(b"OK")
        assert not next(context.witness.shown()).granted_to

    def test_a_leader_that_asks_hears_of_its_stand_in(self) -> None:
        context = new_context()
        leader, stand_in = Session(context, REMOTE), Session(context, REMOTE)
        leader.feed(MEMBER, 0.0)
        stand_in.feed(MAGIC + identify(life=FOLLOWER, stands_in_for=LEADER), 0.0)
        assert leader.feed(b"STANDING\n", 1.0) == answers(b'{"adopted":true}')
        producer = leader.producer
        assert producer is not None
        assert producer.last_update == 1.0  # as a PING

    @pytest.mark.parametrize(
        "sign", [b"STANDING\n", b"PING\n", b"REGISTER t\n", b"UNREGISTER t\n", b"LEAVING\n"]
    )
    def test_each_line_is_a_sign_of_life(self, sign: bytes) -> None:
        context = new_context()
        session = Session(context, REMOTE)
        session.feed(MEMBER, 0.0)
        session.feed(sign[:-1], 1.0)
        context.witness.advance(1.0)
        assert next(context.witness.shown()).heard_seconds == 1.0
        session.feed(sign[-1:], 1.5)
        assert next(context.witness.shown()).heard_seconds == 0.0

    @pytest.mark.parametrize(("for_good", "lives"), [(b"false", 1), (b"true", 0)])
    def test_a_leader_that_leaves(self, for_good: bytes, lives: int) -> None:
        context = new_context()
        session = Session(context, REMOTE)
        session.feed(MEMBER + with_body(b"LEAVING", b'{"for_good":%s}' % for_good), 0.0)
        session.end()
        assert [shown.stopped for shown in context.witness.shown()] == [True] * lives

    def test_a_life_that_is_back_while_a_stand_in_serves_it(self, caplog: pytest.LogCaptureFixture) -> None:
        context = new_context()
        stand_in, leader = Session(context, REMOTE), Session(context, REMOTE)
        stand_in.feed(MAGIC + identify(life=FOLLOWER, stands_in_for=LEADER), 0.0)
        leader.feed(MEMBER, 0.0)
        assert caplog.messages == [f"WITNESS: n1:4151, life {LEADER}, is back; {FOLLOWER} stands in for it"]

    def test_an_nsqd_without_a_life_leaves_nothing(self) -> None:
        context = new_context()
        session = Session(context, REMOTE)
        session.feed(MAGIC + identify(), 0.0)
        session.end()
        assert list(context.witness.shown()) == []
        assert not context.witness._without_life
