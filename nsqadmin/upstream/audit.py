"""Lines of a daemon's audit trail, as its `/audit` shows them. The original has no such path."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from nsqkit.audit import MAX_LINES, AuditQuery, AuditTail
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import convert, decode_bounded

__all__ = ["AuditLine", "AuditPart", "AuditValue", "decode_audit", "params_of", "part_of"]

_MAX_NAMES: Final = 20
_MAX_ITEMS: Final = 25
_MAX_COUNT: Final = 2**63 - 1

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Number = Annotated[int, msgspec.Meta(ge=-_MAX_COUNT, le=_MAX_COUNT)]
AuditValue = bool | _Number | _Text | Annotated[list[_Text], msgspec.Meta(max_length=_MAX_ITEMS)]
_Values = Annotated[dict[_Text, AuditValue], msgspec.Meta(max_length=_MAX_NAMES)]


class AuditLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"remote": "from"}):
    """One line; `nsqkit.audit.event` says what the parts are. What does not apply is empty."""

    time: Annotated[str, msgspec.Meta(max_length=40)]
    """RFC 3339, UTC, microseconds."""
    what: _Text
    daemon: _Text = ""
    node: _Text = ""
    who: _Text = ""
    means: _Text = ""
    remote: _Text = ""
    on: _Values = {}
    before: _Values = {}
    after: _Values = {}
    result: _Text = ""
    error: _Text = ""
    status: _Number | None = None
    count: _Number = 1


class AuditPart(msgspec.Struct, gc=False):
    """What one daemon has found. `failing`: why it cannot write its file now."""

    lines: Annotated[list[AuditLine], msgspec.Meta(max_length=MAX_LINES)]
    complete: bool
    failing: _Text = ""


def decode_audit(data: bytes) -> AuditPart:
    """The response to `/audit`. Raises `DecodeError`."""
    return decode_bounded(data, AuditPart)


def part_of(tail: AuditTail, failing: str) -> AuditPart:
    """The same of a file that was read here. Lines that cannot be are left out."""
    lines = []
    for line in tail.lines:
        try:
            lines.append(convert(line, AuditLine))
        except DecodeError:
            continue
    return AuditPart(lines=lines, complete=tail.complete, failing=failing)


def params_of(query: AuditQuery) -> dict[str, str]:
    """The parameters of `/audit`."""
    params = {"limit": str(query.limit), "result": query.result.value if query.result is not None else ""}
    for name in ("since", "contains", "who", "what", "topic"):
        params[name] = getattr(query, name)
    return {name: value for name, value in params.items() if value}
