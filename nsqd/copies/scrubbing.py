"""The scrub, as it runs: when the next look is due, in which thread, whom it asks, and what the log says of it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterable
from typing import Final, TypeAlias

import attrs
import trio

from nsqd.replication.scrub import (
    Damage,
    Differs,
    Failed,
    Finding,
    Mended,
    MendedThere,
    Replaced,
    Request,
    Scrub,
    SendAgain,
)
from nsqd.replication.to_follower import FollowerLink
from nsqd.replication.wire import Check, Checked, Data, Fetch
from nsqd.stats.copies import ScrubStats
from nsqkit.logging import get_logger

__all__ = ["Scrubbing"]

log = get_logger("copies")

LOOK_AGAIN: Final = 60.0  # seconds, at most: there may be other segments, and other followers in step
NOTE_INTERVAL: Final = 60.0  # seconds of it are done again after a kill
TOLD: Final = 20  # segments that the statistics name

Steps: TypeAlias = Generator[tuple[str, Request] | None, Checked | Data | None, tuple[int, list[Finding]]]


@attrs.define(eq=False)
class Scrubbing:
    """`run` it until it is cancelled. While no follower is in step, it waits.

    Each step of a look is a job in a thread, and only one goes on at a time.
    """

    _scrub: Scrub
    _links: Iterable[FollowerLink]
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _noted_at: float = -math.inf

    def begin_at_once(self) -> str | None:
        """Begin a pass now. Why it cannot be; None: it is going on."""
        if not self._in_step:
            return "no follower is in step"
        self._scrub.begin_at_once()
        self._wake.set()
        return None

    @property
    def _in_step(self) -> list[str]:
        return [link.standing.address for link in self._links if link.standing.in_step]

    def stats(self) -> ScrubStats:
        scrub = self._scrub
        unmended = sorted(scrub.unmended.items())
        return ScrubStats(
            at_once=scrub.at_once,
            total_bytes=scrub.total,
            left_bytes=scrub.left,
            passed_at=scrub.note.passed_at,
            passes=scrub.passes,
            checked_bytes=scrub.checked_bytes,
            mended=scrub.mended,
            mended_there=scrub.mended_there,
            unmended_count=len(unmended),
            unmended=dict(unmended[:TOLD]),
        )

    # --- its task

    async def run(self) -> None:
        while True:
            try:
                await self._go_on()
            except Exception:  # a fault of ours costs a scrub, never the broker
                log.exception("COPIES: unexpected end of the scrub; it goes on in %g s", LOOK_AGAIN)
                await trio.sleep(LOOK_AGAIN)

    async def _go_on(self) -> None:
        scrub = self._scrub
        counted_at, passes = -math.inf, scrub.passes
        while True:
            now = trio.current_time()
            if now - counted_at >= scrub.count_interval or scrub.passes != passes or scrub.wanted:
                await trio.to_thread.run_sync(scrub.count)
                counted_at, passes = now, scrub.passes
            delay = scrub.delay(now) if self._in_step else None
            if delay is None or delay > 0:
                self._wake = trio.Event()
                pause = LOOK_AGAIN if delay is None else delay
                with trio.move_on_after(min(pause, LOOK_AGAIN, scrub.count_interval)):
                    await self._wake.wait()
                continue
            size, findings = await self._look()
            if size:
                scrub.looked(size, trio.current_time())
            for finding in findings:
                _tell(finding)
            if scrub.passes != passes:
                self._tell_of_pass()
            if findings or scrub.passes != passes or trio.current_time() - self._noted_at >= NOTE_INTERVAL:
                await self._write_note()

    async def _look(self) -> tuple[int, list[Finding]]:
        looking = self._scrub.look(self._in_step, time.time())
        with contextlib.closing(looking):
            answer: Checked | Data | None = None
            while True:
                step = await trio.to_thread.run_sync(_resume, looking, answer)
                if isinstance(step, _Result):
                    return step.size, step.findings
                answer = await self._do(*step) if step is not None else None

    async def _do(self, address: str, request: Request) -> Checked | Data | None:
        match request:
            case Check() | Fetch():
                return await self._link(address).ask(request)
            case SendAgain(path):
                self._link(address).send_again(path)
            case Replaced(path):
                for link in self._links:
                    link.reread(path)
        return None

    def _link(self, address: str) -> FollowerLink:
        return next(link for link in self._links if link.standing.address == address)

    async def _write_note(self) -> None:
        self._noted_at = trio.current_time()
        try:
            await trio.to_thread.run_sync(self._scrub.write_note)
        except OSError as error:
            log.warning("COPIES: how far the scrub has come cannot be noted - %s", error)

    def _tell_of_pass(self) -> None:
        scrub = self._scrub
        if scrub.unmended:
            log.error(
                "COPIES: scrub: all complete segments were compared; %d have damage that could not be mended: see "
                "/replicas",
                len(scrub.unmended),
            )
        else:
            log.info("COPIES: scrub: all complete segments were compared, %d bytes", scrub.total)


@attrs.frozen
class _Result:
    size: int
    findings: list[Finding]


def _resume(looking: Steps, answer: Checked | Data | None) -> tuple[str, Request] | _Result | None:
    """*Any thread.* A `StopIteration` cannot leave one."""
    try:
        return looking.send(answer)
    except StopIteration as end:
        return _Result(*end.value)


def _tell(finding: Finding) -> None:
    match finding:
        case Mended(path, size, follower):
            log.warning(
                "COPIES(%s): %d bytes of %s were damaged here, and are mended from its copy; look at the disk here",
                follower,
                size,
                path,
            )
        case MendedThere(path, size, follower):
            log.warning(
                "COPIES(%s): %d bytes of its copy of %s are damaged, and sent again; look at its disk",
                follower,
                size,
                path,
            )
        case Damage(path, ranges, asked):
            log.error(
                "COPIES: %s %s, bytes %s; what is in them is lost, see nsqd-log verify",
                path,
                f"is damaged here and at {', '.join(asked)}"
                if asked
                else "is damaged here, and no follower has answered",
                ", ".join(f"{start} to {end}" for start, end in ranges[:TOLD])
                + ", ..." * (len(ranges) > TOLD),
            )
        case Differs(path, offset, follower):
            log.error(
                "COPIES(%s): its copy of %s differs from byte %d on, and neither is damaged; it is left alone",
                follower,
                path,
                offset,
            )
        case Failed(path, reason):
            log.error("COPIES: %s cannot be compared with its copies - %s", path, reason)
