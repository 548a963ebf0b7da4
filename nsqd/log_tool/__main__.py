"""The command `nsqd-log`: check the files of a data path, print the records of one, or make a backup of all.

It changes nothing in the data path.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from nsqd.log.records import NewerFormat
from nsqd.log.scan import Damaged
from nsqd.log_tool.backup import BackupRefused, BackupReport, back_up
from nsqd.log_tool.inspect import FileReport, LogFile, Progress, check, find_files, read_records
from nsqd.log_tool.trial import Trial, trial_start
from nsqkit.standard_streams import guard_standard_streams
from nsqkit.version import version_line

__all__ = ["main"]

_EXAMPLES = """\
examples:
  nsqd-log verify /var/lib/nsqd                     every file of a daemon's data path
  nsqd-log verify /var/lib/nsqd/topic-orders        one topic
  nsqd-log dump /var/lib/nsqd/topic-orders/00000000000000000000.log
  nsqd-log dump --bodies --json FILE | jq .messages[].body
  nsqd-log backup /var/lib/nsqd /var/backups/nsqd   a new or empty folder

Nothing is ever written to a data path, and the daemon may run meanwhile.
exit status: 0 all is well, 1 there is damage, 2 something could not be read
"""
_VERIFY = """\
Read every record of every file and compare its checksums.

What is printed of a file:
  /var/lib/nsqd/topic-orders/00000000000000000000.log: 2 records, 10 messages, 1160 bytes
    damaged: 81 bytes at 574 (the checksum of a record's payload does not match)

A file that ends in half a record was cut off by a kill or a power loss; the next start of the daemon cuts the rest off
and keeps a copy. Files that an earlier start has set aside (*.damaged) are listed and not counted.

Of a data path, or a topic's folder, it also prints what the daemon would log at its next start, because it runs the
daemon's own recovery (without writing anything): which files are missing or are not what their names say, and how many
messages are lost.
"""
_DUMP = """\
Print the records of a file, one a line: position, kind, first sequence number, count, flags, and changes by name.

  64  CHANGES   first=0 count=1  CHANNEL_CREATED(generation=1, name='archive', start=0)
 130  MESSAGES  first=0 count=2  flowing

The position counts the bytes of the topic's whole log; in other files than segments (.log) those of the file.
Files that were set aside (*.damaged) have no header: records are searched for, as far as they can be told.
"""
_BACKUP = """\
Make a backup of a data path, or of a copy of another node's (DATA_PATH/copies/LIFE), while the daemon runs or not.

What it has is each topic as it was at one moment while the backup was made: every message that was not finished when it
began, and still is not when it ends, is there. Messages that were published meanwhile may be.

TARGET is a new or an empty folder:
- on the same file system: files that will not change any more are linked, which takes no time and no room. Only the
  newest file of each topic is copied (at most --max-bytes-per-file, 100 MiB as a rule);
- on another one: all files are copied.

Links are not a second copy on the disk: what damages the one file damages the other, and a file that nsqd removes takes
room until the backup is removed too. So bring TARGET to another machine with any tool, then remove it:

  nsqd-log backup /var/lib/nsqd /var/backups/nsqd && nsqd-log verify /var/backups/nsqd
  rclone copy /var/backups/nsqd remote:bucket/nsqd1/2026-01-31 && rm -r /var/backups/nsqd

To restore, copy TARGET to an empty data path, and start nsqd on that. Never start it on TARGET itself. It is another
life: messages that were finished since come again, and new ids begin after those that are in use.

A backup that fails or is interrupted leaves TARGET as it was.
exit status: 0 the backup is complete, 1 the copy that it was made of is not, 2 there is no backup
"""
_REDRAW_S = 0.2


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments (the process's own by default) and exit."""
    guard_standard_streams()
    options = _parser().parse_args(argv)
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsqd-log",
        description="Look into the files that nsqd keeps its messages in.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version_line("nsqd-log", built_with=False))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    verify = commands.add_parser("verify", help="check files", description=_VERIFY, formatter_class=raw)
    verify.add_argument("paths", metavar="PATH", nargs="+", help="a data path, a topic's folder, or a file")
    verify.set_defaults(run=_verify)
    dump = commands.add_parser("dump", help="print records", description=_DUMP, formatter_class=raw)
    dump.add_argument("path", metavar="PATH", help="a file, or a topic's folder")
    dump.add_argument("--bodies", action="store_true", help="also ids, timestamps and bodies of messages")
    dump.add_argument("--json", action="store_true", help="one JSON object a line")
    dump.set_defaults(run=_dump)
    backup = commands.add_parser("backup", help="make a backup", description=_BACKUP, formatter_class=raw)
    backup.add_argument("source", metavar="DATA_PATH", help="of a daemon, which may run, or a copy")
    backup.add_argument("target", metavar="TARGET", help="a new or empty folder for it")
    backup.set_defaults(run=_backup)
    return parser


def _verify(options: argparse.Namespace) -> int:
    progress = _on_terminal()
    reports: list[FileReport] = []
    trials: list[Trial] = []
    failed = False
    for path in options.paths:
        try:
            for file in find_files(path):
                report = check(file, progress)
                if report is not None:
                    _clear_line(progress)
                    print("\n".join(_report_lines(report)))
                    reports.append(report)
            if os.path.isdir(path):
                trials.append(trial_start(path))
        except OSError as error:
            _clear_line(progress)
            print(f"nsqd-log: {error}", file=sys.stderr)
            failed = True
    if notes := [note for trial in trials for note in trial.notes]:
        print("the next start of nsqd:", *notes, sep="\n  ")
    places = {(os.path.abspath(report.path), damage.offset) for report in reports for damage in report.damage}
    places |= {(os.path.abspath(file), offset) for trial in trials for file, offset in trial.places}
    damages = len(places)
    records, messages = sum(r.records for r in reports), sum(r.messages for r in reports)
    counts = [_count(len(reports), "file"), _count(records, "record"), _count(messages, "message")]
    if reports or not failed:
        print(", ".join([*counts, _count(damages, "damaged place") if damages else "no damage"]))
    return 2 if failed else 1 if damages else 0


def _report_lines(report: FileReport) -> list[str]:
    counts = [
        _count(report.records, "record"),
        _count(report.messages, "message"),
        _count(report.size, "byte"),
    ]
    lines = [f"{report.path}: {', '.join(counts)}"]
    lines += [f"  {note}" for note in report.notes]
    for damage in report.damage:
        lines.append(f"  damaged: {damage.end - damage.offset} bytes at {damage.offset} ({damage.reason})")
    return lines


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _dump(options: argparse.Namespace) -> int:
    status = 0
    try:
        paths = find_files(options.path)
        for path in paths:
            if len(paths) > 1 and not options.json:
                print(f"{path}:")
            status |= _dump_file(path, options)
    except (OSError, NewerFormat) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"nsqd-log: {error}", file=sys.stderr)
        return 2
    return status


