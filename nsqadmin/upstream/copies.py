"""Copies in an nsqd's `/stats`, decoded leniently: only some nsqds report them, and no page depends on them.

    "copies": {"wanted": 2, "in_step": 1,
               "followers": [{"address": "10.0.0.2:4159", "in_step": false, "state": "not connected", "lag": null,
                              "sent_bytes": 0, "troubles": {"topic-orders": "it has ..."}}],
               "held": [{"life": "0123456789abcdef0123456789abcdef", "name": "10.0.0.2:4150", "complete": true,
                         "connected": false, "bytes": 4096, "silent_seconds": 7.5, "adopted": false,
                         "stand_in_port": null, "undecided": "1 of its 3 nsqlookupds agree (...)"}],
               "obstacle": "2 nsqlookupds are configured, and that needs 3",
               "scrub": {"unmended_count": 1, "unmended": {"topic-orders/00000000000000000000.log": "..."}}}

Without valid numbers of copies, nothing is known. Only the first few entries of each list are kept; the others, and
those that are invalid, are counted. Long texts are cut: some repeat what the other side has said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import msgspec

from nsqadmin.model import Copies, Follower, HeldCopy, Measured
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_bounded

__all__ = ["LIFE_PATTERN", "MAX_FOLLOWERS", "MAX_HELD", "MAX_TROUBLES", "MAX_UNMENDED", "read_copies"]

LIFE_PATTERN: Final = r"\A[0-9a-f]{32}\Z"
MAX_FOLLOWERS: Final = 16
MAX_HELD: Final = 64
MAX_TROUBLES: Final = 4  # of one follower
MAX_UNMENDED: Final = 4  # segments
_MAX_STATE: Final = 300  # characters
_MAX_ENTRY: Final = 256 * 1024  # bytes; thousands of troubles. It is decoded in one call, in some 10 ms

EntryT = TypeVar("EntryT")

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Seconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # either way; a clock may be anything
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]


class _RawCopies(msgspec.Struct):
    wanted: _Count
    in_step: _Count
    followers: list[msgspec.Raw] | None = None
    held: list[msgspec.Raw] | None = None
    obstacle: str | None = None
    scrub: msgspec.Raw = msgspec.Raw(b"null")


class _RawScrub(msgspec.Struct):
    unmended_count: _Count
    unmended: dict[str, str]


class _RawFollower(msgspec.Struct):
    address: _Address
    in_step: bool
    state: str
    lag: _Count | None = None
    sent_bytes: _Count = 0
    troubles: dict[str, str] | None = None
    lag_seconds: Measured | None = None


class _RawHeldCopy(msgspec.Struct):
    life: Annotated[str, msgspec.Meta(pattern=LIFE_PATTERN)]
    name: _Address
    complete: bool
    connected: bool
    bytes: _Count
    adopted: bool
    silent_seconds: Measured | None = None
    stand_in_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    clock_skew_seconds: _Seconds | None = None
    undecided: str = ""


def read_copies(raw: msgspec.Raw) -> Copies | None:
    """Decode the value of the key, which is empty if the key is missing. Never raises."""
    try:
        copies = decode_bounded(raw, _RawCopies)
    except DecodeError:
        return None
    followers, more_followers = _first_valid(copies.followers or [], MAX_FOLLOWERS, _read_follower)
    held, more_held = _first_valid(copies.held or [], MAX_HELD, _read_held)
    unmended, more_unmended = _read_scrub(copies.scrub)
    return Copies(
        copies.wanted,
        copies.in_step,
        followers,
        more_followers,
        held,
        more_held,
        (copies.obstacle or "")[:_MAX_STATE],
        unmended,
        more_unmended,
    )


def _read_scrub(raw: msgspec.Raw) -> tuple[tuple[str, ...], int]:
    """Paths of damaged segments, and how many there are besides."""
    try:
        scrub = decode_bounded(raw, _RawScrub)
    except DecodeError:
        return (), 0
    shown = tuple(path[:_MAX_STATE] for path in sorted(scrub.unmended)[:MAX_UNMENDED])
    return shown, max(0, scrub.unmended_count - len(shown))


def _first_valid(
    raws: list[msgspec.Raw], limit: int, read: Callable[[msgspec.Raw], EntryT]
) -> tuple[tuple[EntryT, ...], int]:
    """The valid ones of the first entries, and how many entries there are besides."""
    found: list[EntryT] = []
    for raw in raws[:limit]:
        try:
            if len(raw) <= _MAX_ENTRY:
                found.append(read(raw))
        except DecodeError:
            continue
    return tuple(found), len(raws) - len(found)


def _read_follower(raw: msgspec.Raw) -> Follower:
    follower = decode_bounded(raw, _RawFollower)
    troubles = sorted((follower.troubles or {}).items())
    shown = tuple((folder[:_MAX_STATE], why[:_MAX_STATE]) for folder, why in troubles[:MAX_TROUBLES])
    return Follower(
        follower.address,
        follower.in_step,
        follower.state[:_MAX_STATE],
        follower.lag,
        follower.sent_bytes,
        shown,
        len(troubles) - len(shown),
        follower.lag_seconds,
    )


def _read_held(raw: msgspec.Raw) -> HeldCopy:
    copy = decode_bounded(raw, _RawHeldCopy)
    return HeldCopy(
        copy.life,
        copy.name,
        copy.complete,
        copy.connected,
        copy.bytes,
        copy.adopted,
        copy.silent_seconds,
        copy.stand_in_port,
        copy.clock_skew_seconds,
        copy.undecided[:_MAX_STATE],
    )
