"""What one nsqd uses: CPU, memory, disk, and how late its event loop is, asked with each poll; and when certificates
expire, also those of nsqlookupds.

No poll waits for it: the snapshot has the last answer. An nsqd that does not tell (the original has no `/metrics`) is
asked again after a minute, and a cell without a figure says why.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from nsqadmin.cluster.snapshot import Usage
from nsqadmin.upstream import Upstream, UpstreamError
from nsqadmin.upstream.metrics import ProcessMetrics, metrics
from nsqkit.logging import get_logger

__all__ = ["UsagePoller", "usage_between"]

_log = get_logger("nsqadmin.poll")

_RETRY_S: Final = 60.0


@attrs.define(eq=False)
class UsagePoller:
    """Asks one nsqd, or nsqlookupd, with one request at a time."""

    upstream: Upstream
    address: str
    usage: Usage = attrs.field(factory=Usage, init=False)
    """The last one known."""
    _last: ProcessMetrics | None = attrs.field(default=None, init=False)
    _last_at: float = attrs.field(default=0.0, init=False)
    """On trio's clock, as is the next."""
    _not_before: float = attrs.field(default=0.0, init=False)
    _pending: bool = attrs.field(default=False, init=False)

    def begin(self, nursery: trio.Nursery) -> None:
        """Send a request, unless one is pending or the last one has failed lately."""
        if not self._pending and trio.current_time() >= self._not_before:
            self._pending = True
            nursery.start_soon(self._poll)

    async def _poll(self) -> None:
        try:
            found = await metrics(self.upstream, self.address)
        except UpstreamError as error:
            self._failed(f"It does not answer /metrics, which the original does not have: {error}")
        except Exception:
            # Nothing that one daemon sends may end the polling of the others.
            _log.exception("POLL: %s: cannot process its /metrics", self.address)
            self._failed("Its /metrics cannot be processed")
        else:
            now = trio.current_time()
            self.usage = usage_between(self._last, found, now - self._last_at)
            self._last, self._last_at = found, now
        finally:
            self._pending = False

    def _failed(self, reason: str) -> None:
        self.usage, self._last = Usage(missing=reason), None
        self._not_before = trio.current_time() + _RETRY_S


def usage_between(before: ProcessMetrics | None, now: ProcessMetrics, seconds: float) -> Usage:
    """The usage at the second of two answers of one nsqd, `seconds` apart; None: it is the first one."""
    before = before or ProcessMetrics()
    cpu, lag = _increase(before.cpu_s, now.cpu_s), _increase(before.lag_s, now.lag_s)
    measured = _increase(before.lag_count, now.lag_count)
    return Usage(
        cpu=cpu / seconds if cpu is not None and seconds > 0 else None,
        memory_bytes=now.memory_bytes,
        disk_free_bytes=now.disk_free_bytes,
        log_bytes=now.log_bytes,
        certificate_expiry=now.certificate_expiry,
        loop_lag_s=lag / measured if lag is not None and measured else None,
        missing="" if now.memory_bytes is not None else "Its /metrics does not tell",
    )


def _increase(before: float | None, now: float | None) -> float | None:
    """None if it is unknown, also after a restart, which begins at 0 again."""
    return None if before is None or now is None or now < before else now - before
