"""The commands of the V2 protocol as a table, with the states of a connection in which each is allowed."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["COMMANDS", "MAGIC_V2", "MAX_LINE", "Command", "State", "parse_number"]

MAGIC_V2: Final = b"  V2"
MAX_LINE: Final = 16384  # bytes of a command line, its newline included


class State(enum.IntEnum):
    """States of a connection, with the numbers that /stats shows."""

    INIT = 0
    SUBSCRIBED = 3
    CLOSING = 4


_ANY = frozenset(State)


@attrs.frozen
class Command:
    """One command.

    `states`: where it is allowed; elsewhere it is a fatal `E_INVALID cannot NAME in current state`.
    `ignored`: where it is accepted without any effect, whatever its parameters.
    `sized_body`: whether an int32 size and a body follow the line.
    """

    name: str
    states: frozenset[State]
    ignored: frozenset[State] = frozenset()
    sized_body: bool = False


_ROWS = (
    Command("IDENTIFY", frozenset({State.INIT}), sized_body=True),
    Command("AUTH", frozenset({State.INIT}), sized_body=True),
    Command("SUB", frozenset({State.INIT})),
    Command("RDY", frozenset({State.SUBSCRIBED}), ignored=frozenset({State.CLOSING})),
    Command("FIN", frozenset({State.SUBSCRIBED, State.CLOSING})),
    Command("REQ", frozenset({State.SUBSCRIBED, State.CLOSING})),
    Command("TOUCH", frozenset({State.SUBSCRIBED, State.CLOSING})),
    Command("CLS", frozenset({State.SUBSCRIBED})),
    Command("PUB", _ANY, sized_body=True),
    Command("MPUB", _ANY, sized_body=True),
    Command("DPUB", _ANY, sized_body=True),
    Command("NOP", _ANY),
)

COMMANDS: Final[Mapping[bytes, Command]] = {row.name.encode(): row for row in _ROWS}

_DIGITS = re.compile(rb"[0-9]*")


def parse_number(text: bytes) -> int:
    """A parameter of a command, a count or milliseconds: decimal digits only; an empty one is 0.

    `ValueError` for anything else. A number above 64 bits is returned as it is, for the caller's range check; one of
    more than 64 digits as a number of 64 digits that equals it modulo 2^64.
    """
    if _DIGITS.fullmatch(text) is None:
        raise ValueError(f"not a number: {text!r}")
    digits = text.lstrip(b"0")
    if len(digits) <= 64:
        return int(digits or b"0")
    return 10**64 + int(digits[-64:])  # 10^64 is a multiple of 2^64, and int() refuses very long texts
