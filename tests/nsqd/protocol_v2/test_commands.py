"""Every command in every state, and every error: exact bytes, and whether the connection survives.

Each input is also fed byte by byte, and cut in two at every place: what comes out is the same.
"""

from __future__ import annotations

import pytest

from nsqkit.wire import CLOSE_WAIT, COMMANDS, OK, State, encode_message
from nsqkit.wire.commands import MAX_LINE
from tests.nsqd.protocol_v2.harness import (
    MAGIC,
    WALL_NS,
    Client,
    Machine,
    dpub,
    error,
    fin,
    identify,
    mpub,
    pub,
    size,
    sized,
    sub,
)

ID0 = b"0123456789abcdef"  # never in flight
SUBSCRIBED = [sub()]
CLOSING = [sub(), b"CLS\n"]
STATES = {State.INIT: [], State.SUBSCRIBED: SUBSCRIBED, State.CLOSING: CLOSING}
SAMPLES = {
    b"IDENTIFY": identify(),
    b"AUTH": b"AUTH\n" + sized(b"secret"),
    b"SUB": sub("other"),
    b"RDY": b"RDY 1\n",
    b"FIN": fin(ID0),
    b"REQ": b"REQ " + ID0 + b" 0\n",
    b"TOUCH": b"TOUCH " + ID0 + b"\n",
    b"CLS": b"CLS\n",
    b"PUB": pub(b"x", "elsewhere"),
    b"MPUB": mpub(b"x", b"y", topic="elsewhere"),
    b"DPUB": dpub(b"x", 5, "elsewhere"),
    b"NOP": b"NOP\n",
}
ANSWERS = {
    b"IDENTIFY": [OK],
    b"AUTH": [error("E_AUTH_DISABLED AUTH disabled")],
    b"SUB": [OK],
    b"FIN": [error(b"E_FIN_FAILED FIN " + ID0 + b" failed ID not in flight")],
    b"REQ": [error(b"E_REQ_FAILED REQ " + ID0 + b" failed ID not in flight")],
    b"TOUCH": [error(b"E_TOUCH_FAILED TOUCH " + ID0 + b" failed ID not in flight")],
    b"CLS": [CLOSE_WAIT],
    b"PUB": [OK],
    b"MPUB": [OK],
    b"DPUB": [OK],
}


def in_state(state: State) -> Client:
    client = Machine().client()
    for data in STATES[state]:
        client.send(data)
    client.answers()
    assert client.session.state == state
    return client


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
@pytest.mark.parametrize("name", list(COMMANDS), ids=bytes.decode)
def test_command_in_state(name: bytes, state: State) -> None:
    """The table of the protocol, row by row."""
    client = in_state(state)
    client.send(SAMPLES[name])
    command = COMMANDS[name]
    if state in command.states:
        assert client.answers() == ANSWERS.get(name, [])
        assert client.closed == (name == b"AUTH")
    elif state in command.ignored:
        assert client.answers() == []
        assert not client.closed
    else:
        assert client.answers() == [error(f"E_INVALID cannot {command.name} in current state")]
        assert client.closed


# --- errors: what was sent before (in pieces of their own), the input, the error; all of them close

NAMES = [
    (b"", '""'),
    (b"a\x00b", r'"a\x00b"'),
    (b"#ephemeral", '"#ephemeral"'),
    (b"a" * 65, '"' + "a" * 65 + '"'),
    (b'q"\\', r'"q\"\\"'),
    (b"\xff\r\t", r'"\xff\r\t"'),
    ("\u00e9!".encode(), '"\u00e9!"'),
]
BAD_NAMES = [
    (row, before + name + after, f"{text} {quoted} is not valid")
    for name, quoted in NAMES
    for row, before, after, text in [
        ("SUB topic", b"SUB ", b" c\n", "E_BAD_TOPIC SUB topic name"),
        ("SUB channel", b"SUB t ", b" x\n", "E_BAD_CHANNEL SUB channel name"),
        ("PUB", b"PUB ", b" x\n", "E_BAD_TOPIC PUB topic name"),
        ("MPUB", b"MPUB ", b" x\n", "E_BAD_TOPIC E_BAD_TOPIC MPUB topic name"),
        ("DPUB", b"DPUB ", b" 0\n", "E_BAD_TOPIC DPUB topic name"),
    ]
]
BAD_NUMBERS = [b"-1", b"+1", b"1.5", b"10x", b"0x10", b"abc", b"1\t"]
UNPARSABLE = [
    (before, line + number + b"\n", text + number.decode())
    for number in BAD_NUMBERS
    for before, line, text in [
        (SUBSCRIBED, b"RDY ", "E_INVALID RDY could not parse count "),
        (SUBSCRIBED, b"REQ " + ID0 + b" ", "E_INVALID REQ could not parse timeout "),
        ([], b"DPUB t ", "E_INVALID DPUB could not parse timeout "),
    ]
]


