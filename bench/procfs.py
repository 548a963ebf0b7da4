"""CPU time and memory of running processes, from /proc.

Works on a set of process ids, because a broker under test may be several processes (a shell, workers). A
process that has ended counts as nothing: whether the broker still lives is the caller's question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cpu_seconds", "group_members", "machine_cpu_seconds", "peak_rss_bytes", "rss_bytes"]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Positions in /proc/PID/stat after the command name, which ends at the last ")" and may itself hold anything.
_STAT_PROCESS_GROUP, _STAT_UTIME, _STAT_STIME = 2, 11, 12


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads of the processes, in seconds, in steps of 10 ms."""
    ticks = 0
    for pid in pids:
        stat = _stat_fields(pid)
        if stat:
            ticks += int(stat[_STAT_UTIME]) + int(stat[_STAT_STIME])
    return ticks / _TICKS_PER_SECOND


def machine_cpu_seconds() -> float:
    """CPU time of the whole machine, with interrupts (on loopback the work of both ends) and steal time."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes, added up (shared pages are counted once for each process)."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE_BYTES


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """The highest resident memory that each of the processes has had, added up."""
    kibibytes = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        kibibytes += int(status.partition("VmHWM:")[2].split()[0])
    return kibibytes * 1024


def group_members(process_group: int) -> list[int]:
    """The ids of the processes in this process group."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat_fields(int(entry))
            if stat and int(stat[_STAT_PROCESS_GROUP]) == process_group:
                members.append(int(entry))
    return sorted(members)


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
