"""The client's side of the protocol without I/O."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit import wire
from nsqkit.client.errors import BadTopic, FinishFailed, ProtocolViolation, ServerError
from nsqkit.client.protocol import OK, ClientProtocol, Error, Features, Heartbeat, Phase, Request

ID = b"0123456789abcdef"


def opened() -> ClientProtocol:
    """A protocol whose magic is sent."""
    protocol = ClientProtocol()
    protocol.data_to_send()
    return protocol


def test_the_first_bytes_are_the_magic_and_identify() -> None:
    """In one piece."""
    protocol = ClientProtocol()
    protocol.identify({"client_id": "x"})
    data = protocol.data_to_send()
    assert data.startswith(b"  V2IDENTIFY\n")
    assert json.loads(data[17:]) == {"client_id": "x"}
    assert protocol.data_to_send() == b""


def test_answers_belong_to_commands_in_order() -> None:
    """Messages and heartbeats may come between."""
    protocol = opened()
    protocol.sub("t", "c")
    first = Request("PUB")
    protocol.ask(first, b"PUB t\n\0\0\0\1x")
    events = protocol.receive(wire.OK + wire.HEARTBEAT + wire.encode_message(7, 2, ID, b"m") + wire.OK)
    assert [type(event) for event in events] == [Request, Heartbeat, wire.Message, Request]
    assert events[0].command == "SUB"
    assert events[2] == wire.Message(7, 2, ID, b"m")
    assert events[3] is first
    assert first.answer == OK


def test_a_run_of_oks_answers_as_many_publishes() -> None:
    """With a heartbeat in it, and a last one that is not whole."""
    protocol = opened()
    requests = [Request("PUB") for _ in range(7)]
    for request in requests:
        protocol.ask(request, b"...")
    protocol.data_to_send()
    events = protocol.receive(wire.OK * 4 + wire.HEARTBEAT + wire.OK * 2 + wire.OK[:7])
    assert events == [*requests[:4], Heartbeat(), *requests[4:6]]
    assert [request.answer for request in requests] == [OK] * 6 + [b""]
    assert protocol.unanswered() == ([requests[6]], [])
    assert protocol.receive(wire.OK[7:]) == [requests[6]]


def test_a_run_of_more_oks_than_publishes_breaks_it() -> None:
    """The stream is out of step; none of them can be believed."""
    protocol = opened()
    protocol.ask(Request("PUB"), b"...")
    with pytest.raises(ProtocolViolation, match="an answer without a request"):
        protocol.receive(wire.OK * 2)
    assert protocol.phase is Phase.BROKEN


def test_a_heartbeat_is_answered_unasked() -> None:
    """NOP is there to be sent."""
    protocol = opened()
    assert protocol.receive(wire.HEARTBEAT) == [Heartbeat()]
    assert protocol.data_to_send() == b"NOP\n"


def test_small_commands_leave_as_one_piece() -> None:
    """In the order of the calls."""
    protocol = opened()
    protocol.sub("t", "c")
    for count in (1, 2, 3):
        protocol.send(b"RDY %d\n" % count)
    assert protocol.data_to_send() == b"SUB t c\nRDY 1\nRDY 2\nRDY 3\n"


def test_cls_is_sent_once_and_ends_in_close_wait() -> None:
    """A second CLS would be fatal."""
    protocol = opened()
    protocol.cls()
    assert protocol.data_to_send() == b""
    protocol.sub("t", "c")
    protocol.cls()
    protocol.cls()
    assert protocol.data_to_send() == b"SUB t c\nCLS\n"
    assert protocol.phase is Phase.CLOSING
    protocol.receive(wire.OK + wire.CLOSE_WAIT)
    assert protocol.phase is Phase.CLOSE_WAIT


def test_an_error_that_leaves_the_connection_open_belongs_to_no_command() -> None:
    """The publish behind it still gets its own answer."""
    protocol = opened()
    publish = Request("PUB")
    protocol.ask(publish, b"...")
    frame = wire.encode_error(b"E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight")
    events = protocol.receive(frame + wire.OK)
    assert isinstance(events[0], Error)
    assert isinstance(events[0].error, FinishFailed)
    assert events[0].request is None
    assert events[1] is publish


def test_after_a_fatal_error_what_stood_behind_was_not_executed() -> None:
    """And nothing more is understood or sent."""
    protocol = opened()
    requests = [Request("PUB") for _ in range(3)]
    for request in requests:
        protocol.ask(request, b"...")
    protocol.data_to_send()
    events = protocol.receive(wire.OK + wire.encode_error(b"E_BAD_TOPIC PUB topic name") + wire.OK)
    assert events[0] is requests[0]
    assert events[1].request is requests[1]
    assert isinstance(events[1].error, BadTopic)
    assert protocol.phase is Phase.REFUSED
    assert protocol.unanswered() == ([], [requests[2]])
    protocol.send(b"NOP\n")
    assert protocol.data_to_send() == b""
    assert protocol.receive(wire.OK) == []


@pytest.mark.parametrize(
    ("text", "belongs"), [(b"E_NEW no more of these", True), (b"E_SUB_FAILED no", False)]
)
def test_an_unknown_error_answers_the_first_command(text: bytes, belongs: bool) -> None:
    """Whatever it was, it can be meant; unlike one that is known to answer others only."""
    protocol = opened()
    requests = [Request("PUB") for _ in range(2)]
    for request in requests:
        protocol.ask(request, b"...")
    protocol.data_to_send()
    [event] = protocol.receive(wire.encode_error(text))
    assert event.request is (requests[0] if belongs else None)
    assert protocol.unanswered() == ([], requests[1:] if belongs else requests)


def test_a_lost_connection_parts_what_was_taken_from_what_was_not() -> None:
    """Only what was given out can have reached nsqd."""
    protocol = opened()
    first, second, third = (Request("PUB") for _ in range(3))
    protocol.ask(first, b"a")
    protocol.ask(second, b"b")
    protocol.data_to_send()
    protocol.ask(third, b"c")
    protocol.receive(wire.OK)
    assert protocol.unanswered() == ([second], [third])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request", "unexpected HTTP response"),
        (b"\0\0\0\3\0\0\0\0", "a frame of 3 bytes"),
        (b"\xff\xff\xff\xff\0\0\0\0", "a frame of -1 bytes"),
        (b"\0\0\x10\0\0\0\0\2", "exceeds configured maximum"),
        (b"\0\0\0\4\0\0\0\7", "type 7"),
        (b"\0\0\0\x08\0\0\0\2head", "type 2"),
        (wire.OK, "an answer without a request"),
    ],
)
def test_garbage_ends_it_with_a_reason(data: bytes, why: str) -> None:
    """Never silence, never a huge buffer."""
    protocol = ClientProtocol(max_frame=1000)
    with pytest.raises(ProtocolViolation, match=why):
        protocol.receive(data)
    assert protocol.phase is Phase.BROKEN


def test_a_strange_answer_to_cls_is_garbage() -> None:
    """Only CLOSE_WAIT will do."""
    protocol = opened()
    protocol.sub("t", "c")
    protocol.cls()
    with pytest.raises(ProtocolViolation, match="unexpected answer"):
        protocol.receive(wire.OK + wire.OK)


STREAM = b"".join(
    [
        wire.OK,
        wire.encode_message(1, 1, ID, b"x"),
        wire.HEARTBEAT,
        wire.encode_message(2, 2, ID, b"y" * 300),
        wire.encode_error(b"E_TOUCH_FAILED TOUCH failed"),
        wire.CLOSE_WAIT,
    ]
)


def scene() -> ClientProtocol:
    protocol = opened()
    protocol.sub("t", "c")
    protocol.cls()
    return protocol


def describe(events: list[Any]) -> list[str]:
    return [str(event) for event in events if isinstance(event, wire.Message | Heartbeat)] + [
        event.command if isinstance(event, Request) else event.error.text
        for event in events
        if isinstance(event, Request | Error)
    ]


def test_byte_by_byte_gives_the_same_events() -> None:
    """However the stream is cut."""
    whole = scene().receive(STREAM)
    protocol = scene()
    single = [event for byte in STREAM for event in protocol.receive(bytes([byte]))]
    assert len(whole) == 6
    assert describe(single) == describe(whole)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    """Pieces of any sizes."""
    edges = [0, *sorted(cuts), len(STREAM)]
    protocol = scene()
    events: list[Any] = []
    for start, stop in itertools.pairwise(edges):
        events += protocol.receive(STREAM[start:stop])
    assert describe(events) == describe(scene().receive(STREAM))


@given(st.binary(max_size=200))
def test_any_bytes_give_events_or_a_violation(data: bytes) -> None:
    """No other exception, whatever comes."""
    protocol = ClientProtocol(max_frame=1 << 20)
    try:
        protocol.receive(data)
    except ProtocolViolation:
        assert protocol.phase is Phase.BROKEN


def test_features_of_a_bare_ok_are_the_documented_defaults() -> None:
    """No negotiation: RDY up to 2500."""
    assert Features.parse(b"OK") == Features(max_rdy_count=2500, msg_timeout=60.0)


def test_features_are_read_in_seconds() -> None:
    """The wire has milliseconds."""
    features = Features.parse(
        b'{"max_rdy_count":10,"version":"1.3.0","msg_timeout":1500,"max_msg_timeout":3000,"auth_required":true}'
    )
    assert features == Features("1.3.0", 10, 1.5, 3.0, True)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b'{"max_rdy_count":"x"}', b'{"msg_timeout":0}', b"null"]
)
def test_a_bad_answer_to_identify_is_refused(payload: bytes) -> None:
    """No half-understood settings."""
    with pytest.raises(ProtocolViolation, match="bad answer to IDENTIFY"):
        Features.parse(payload)


def test_every_code_has_an_exception_of_its_own() -> None:
    """And an unknown one is a plain ServerError that counts as fatal."""
    from nsqkit.client.errors import server_error

    classes = {type(server_error(f"{code} text".encode())) for code in wire.FATAL}
    assert len(classes) == len(wire.FATAL)
    assert ServerError not in classes
    for code, fatal in wire.FATAL.items():
        error = server_error(f"{code} some text".encode())
        assert (error.code, error.text, error.fatal) == (code, f"{code} some text", fatal)
    unknown = server_error(b"E_NEW thing")
    assert type(unknown) is ServerError
    assert (unknown.code, unknown.fatal) == ("E_NEW", True)


def test_numbers_of_an_nsqd_are_bounded() -> None:
    """A larger one is taken for the largest; one of 400 digits is an error."""
    features = Features.parse(b'{"msg_timeout":1%b,"max_rdy_count":1%b}' % (b"0" * 18, b"0" * 18))
    assert (features.msg_timeout, features.max_rdy_count) == (1e6, 1e9)
    with pytest.raises(ProtocolViolation):
        Features.parse(b'{"msg_timeout":1%b}' % (b"0" * 400))
