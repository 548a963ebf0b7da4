"""The audit trails of the whole cluster: of this console, of the nsqds, and of the nsqlookupds, merged by time.

Each daemon is asked for the last lines that match, and answers from its own file. A daemon that cannot say what is in
its audit trail is named, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final, TypeAlias

import attrs
import trio

from nsqadmin.auth import identity_of
from nsqadmin.upstream import NSQD, NSQLOOKUPD, Upstream, UpstreamError, responses
from nsqadmin.upstream.audit import AuditLine, AuditPart, part_of
from nsqkit.audit import STDERR, AuditQuery, AuditTrail, Means, Who, read_tail
from nsqkit.audit.event import MAX_TEXT
from nsqkit.service.http import Request

__all__ = ["NSQADMIN", "AuditReport", "client_of", "search_trails"]

NSQADMIN: Final = "nsqadmin"
TIMEOUT_S: Final = 5.0

_Daemon: TypeAlias = tuple[str, str]
"""Its kind, and its HTTP address; this console has none."""

_OWN: Final[_Daemon] = (NSQADMIN, "")
_NO_FILE: Final = "NO_AUDIT_FILE"
_SCOPE: Final = "shows its audit trail only to a token with the scope admin (--access-token-file)"
_REASONS: Final = {
    _NO_FILE: "keeps no audit file (--audit-file)",
    "NOT_FOUND": "is of a version without audit trail",
    "SCOPE_REQUIRED_ADMIN": _SCOPE,
    "TOKEN_REQUIRED": _SCOPE,
}
"""Why a daemon does not say what is in its audit trail, by the code of its error."""


def client_of(request: Request) -> Who:
    """Who has sent a request to the console."""
    identity = identity_of(request)
    remote, forwarded = request.remote, request.header(b"x-forwarded-for")
    if forwarded is not None:
        remote += f" for {forwarded[:MAX_TEXT].decode('latin-1')}"
    return Who(identity.name, Means(identity.means.value), remote)


@attrs.frozen
class AuditReport:
    """What was found. `lines`: the latest first. `complete`: there are no more in the files.

    `problems`: what each daemon that is not among the lines does, or cannot do, by its kind and address.
    """

    lines: list[AuditLine]
    complete: bool
    problems: Mapping[_Daemon, str]
    kept: bool
    """Whether there is an audit trail anywhere."""


async def search_trails(
    trail: AuditTrail, upstream: Upstream, query: AuditQuery, nsqds: Iterable[str], registries: Iterable[str]
) -> AuditReport:
    """The last lines that match in all trails: `trail` is the console's own; the daemons are at these addresses."""
    found: dict[_Daemon, AuditPart | str] = {}

    async def ask(daemon: _Daemon) -> None:
        found[daemon] = await (
            _read_own(trail, upstream, query) if daemon == _OWN else _ask(upstream, daemon[1], query)
        )

    asked = [_OWN, *((NSQD, each) for each in nsqds), *((NSQLOOKUPD, each) for each in registries)]
    with trio.move_on_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for daemon in asked:
                nursery.start_soon(ask, daemon)
    parts = [part for part in found.values() if isinstance(part, AuditPart)]
    lines = _merged(parts)
    return AuditReport(
        lines=lines[: query.limit],
        complete=len(lines) <= query.limit and all(part.complete for part in parts),
        problems={
            daemon: problem
            for daemon in asked
            if (problem := _problem(found.get(daemon, "did not answer in time")))
        },
        kept=bool(parts),
    )


async def _ask(upstream: Upstream, address: str, query: AuditQuery) -> AuditPart | str:
    try:
        return await responses.audit(upstream, address, query)
    except UpstreamError as error:
        text = str(error)
        reasons = (reason for code, reason in _REASONS.items() if rf"\"{code}\"" in text)
        return next(reasons, f"cannot be asked: {text}")


async def _read_own(trail: AuditTrail, upstream: Upstream, query: AuditQuery) -> AuditPart | str:
    if trail.file in ("", STDERR):
        return _REASONS[_NO_FILE]
    try:
        # One thread at a time, as with long responses.
        tail = await trio.to_thread.run_sync(
            read_tail, trail.file, query, limiter=upstream.decoder, abandon_on_cancel=True
        )
    except FileNotFoundError:  # renamed, and nothing has happened since
        return AuditPart(lines=[], complete=True, failing=trail.failing)
    except OSError as error:
        return f"cannot read its audit file: {error.strerror or error}"
    return part_of(tail, trail.failing)


def _problem(part: AuditPart | str) -> str:
    if isinstance(part, str):
        return part
    return f"cannot write its audit file: {part.failing}" if part.failing else ""


def _merged(parts: Iterable[AuditPart]) -> list[AuditLine]:
    """All lines, the latest first; once what several daemons have found in the same file."""
    lines = sorted((line for part in parts for line in part.lines), key=lambda each: each.time, reverse=True)
    return [line for _, same_time in groupby(lines, key=lambda each: each.time) for line in _once(same_time)]


def _once(lines: Iterable[AuditLine]) -> list[AuditLine]:
    found: list[AuditLine] = []
    for line in lines:
        if line not in found:
            found.append(line)
    return found
