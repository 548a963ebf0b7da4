"""The life of a connection: each transition of the table happens, and no other can."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nsqd.auth import AuthClient
from nsqd.protocol_v2.layers import Layers
from nsqd.protocol_v2.phase import NOT_READING, TRANSITIONS, SessionPhase
from nsqd.protocol_v2.session import TURN, Session
from nsqkit.wire import OK
from tests.nsqd.auth.answers import parsed
from tests.nsqd.protocol_v2.harness import Client, Machine, error, identify, pub, sized, sub
from tests.nsqd.protocol_v2.serving import serving

Step = tuple[SessionPhase, SessionPhase]
P = SessionPhase
AUTH = b"AUTH\n" + sized(b"secret")
ALLOWED = b'{"ttl":60,"authorizations":[{"topic":".*","channels":[".*"],"permissions":["publish"]}]}'
STEPS = [(before, after) for before, row in TRANSITIONS.items() for after in row]


def name(step: Step) -> str:
    return f"{step[0].name}-{step[1].name}"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Step]]:
    """Those that sessions take."""
    taken: list[Step] = []
    move = Session._move_to

    def recorded(session: Session, phase: SessionPhase) -> None:
        taken.append((session.phase, phase))
        move(session, phase)

    monkeypatch.setattr(Session, "_move_to", recorded)
    yield taken
    assert set(taken) <= set(STEPS)


# --- clients in each phase


def awaiting_magic() -> Client:
    return Machine().client(b"  ")


def reading() -> Client:
    return Machine().client()


def yielded() -> Client:
    """It has published on a topic whose log cannot be written."""
    machine = Machine()
    machine.client().send(pub(b"x"))
    client = machine.client()
    machine.fail_appends()
    machine.rounds.begin()
    client.session.feed(pub(b"y") + b"NOP\n" * TURN)
    return client


def upgrading() -> Client:
    return Machine().client().send(identify(feature_negotiation=True, deflate=True))


def authorizing() -> Client:
    asked: list[AuthClient] = []
    return Machine(ask=asked.append).client().send(AUTH)


def closing() -> Client:
    client = reading()
    client.taking = False
    return client.send(b"BOGUS\n")


def upgrade(client: Client) -> None:
    assert client.session.upgrade is not None
    client.session.upgraded(Layers(client.session.upgrade, None))


def delete_channel(client: Client) -> None:
    client.send(sub())
    client.machine.broker.existing("t").delete_channel("c")


def continue_turn(client: Client) -> None:
    client.machine.heal()
    client.session.feed(b"")


IN_PHASE: dict[SessionPhase, Callable[[], Client]] = {
    P.AWAITING_MAGIC: awaiting_magic,
    P.READING: reading,
    P.YIELDED: yielded,
    P.UPGRADING: upgrading,
    P.AUTHORIZING: authorizing,
    P.CLOSING: closing,
}
EVENTS: dict[Step, Callable[[Client], object]] = {
    (P.AWAITING_MAGIC, P.READING): lambda client: client.send(b"V2"),
    (P.AWAITING_MAGIC, P.CLOSING): lambda client: client.send(b"V1"),
    (P.AWAITING_MAGIC, P.CLOSED): lambda client: client.machine.advance(10),
    (P.READING, P.YIELDED): lambda client: client.send(b"NOP\n" * (TURN + 1)),
    (P.READING, P.UPGRADING): lambda client: client.send(identify(feature_negotiation=True, snappy=True)),
    (P.READING, P.AUTHORIZING): lambda client: (
        setattr(client.machine.context, "ask", lambda _: None),
        client.send(AUTH),
    ),
    (P.READING, P.CLOSING): lambda client: client.eof(),
    (P.READING, P.CLOSED): delete_channel,
    (P.YIELDED, P.READING): continue_turn,
    (P.YIELDED, P.CLOSING): lambda client: client.machine.settle(),
    (P.YIELDED, P.CLOSED): lambda client: client.drop(),
    (P.UPGRADING, P.READING): upgrade,
    (P.UPGRADING, P.CLOSING): lambda client: client.session.upgrade_failed("EOF"),
    (P.UPGRADING, P.CLOSED): lambda client: client.drop(),
    (P.AUTHORIZING, P.READING): lambda client: client.session.authorized(parsed(ALLOWED, 100.0)),
    (P.AUTHORIZING, P.CLOSING): lambda client: client.session.authorized(None),
    (P.AUTHORIZING, P.CLOSED): lambda client: client.drop(),
    (P.CLOSING, P.CLOSED): lambda client: client.take(),
}


def test_the_events_are_those_of_the_table() -> None:
    assert list(EVENTS) == STEPS


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_transition(step: Step, steps: list[Step]) -> None:
    client = IN_PHASE[step[0]]()
    assert client.session.phase is step[0]
    steps.clear()
    EVENTS[step](client)
    assert steps[0] == step


@pytest.mark.parametrize(
    "step", [(before, after) for before in P for after in P if (before, after) not in STEPS], ids=name
)
def test_no_other_transition(step: Step) -> None:
    session = reading().session
    session.phase = step[0]
    with pytest.raises(AssertionError, match=f"{step[0].name} -> {step[1].name}"):
        session._move_to(step[1])


@pytest.mark.parametrize("phase", list(IN_PHASE), ids=lambda phase: phase.name)
def test_input_is_wanted_in_some_phases_only(phase: SessionPhase) -> None:
    assert IN_PHASE[phase]().session.wants_input is (phase not in NOT_READING)


def test_everything_ends() -> None:
    """From every phase there is a way to CLOSED, and none back."""
    assert not TRANSITIONS[P.CLOSED]
    assert all(P.CLOSED in row for phase, row in TRANSITIONS.items() if phase is not P.CLOSED)
    assert all(why for row in TRANSITIONS.values() for why in row.values())


# --- what the phases are for


def test_a_turn_that_ends_in_the_middle_of_a_command_is_over() -> None:
    client = reading()
    client.machine.rounds.begin()
    client.session.feed(b"NOP\n" * (TURN - 1) + pub(b"x")[:-1])
    assert client.session.phase is P.READING
    client.machine.settle()
    assert client.send(b"x").answers() == [OK]


async def test_after_a_turn_that_ends_in_the_middle_of_a_command_the_rest_is_read() -> None:
    """Its connection was given one turn after the other, and never read."""
    async with serving("plain") as server:
        peer = await server.connect(buffer=1 << 20)
        await peer.send(b"NOP\n" * (TURN - 1) + pub(b"x")[:-1])
        await server.settled()
        await peer.send(b"x")
        assert await peer.frame() == OK


def test_an_answer_of_an_auth_server_that_comes_after_a_fatal_error_is_ignored() -> None:
    """Nothing is answered after the error."""
    asked: list[AuthClient] = []
    machine = Machine(ask=asked.append, max_buffered_bytes=20_000)
    client = machine.client().send(AUTH)
    client.taking = False
    client.send(b"x" * 30_000)  # read before the driver knew that nothing is wanted
    assert client.session.phase is P.CLOSING
    machine.rounds.begin()
    asked[0].authorized(parsed(ALLOWED, machine.now))
    machine.settle()
    client.take()
    assert client.closed
    reason = "E_INVALID too many bytes wait in unfinished commands, try again later"
    assert client.answers() == [error(reason)]