ERRORS: list[tuple[list[bytes], bytes, str]] = [
    # the command itself
    ([], b"nop\n", "E_INVALID invalid command nop"),
    ([], b"\n", "E_INVALID invalid command "),
    ([], b"\r\n", "E_INVALID invalid command "),
    ([], b" NOP\n", "E_INVALID invalid command "),
    ([], b"NOP\r\r\n", "E_INVALID invalid command NOP\r"),
    ([], b"WHAT ever 1\n", "E_INVALID invalid command WHAT"),
    ([], b"FIN\t" + ID0 + b"\n", "E_INVALID invalid command FIN\t" + ID0.decode()),
    # IDENTIFY; the rest of its errors is in test_identify.py
    ([], b"IDENTIFY\n" + size(5242881), "E_BAD_BODY IDENTIFY body too big 5242881 > 5242880"),
    ([], b"IDENTIFY\n" + size(0), "E_BAD_BODY IDENTIFY invalid body size 0"),
    ([], b"IDENTIFY\n" + size(-1), "E_BAD_BODY IDENTIFY invalid body size -1"),
    ([], b"IDENTIFY\n" + sized(b"{"), "E_BAD_BODY IDENTIFY failed to decode JSON body"),
    # SUB
    ([], b"SUB\n", "E_INVALID SUB insufficient number of parameters"),
    ([], b"SUB t\n", "E_INVALID SUB insufficient number of parameters"),
    ([], b"SUB  c\n", 'E_BAD_TOPIC SUB topic name "" is not valid'),
    ([], b"SUB t \n", 'E_BAD_CHANNEL SUB channel name "" is not valid'),
    ([], b"SUB ! !\n", 'E_BAD_TOPIC SUB topic name "!" is not valid'),
    ([identify(heartbeat_interval=-1)], b"SUB\n", "E_INVALID cannot SUB with heartbeats disabled"),
    # RDY
    (SUBSCRIBED, b"RDY 2501\n", "E_INVALID RDY count 2501 out of range 0-2500"),
    (
        SUBSCRIBED,
        b"RDY 9223372036854775808\n",
        "E_INVALID RDY count -9223372036854775808 out of range 0-2500",
    ),
    (SUBSCRIBED, b"RDY 18446744073709551615\n", "E_INVALID RDY count -1 out of range 0-2500"),
    # FIN, REQ, TOUCH
    (SUBSCRIBED, b"FIN\n", "E_INVALID FIN insufficient number of params"),
    (SUBSCRIBED, b"FIN \n", "E_INVALID invalid message ID"),
    (SUBSCRIBED, b"FIN " + ID0[:15] + b"\n", "E_INVALID invalid message ID"),
    (SUBSCRIBED, b"FIN " + ID0 + b"0\n", "E_INVALID invalid message ID"),
    (SUBSCRIBED, b"REQ\n", "E_INVALID REQ insufficient number of params"),
    (SUBSCRIBED, b"REQ " + ID0 + b"\n", "E_INVALID REQ insufficient number of params"),
    (SUBSCRIBED, b"REQ short x\n", "E_INVALID invalid message ID"),
    (SUBSCRIBED, b"TOUCH\n", "E_INVALID TOUCH insufficient number of params"),
    (SUBSCRIBED, b"TOUCH short\n", "E_INVALID invalid message ID"),
    # PUB
    ([], b"PUB\n", "E_INVALID PUB insufficient number of parameters"),
    ([], b"PUB t\n" + size(0), "E_BAD_MESSAGE PUB invalid message body size 0"),
    ([], b"PUB t\n" + size(-7), "E_BAD_MESSAGE PUB invalid message body size -7"),
    ([], b"PUB t\n" + size(1048577), "E_BAD_MESSAGE PUB message too big 1048577 > 1048576"),
    # MPUB
    ([], b"MPUB\n", "E_INVALID MPUB insufficient number of parameters"),
    ([], b"MPUB t\n" + size(0), "E_BAD_BODY MPUB invalid body size 0"),
    ([], b"MPUB t\n" + size(-1), "E_BAD_BODY MPUB invalid body size -1"),
    ([], b"MPUB t\n" + size(5242881), "E_BAD_BODY MPUB body too big 5242881 > 5242880"),
    ([], b"MPUB t\n" + size(8) + size(0), "E_BAD_BODY MPUB invalid message count 0"),
    ([], b"MPUB t\n" + size(8) + size(-1), "E_BAD_BODY MPUB invalid message count -1"),
    ([], b"MPUB t\n" + size(8) + size(1048576), "E_BAD_BODY MPUB invalid message count 1048576"),
    ([], b"MPUB t\n" + size(8) + size(1) + size(0), "E_BAD_MESSAGE MPUB invalid message(0) body size 0"),
    (
        [],
        b"MPUB t\n" + size(8) + size(3) + sized(b"x") * 2 + size(-1),
        "E_BAD_MESSAGE MPUB invalid message(2) body size -1",
    ),
    (
        [],
        b"MPUB t\n" + size(8) + size(2) + sized(b"x") + size(1048577),
        "E_BAD_MESSAGE MPUB message too big 1048577 > 1048576",
    ),
    # DPUB
    ([], b"DPUB\n", "E_INVALID DPUB insufficient number of parameters"),
    ([], b"DPUB t\n", "E_INVALID DPUB insufficient number of parameters"),
    ([], b"DPUB ! x\n", 'E_BAD_TOPIC DPUB topic name "!" is not valid'),
    ([], b"DPUB t 3600001\n", "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
    ([], b"DPUB t 1\n" + size(0), "E_BAD_MESSAGE DPUB invalid message body size 0"),
    ([], b"DPUB t 1\n" + size(-7), "E_BAD_MESSAGE DPUB invalid message body size -7"),
    ([], b"DPUB t 1\n" + size(1048577), "E_BAD_MESSAGE DPUB message too big 1048577 > 1048576"),
    # CLS
    ([], b"CLS\n", "E_INVALID cannot CLS in current state"),
    # AUTH
    ([], b"AUTH x\n", "E_INVALID AUTH invalid number of parameters"),
    ([], b"AUTH \n", "E_INVALID AUTH invalid number of parameters"),
    ([], b"AUTH\n" + size(5242881), "E_BAD_BODY AUTH body too big 5242881 > 5242880"),
    ([], b"AUTH\n" + size(0), "E_BAD_BODY AUTH invalid body size 0"),
    ([], b"AUTH\n" + size(-1), "E_BAD_BODY AUTH invalid body size -1"),
    ([], b"AUTH\n" + sized(b"secret"), "E_AUTH_DISABLED AUTH disabled"),
    *(([], data, text) for _, data, text in BAD_NAMES),
    *UNPARSABLE,
]
NUMBERED = [pytest.param(*row, id=f"{number}-{row[2][:40]}") for number, row in enumerate(ERRORS)]


def prepared(before: list[bytes]) -> Client:
    client = Machine().client()
    for data in before:
        client.send(data)
    client.answers()
    return client


@pytest.mark.parametrize(("before", "data", "text"), NUMBERED)
def test_fatal_error(before: list[bytes], data: bytes, text: str) -> None:
    """The frame, then the end; what comes behind it is not looked at (I15)."""
    client = prepared(before)
    client.send(data + b"NOP\n" + pub(b"x"))
    assert client.answers() == [error(text)]
    assert client.closed


@pytest.mark.parametrize(("before", "data", "text"), NUMBERED)
def test_fatal_error_however_it_is_cut(before: list[bytes], data: bytes, text: str) -> None:
    cuts = list(range(1, len(data))) if len(data) < 100 else [1]
    for cut in cuts:
        client = prepared(before).send(data[:cut])
        if not client.closed:
            client.send(data[cut:])
        assert client.answers() == [error(text)]
        assert client.closed
    client = prepared(before).send_in_pieces(data)
    assert client.answers() == [error(text)]


# --- the end of the input in the middle of something

CUT_OFF = [
    (b"", None),
    (b"NO", None),
    (b"PUB t", None),
    (b"NOP\n", None),
    (b"IDENTIFY\n", "E_BAD_BODY IDENTIFY failed to read body size"),
    (b"IDENTIFY\n\0\0", "E_BAD_BODY IDENTIFY failed to read body size"),
    (b"IDENTIFY\n" + size(2), "E_BAD_BODY IDENTIFY failed to read body"),
    (b"IDENTIFY\n" + size(2) + b"{", "E_BAD_BODY IDENTIFY failed to read body"),
    (b"AUTH\n", "E_BAD_BODY AUTH failed to read body size"),
    (b"AUTH\r\n\0", "E_BAD_BODY AUTH failed to read body size"),
    (b"AUTH\n" + size(2) + b"x", "E_BAD_BODY AUTH failed to read body"),
    (b"PUB t\n", "E_BAD_MESSAGE PUB failed to read message body size"),
    (b"PUB t\n\0\0\0", "E_BAD_MESSAGE PUB failed to read message body size"),
    (b"PUB t\n" + size(2), "E_BAD_MESSAGE PUB failed to read message body"),
    (b"PUB t extra\r\n" + size(2) + b"x", "E_BAD_MESSAGE PUB failed to read message body"),
    (b"DPUB t 0\n", "E_BAD_MESSAGE DPUB failed to read message body size"),
    (b"DPUB t 0\n" + size(2) + b"x", "E_BAD_MESSAGE DPUB failed to read message body"),
    (b"MPUB t\n", "E_BAD_BODY MPUB failed to read body size"),
    (b"MPUB t\n\0\0\0", "E_BAD_BODY MPUB failed to read body size"),
    (b"MPUB t\n" + size(99), "E_BAD_BODY MPUB failed to read message count"),
    (b"MPUB t\n" + size(99) + b"\0\0\0", "E_BAD_BODY MPUB failed to read message count"),
    (b"MPUB t\n" + size(99) + size(2), "E_BAD_MESSAGE MPUB failed to read message(0) body size"),
    (b"MPUB t\n" + size(99) + size(2) + b"\0", "E_BAD_MESSAGE MPUB failed to read message(0) body size"),
    (b"MPUB t\n" + size(99) + size(2) + size(1), "E_BAD_MESSAGE MPUB failed to read message body"),
    (
        b"MPUB t\n" + size(99) + size(3) + sized(b"xy") * 2,
        "E_BAD_MESSAGE MPUB failed to read message(2) body size",
    ),
    (
        b"MPUB t\n" + size(99) + size(3) + sized(b"xy") * 2 + b"\0\0\0",
        "E_BAD_MESSAGE MPUB failed to read message(2) body size",
    ),
    (
        b"MPUB t\n" + size(99) + size(3) + sized(b"xy") * 2 + size(2) + b"x",
        "E_BAD_MESSAGE MPUB failed to read message body",
    ),
]


@pytest.mark.parametrize(("data", "text"), CUT_OFF)
@pytest.mark.parametrize("before", [b"", pub(b"before")], ids=["first", "behind another"])
def test_end_of_input_in_the_middle(data: bytes, text: str | None, before: bytes) -> None:
    expected = ([OK] if before else []) + ([error(text)] if text else [])
    whole = before + data
    for cut in range(len(whole)):
        client = Machine().client().send(whole[:cut]) if cut else Machine().client()
        client.send(whole[cut:]).eof()
        assert client.answers() == expected
        assert client.closed
    client = Machine().client().send_in_pieces(whole).eof()
    assert client.answers() == expected


@pytest.mark.parametrize("greeting", [b"", b" ", b"  V"])
def test_end_of_input_before_the_magic(greeting: bytes) -> None:
    client = Machine().client(greeting).eof()
    assert client.output == b""
    assert client.closed


# --- magic

WRONG_MAGIC = bytes.fromhex("00000012 00000001") + b"E_BAD_PROTOCOL"


@pytest.mark.parametrize("magic", [b"  V1", b"GET ", b"V2  ", b"\0\0\0\0", b"\n\n\n\n"])
@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_wrong_magic(magic: bytes, piece: int) -> None:
    client = Machine().client(b"").send_in_pieces(magic + b"/ HTTP/1.1\r\n\r\n", piece)
    assert client.output == WRONG_MAGIC
    assert client.closed


def test_no_greeting() -> None:
    client = Machine().client()
    assert client.output == b""
    assert not client.closed


# --- what is lenient

LENIENT = [
    (b"NOP\r\n", []),
    (b"NOP x y\n", []),
    (b"PUB t1\r\n" + sized(b"x"), [OK]),
    (b"PUB t1 extra\n" + sized(b"x"), [OK]),
    (b"MPUB t1 extra\n" + size(9) + size(1) + sized(b"x"), [OK]),
    (b"DPUB t1 0 extra\n" + sized(b"x"), [OK]),
    (b"DPUB t1 \n" + sized(b"x"), [OK]),
    (b"DPUB t1 3600000\n" + sized(b"x"), [OK]),
    (b"DPUB t1 " + b"0" * 100 + b"1\n" + sized(b"x"), [OK]),
    (b"IDENTIFY a b\n" + sized(b"{}"), [OK]),
    (b"SUB t c extra\n", [OK]),
    (b"SUB .. -#ephemeral\n", [OK]),
    (sub() + b"RDY\n", [OK]),
    (sub() + b"RDY \n", [OK]),
    (sub() + b"RDY 1 2 3\n", [OK]),
    (sub() + b"RDY 2500\n", [OK]),
    (sub() + b"RDY 0\n", [OK]),
    (sub() + b"RDY 18446744073709551617\n", [OK]),
    (sub() + b"CLS\nRDY nonsense\n", [OK, CLOSE_WAIT]),
    (sub() + b"FIN " + ID0 + b" extra\n", [OK, *ANSWERS[b"FIN"]]),
    (sub() + b"REQ " + ID0 + b" \n", [OK, *ANSWERS[b"REQ"]]),
    (sub() + b"REQ " + ID0 + b" 99999999999999999999 extra\n", [OK, *ANSWERS[b"REQ"]]),
    (sub() + b"TOUCH " + ID0 + b" extra\n", [OK, *ANSWERS[b"TOUCH"]]),
    (sub() + b"CLS extra\n", [OK, CLOSE_WAIT]),
    (sub() + b"CLS\n" + fin(ID0) + pub(b"x"), [OK, CLOSE_WAIT, *ANSWERS[b"FIN"], OK]),
    (
        sub() + b"FIN " + b"\xff" * 16 + b"\n",
        [OK, error(b"E_FIN_FAILED FIN " + b"\xff" * 16 + b" failed ID not in flight")],
    ),
    (sub() + fin(ID0.upper()), [OK, error(b"E_FIN_FAILED FIN 0123456789ABCDEF failed ID not in flight")]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "answers"), LENIENT)
def test_lenient(data: bytes, answers: list[bytes]) -> None:
    client = Machine().client().send(data)
    assert client.answers() == answers
    assert not client.closed


def test_a_missing_rdy_count_is_one_and_an_empty_one_is_zero() -> None:
    client = Machine().client().send(sub() + b"RDY\n")
    assert client.session.subscription is not None
    assert client.session.subscription.rdy == 1
    client.send(b"RDY \n")
    assert client.session.subscription.rdy == 0
    client.send(b"RDY 36893488147419103239\n")
    assert client.session.subscription.rdy == 7


# --- lines


@pytest.mark.parametrize("piece", [1000, 16384, 100_000])
def test_the_longest_line(piece: int) -> None:
    line = b"NOP " + b"x" * (MAX_LINE - 5) + b"\n"
    assert len(line) == MAX_LINE
    client = Machine().client().send_in_pieces(line + pub(b"x"), piece)
    assert client.answers() == [OK]


@pytest.mark.parametrize("piece", [1000, 16384, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"x"], ids=["ended", "without end"])
def test_a_longer_line_closes_without_a_frame(piece: int, end: bytes) -> None:
    client = Machine().client().send_in_pieces(pub(b"x"), 99)
    client.send_in_pieces(b"NOP " + b"x" * (MAX_LINE - 4) + end + pub(b"x"), piece)
    assert client.answers() == [OK]
    assert client.closed


def test_a_line_without_end_keeps_no_more_than_a_line() -> None:
    """I12."""
    machine = Machine()
    client = machine.client().send_in_pieces(b"x" * 100_000, 1)
    assert client.closed
    assert machine.context.buffered == 0


# --- pipelines, however they are cut

SCRIPT = (
    identify(client_id="me", feature_negotiation=True)
    + pub(b"one")
    + mpub(b"two", b"three", b"four")
    + b"NOP\r\n"
    + dpub(b"five", 0)
    + sub()
    + b"RDY 3\n"
    + fin(ID0, ID0)
    + b"TOUCH " + ID0 + b"\n"
    + b"REQ " + ID0 + b" 10\n"
    + b"RDY 0\nCLS\nRDY 5\n"
    + fin(ID0)
    + pub(b"six", "u")
    + b"what is this\n"
)  # fmt: skip


def transcript(*pieces: bytes) -> bytes:
    """What comes out; deliveries depend on where a round ends, so the window stays shut."""
    client = Machine().client(b"")
    for piece in pieces:
        client.send(piece)
    assert client.closed
    return bytes(client.output)


def test_a_pipeline_however_it_is_cut() -> None:
    """Any split of the input gives the same output."""
    data = MAGIC + SCRIPT.replace(b"RDY 3\n", b"RDY 0\n")
    whole = transcript(data)
    assert whole.count(OK) == 5
    assert whole.endswith(error("E_INVALID invalid command what"))
    assert transcript(*(data[at : at + 1] for at in range(len(data)))) == whole
    for cut in range(1, len(data)):
        assert transcript(data[:cut], data[cut:]) == whole


def test_deliveries_however_they_are_cut() -> None:
    """The bytes of the messages do not depend on how the commands came either (I2)."""
    data = pub(b"one") + mpub(b"two", b"three") + sub() + b"RDY 5\n"

    def output(*pieces: bytes) -> list[bytes]:
        machine = Machine()
        machine.broker.store.ids.next = 1  # a batch that comes in two pieces takes other ids
        client = machine.client()
        for piece in pieces:
            client.send(piece)
        return [frame[:18] + frame[34:] for frame in client.new()]

    whole = output(data)
    bodies = [
        encode_message(WALL_NS + 100 * 10**9, 1, bytes(16), body) for body in (b"one", b"two", b"three")
    ]
    assert whole == [OK, OK, OK] + [frame[:18] + frame[34:] for frame in bodies]
    for cut in range(1, len(data)):
        assert output(data[:cut], data[cut:]) == whole


def test_tls_required() -> None:
    """Every command but IDENTIFY is refused, known or not."""
    for name, data in SAMPLES.items():
        client = Machine(tls_required=True).client().send(data)
        if name == b"IDENTIFY":
            assert client.answers() == [OK]
        else:
            text = b"E_INVALID cannot " + name + b" in current state (TLS required)"
            assert client.answers() == [error(text)]
            assert client.closed
    client = Machine(tls_required=True).client().send(b"WHAT\n")
    assert client.answers() == [error("E_INVALID cannot WHAT in current state (TLS required)")]