def _dump_file(path: str, options: argparse.Namespace) -> int:
    file = LogFile.open(path)
    status = 0
    try:
        if file.header_problem is not None and not file.set_aside:
            print(f"nsqd-log: {path}: {file.header_problem}; searching for records", file=sys.stderr)
            status = 1
        for item in read_records(file):
            if isinstance(item, Damaged):
                status = status if item.zeros or file.set_aside else 1
                print(_damage_as_json(item) if options.json else _damage_as_text(item))
            elif options.json:
                print(json.dumps(item.as_json(bodies=options.bodies)))
            else:
                print("\n".join(item.as_text(bodies=options.bodies)))
    finally:
        file.close()
    return status


def _damage_as_text(damage: Damaged) -> str:
    what = "zeros" if damage.zeros else f"DAMAGED: {damage.reason}"
    return f"{'':>12}  {damage.end - damage.offset} bytes at {damage.offset} of the file: {what}"


def _damage_as_json(damage: Damaged) -> str:
    out = {"offset": damage.offset, "bytes": damage.end - damage.offset, "zeros": damage.zeros}
    return json.dumps(out | {"damaged": damage.reason})


def _backup(options: argparse.Namespace) -> int:
    progress = _on_terminal()
    try:
        report = back_up(options.source, options.target, progress)
    except (BackupRefused, OSError) as error:
        _clear_line(progress)
        print(f"nsqd-log: {error}", file=sys.stderr)
        return 2
    _clear_line(progress)
    print("\n".join(_backup_lines(options.target, report)))
    return 1 if report.gap else 0


def _backup_lines(target: str, report: BackupReport) -> list[str]:
    lines = [*report.notes]
    if report.gap:
        lines.append(
            "the copy is not complete: its leader had more than it has sent, and so has the backup a gap"
        )
    counts = [_count(report.topics, "topic"), _count(report.bytes, "byte")]
    counts.append(f"{_count(report.linked, 'file')} linked")
    counts.append(f"{_count(report.copied, 'file')} copied ({_count(report.copied_bytes, 'byte')})")
    return [*lines, f"{target}: {', '.join(counts)}"]


def _on_terminal() -> Progress | None:
    """Shows how far a long check has come; None when the output is no terminal."""
    if not sys.stderr.isatty():
        return None
    shown = time.monotonic()

    def show(path: str, done: int, size: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _REDRAW_S:
            shown = time.monotonic()
            print(f"\r\x1b[K{100 * done // max(size, 1):3d} %  {path}", end="", file=sys.stderr, flush=True)

    return show


def _clear_line(progress: Progress | None) -> None:
    if progress is not None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
