"""IDENTIFY: decoding, ranges, the exact answer, and what it changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.broker import Topology
from nsqd.protocol_v2.identify import IdentifyLimits, Identity, decode_identify
from nsqkit.wire import HEARTBEAT, OK, ProtocolError, encode_response
from tests.nsqd.protocol_v2.harness import Machine, error, identify, sized

LIMITS = IdentifyLimits()
UNDECODABLE = b"E_BAD_BODY IDENTIFY failed to decode JSON body"


def decode(body: bytes | str) -> Identity:
    return decode_identify(body if isinstance(body, bytes) else body.encode(), LIMITS)


def decode_fields(**fields: Any) -> Identity:
    return decode(json.dumps(fields))


# --- decoding


@pytest.mark.parametrize(
    "body", ["{}", "null", " \t\r\n{} \n", '{"short_id":"x","long_id":{"a":[1.5,true]}}']
)
def test_defaults(body: str) -> None:
    assert decode(body) == Identity(
        heartbeat_interval=30_000,
        output_buffer_timeout=250,
        output_buffer_size=16_384,
        msg_timeout=60_000,
        topology=Topology("", ""),
    )


UNDECODABLE_BODIES = [
    b"", b" ", b"[]", b'"x"', b"1", b"true", b"{", b"{}x", b"{} {}", b"{}\0", b"{'a':1}", b"{a:1}", b'{"a":1,}',
    b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":01}', b"nul", b"\xef\xbb\xbf{}", b'{"a":"\n"}',
    b"[" * 100_000, b'{"heartbeat_interval":' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("body", UNDECODABLE_BODIES, ids=lambda body: repr(body[:20]))
def test_no_json_object(body: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        decode(body)
    assert raised.value.payload == UNDECODABLE


INTEGERS = [
    "heartbeat_interval", "output_buffer_timeout", "output_buffer_size", "sample_rate", "msg_timeout", "deflate_level",
]  # fmt: skip
STRINGS = ["client_id", "hostname", "user_agent", "topology_region", "topology_zone"]
BOOLEANS = ["feature_negotiation", "tls_v1", "snappy", "deflate"]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", ['"1000"', "1000.0", "1e3", "1000.5", "true", "[]", "{}", str(1 << 63), str(-(1 << 63) - 1)]
)
def test_an_integer_must_be_one(name: str, value: str) -> None:
    with pytest.raises(ProtocolError, match="failed to decode JSON body"):
        decode(f'{{"{name}":{value}}}')


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1])
def test_the_sample_rate_has_32_bits(value: int) -> None:
    with pytest.raises(ProtocolError, match="failed to decode JSON body"):
        decode_fields(sample_rate=value)
    with pytest.raises(ProtocolError, match=r"sample rate \(2147483647\) is invalid"):
        decode_fields(sample_rate=(1 << 31) - 1)


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("value", ["5", "true", "[]", "{}"])
def test_a_string_must_be_one(name: str, value: str) -> None:
    with pytest.raises(ProtocolError, match="failed to decode JSON body"):
        decode(f'{{"{name}":{value}}}')


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("value", ["1", "0", '"true"', "[]"])
def test_a_boolean_must_be_one(name: str, value: str) -> None:
    with pytest.raises(ProtocolError, match="failed to decode JSON body"):
        decode(f'{{"{name}":{value}}}')


@pytest.mark.parametrize("name", INTEGERS + STRINGS + BOOLEANS)
def test_null_means_absent(name: str) -> None:
    assert decode(f'{{"{name}":null}}') == decode("{}")


@pytest.mark.parametrize("name", ["SAMPLE_RATE", "Sample_Rate", "sample_rate"])
def test_keys_match_in_any_case(name: str) -> None:
    assert decode_fields(**{name: 7}).sample_rate == 7


def test_the_last_of_equal_keys_counts() -> None:
    assert decode('{"sample_rate":1,"Sample_Rate":2,"sample_rate":null}').sample_rate == 2


def test_text_that_is_no_utf8_is_replaced() -> None:
    assert decode(b'{"client_id":"a\xffb"}').client_id == "a\ufffdb"
    client_id = decode(rb'{"client_id":"a\ud800b"}').client_id
    assert (client_id[0], client_id[-1], len(client_id)) == ("a", "b", 3)
    client_id.encode()


def outcome(body: bytes) -> Identity | ProtocolError:
    try:
        return decode(body)
    except ProtocolError as refused:
        return refused


def check(outcome: Identity | ProtocolError) -> None:
    """Either the one error, or values that are all in range."""
    if isinstance(outcome, ProtocolError):
        assert outcome.payload.startswith(b"E_BAD_BODY IDENTIFY ")
        return
    assert outcome.heartbeat_interval == -1 or 1000 <= outcome.heartbeat_interval <= 60_000
    assert outcome.output_buffer_timeout == 0 or 25 <= outcome.output_buffer_timeout <= 30_000
    assert outcome.output_buffer_size == 1 or 64 <= outcome.output_buffer_size <= 65_536
    assert 0 <= outcome.sample_rate <= 99
    assert 1000 <= outcome.msg_timeout <= 900_000


VALUES = st.integers() | st.text() | st.booleans() | st.none()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    check(outcome(body))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(INTEGERS + STRINGS + BOOLEANS), VALUES))
def test_any_object_is_decoded_or_refused(fields: dict[str, Any]) -> None:
    check(outcome(json.dumps(fields).encode()))


# --- ranges

RANGES = [
    # field, words, accepted: given and effective, refused
    ("heartbeat_interval", "heartbeat interval", {-1: -1, 0: 30_000, 1000: 1000, 60_000: 60_000}, [-2, 1, 999, 60_001]),
    ("output_buffer_timeout", "output buffer timeout", {-1: 0, 0: 250, 25: 25, 30_000: 30_000}, [-2, 24, 30_001]),
    ("output_buffer_size", "output buffer size", {-1: 1, 0: 16_384, 64: 64, 65_536: 65_536}, [-2, 1, 63, 65_537]),
    ("sample_rate", "sample rate", {0: 0, 1: 1, 99: 99}, [-1, 100]),
    ("msg_timeout", "msg timeout", {0: 60_000, 1000: 1000, 900_000: 900_000}, [-1, 1, 999, 900_001]),
]  # fmt: skip
ACCEPTED = [(field, given, effective) for field, _, good, _ in RANGES for given, effective in good.items()]
REFUSED = [(field, value, words) for field, words, _, bad in RANGES for value in bad]


@pytest.mark.parametrize(("field", "given", "effective"), ACCEPTED)
def test_in_range(field: str, given: int, effective: int) -> None:
    assert getattr(decode_fields(**{field: given}), field) == effective


@pytest.mark.parametrize(("field", "value", "words"), REFUSED)
def test_out_of_range_is_refused_and_never_clamped(field: str, value: int, words: str) -> None:
    client = Machine().client().send(identify(**{field: value}))
    assert client.answers() == [error(f"E_BAD_BODY IDENTIFY {words} ({value}) is invalid")]
    assert client.closed


def test_an_unbuffered_client_has_no_buffer_timeout() -> None:
    assert decode_fields(output_buffer_size=-1, output_buffer_timeout=500).output_buffer_timeout == 0


def test_order_of_the_checks() -> None:
    fields = [field for field, *_ in RANGES]
    bad = dict.fromkeys(fields, -7)
    for field, words, good, _ in RANGES:
        with pytest.raises(ProtocolError, match=rf"IDENTIFY {words} \(-7\) is invalid"):
            decode_fields(**bad)
        bad[field] = max(good)
    decode_fields(**bad)


def test_the_options_move_the_ranges() -> None:
    limits = IdentifyLimits(
        max_heartbeat_interval=2000, msg_timeout=5000, max_msg_timeout=6000, output_buffer_timeout=99
    )
    identity = decode_identify(b'{"heartbeat_interval":2000,"msg_timeout":0}', limits)
    assert (identity.msg_timeout, identity.output_buffer_timeout) == (5000, 99)
    with pytest.raises(ProtocolError, match=r"msg timeout \(6001\)"):
        decode_identify(b'{"msg_timeout":6001}', limits)


# --- the answer

NEGOTIATED = (
    '{"max_rdy_count":2500,"version":"1.4.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,'
    '"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"auth_required":false,'
    '"output_buffer_size":16384,"output_buffer_timeout":250,"topology_region":"","topology_zone":""}'
)


def test_negotiation_to_the_byte() -> None:
    client = Machine().client().send(identify(feature_negotiation=True))
    assert client.answers() == [encode_response(NEGOTIATED.encode())]


def test_a_client_that_does_not_negotiate_gets_ok_and_its_settings() -> None:
    client = Machine().client().send(identify(msg_timeout=5000, snappy=True, deflate=True))
    assert client.answers() == [OK]
    assert client.session.identity.msg_timeout == 5000


def test_effective_values() -> None:
    machine = Machine(
        max_rdy_count=7,
        max_deflate_level=3,
        topology_region="here",
        topology_zone="z1",
        limits=IdentifyLimits(max_msg_timeout=70_000),
    )
    answer = machine.client().send(
        identify(
            feature_negotiation=True,
            msg_timeout=4000,
            output_buffer_size=-1,
            sample_rate=42,
            deflate_level=2,
            topology_region="there",
        )
    )
    assert answer.json() == {
        "max_rdy_count": 7,
        "version": "1.4.0",
        "max_msg_timeout": 70_000,
        "msg_timeout": 4000,
        "tls_v1": False,
        "deflate": False,
        "deflate_level": 3,
        "max_deflate_level": 3,
        "snappy": False,
        "sample_rate": 42,
        "auth_required": False,
        "output_buffer_size": 1,
        "output_buffer_timeout": 0,
        "topology_region": "here",
        "topology_zone": "z1",
    }


def test_before_any_identify_the_client_is_its_address() -> None:
    client = Machine().client()
    assert (client.session.identity.client_id, client.session.identity.hostname) == ("peer", "peer")
    client.send(identify(user_agent="x/1"))
    assert (client.session.identity.client_id, client.session.identity.hostname) == ("", "")
    assert client.session.identity.user_agent == "x/1"


def test_identify_may_be_repeated_and_the_latest_counts() -> None:
    machine = Machine()
    client = machine.client().send(identify(heartbeat_interval=1000)).send(identify(heartbeat_interval=4000))
    assert client.answers() == [OK, OK]
    machine.advance(3.875)
    assert client.answers() == []
    machine.advance(0.125)
    assert client.answers() == [HEARTBEAT]


def test_the_identify_of_go_nsq() -> None:
    client = Machine().client().send(
        identify(
            client_id="h", hostname="h.local", user_agent="go-nsq/1.1.0", short_id="h", long_id="h.local", tls_v1=False,
            deflate=False, deflate_level=6, snappy=False, feature_negotiation=True, heartbeat_interval=30000,
            sample_rate=0, output_buffer_size=16384, output_buffer_timeout=250, msg_timeout=0, topology_region="",
            topology_zone="",
        )
    )  # fmt: skip
    assert client.json()["max_rdy_count"] == 2500


@pytest.mark.parametrize("body", UNDECODABLE_BODIES[1:], ids=lambda body: repr(body[:20]))
def test_a_body_that_cannot_be_decoded_closes(body: bytes) -> None:
    client = Machine().client().send(b"IDENTIFY\n" + sized(body))
    assert client.answers() == [error(UNDECODABLE)]
    assert client.closed


def test_the_largest_body() -> None:
    client = Machine(max_body_size=100).client().send(b"IDENTIFY\n" + sized(b"{}" + b" " * 98))
    assert client.answers() == [OK]
    client.send(b"IDENTIFY\n" + sized(b"{}" + b" " * 99))
    assert client.answers() == [error("E_BAD_BODY IDENTIFY body too big 101 > 100")]


def test_the_strings_of_identify_are_bounded_or_counted() -> None:
    """IDENTIFY strings live as long as the connection, and count against nothing."""
    machine = Machine()
    for _ in range(4):
        body = json.dumps({"user_agent": "\U0001f600" + "x" * 5_000_000}, ensure_ascii=False).encode()
        machine.client().send(b"IDENTIFY\n" + sized(body))
    kept = sum(len(s.identity.user_agent) for s in machine.sessions)
    assert kept <= machine.context.buffered + 4 * 64 * 1024
