"""The flags of nsq_to_file, and which of their values are refused.

Durations are nanoseconds. `load` reads the command line, `validate` looks at the values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

import attrs

from nsqkit.client import ClientOptions
from nsqkit.options import (
    DURATION,
    LOG_LEVEL,
    STRINGS,
    FatalValueError,
    LogLevel,
    OptionError,
    Parsed,
    check_bounds,
    load_parsed,
    option,
)
from nsqkit.version import version_line
from nsqtools.common import ConsumerFlags, check_names, check_positive, check_sources, consumer_options

__all__ = ["PROGRAM", "ToFileFlags", "load", "validate"]

PROGRAM: Final = "nsq_to_file"
_SYNOPSIS = "writes the messages of topics to files, a line a message"
_EXAMPLE = """
# one topic of one nsqd into /var/log/nsq, a new compressed file every hour
nsq_to_file --topic=orders --nsqd-tcp-address=127.0.0.1:4150 --output-dir=/var/log/nsq --gzip
# all topics of the cluster whose name ends in _log; files appear there only when they are complete
nsq_to_file --topic-pattern='_log$' --lookupd-http-address=127.0.0.1:4161 --rotate-size=100000000 \\
    --output-dir=/archive/done --work-dir=/archive/in-progress

A message is finished only when its bytes are on disk (fsync). Until then nsqd keeps it, and whatever ends
this program, it is delivered again: a line may be there twice, but none is missing.
SIGHUP closes the files (for logrotate); SIGTERM and SIGINT write what is here, and end.
"""


def _log_level(text: str) -> LogLevel:
    try:
        return LogLevel.parse(text)
    except ValueError:
        raise FatalValueError("--log-level is invalid") from None


_LOG_LEVEL: Final = attrs.evolve(LOG_LEVEL, from_text=_log_level)


def load(argv: Sequence[str]) -> Parsed[ToFileFlags]:
    """Flags and further words of this command line (without the program's name), or the end of the program."""
    return load_parsed(
        ToFileFlags,
        argv,
        program=PROGRAM,
        version=version_line(PROGRAM, built_with=False),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
        config_file=False,
    )


@attrs.define(kw_only=True)
class ToFileFlags(ConsumerFlags):
    """The flags of nsq_to_file; the groups are those of the help."""

    log_level: LogLevel = option(
        LogLevel.INFO,
        kind=_LOG_LEVEL,
        help="Least serious lines to log: debug, info, warn, error or fatal.",
    )
    log_prefix: str = option("[nsq_to_file] ", help="What every log line begins with.")

    # --- What ---
    topics: list[str] = option(
        kind=STRINGS, flag="topic", group="What", placeholder="TOPIC", help="A topic to write."
    )
    topic_pattern: str = option(
        "",
        group="What",
        placeholder="REGEXP",
        help="Write only topics in whose name this is found (Python's regular expressions). Without --topic: "
        "all such topics that the nsqlookupds know.",
    )
    topic_refresh: int = option(
        "1m",
        kind=DURATION,
        group="What",
        minimum=1,
        help="How often the nsqlookupds are asked for topics, when no --topic is given: at the start, and then "
        "so often. (NSQ's own nsq_to_file asks for the first time only after this time.)",
    )
    channel: str = option("nsq_to_file", group="What", placeholder="CHANNEL", help="Channel to consume.")
    max_in_flight: int = option(
        200,
        group="What",
        minimum=1,
        help="Messages of a topic that may be unfinished at a time. So many are written before a sync at the "
        "latest: more of them, fewer syncs.",
    )

    # --- Files ---
    output_dir: str = option("/tmp", group="Files", placeholder="PATH", help="Where files are when complete.")  # noqa: S108
    work_dir: str = option(
        "",
        group="Files",
        placeholder="PATH",
        help="Where files are while they are written; on the same file system. Empty: --output-dir. A "
        "completed file is moved without ever replacing another. What a killed program left here stays here, "
        "unless it can be gone on with (without --gzip and --rotate-interval).",
    )
    filename_format: str = option(
        "<TOPIC>.<HOST><REV>.<DATETIME>.log",
        group="Files",
        placeholder="NAME",
        help="Names of files below --output-dir, with folders, if it has a '/'. <TOPIC>, <HOST> "
        "(--host-identifier), <PID>, <DATETIME> (--datetime-format) are replaced; <REV> is a number (-000000) "
        "that makes names unique, and must be there with --gzip, --rotate-size, --rotate-interval and "
        "--work-dir.",
    )
    datetime_format: str = option(
        "%Y-%m-%d_%H",
        group="Files",
        placeholder="FORMAT",
        help="As for strftime, local time: %Y %y %m %d %H %I %M %S %p %B %b %A %a %Z %z %%. When it changes, a "
        "new file is begun.",
    )
    host_identifier: str = option(
        "",
        group="Files",
        placeholder="TEXT",
        help="What <HOST> stands for. <SHORT_HOST> and <HOSTNAME> in it are replaced. Empty: <SHORT_HOST>.",
    )
    gzip: bool = option(
        False,
        group="Files",
        help="Compress, and end names in .gz. A file is a row of gzip members, one for each sync, so that what "
        "is synced can always be read.",
    )
    gzip_level: int = option(6, group="Files", help="1 (fast) to 9 (small).")
    skip_empty_files: bool = option(
        False, group="Files", help="Make a file only for a message, not for every period without one."
    )

    # --- When ---
    rotate_size: int = option(
        0,
        group="When",
        placeholder="BYTES",
        minimum=0,
        help="Begin a new file after so many bytes; 0: never.",
    )
    rotate_interval: int = option(
        "0s", kind=DURATION, group="When", minimum=0, help="Begin a new file after this time; 0: never."
    )
    sync_interval: int = option(
        "30s",
        kind=DURATION,
        group="When",
        help="Write to disk (fsync) and finish messages at least so often. Also when no more may be in flight, "
        "and when a file is closed. Keep it below nsqd's --msg-timeout.",
    )
    http_client_connect_timeout: int = option(
        "2s", kind=DURATION, group="Where from", help="For connecting to an nsqlookupd, to ask for topics."
    )
    http_client_request_timeout: int = option(
        "5s",
        kind=DURATION,
        group="Where from",
        help="For its answer. (Both together are the limit of one question.)",
    )

    @property
    def needs_revision(self) -> bool:
        """Whether names must be made unique."""
        return bool(self.gzip or self.rotate_size or self.rotate_interval or self.moves)

    @property
    def moves(self) -> bool:
        """Whether files are moved when they are complete."""
        return bool(self.work_dir) and os.path.abspath(self.work_dir) != os.path.abspath(self.output_dir)


def validate(flags: ToFileFlags, arguments: Sequence[str]) -> ClientOptions:
    """Refuse (`OptionError`) what cannot work, and give the options of the consumers. No file is touched."""
    if arguments:
        raise OptionError(f"unknown arguments: [{' '.join(arguments)}]")
    if not flags.channel:
        raise OptionError("--channel is required")
    check_positive(flags, "http-client-connect-timeout", "http-client-request-timeout", "sync-interval")
    check_sources(flags.nsqd_tcp_addresses, flags.lookupd_http_addresses)
    if not 1 <= flags.gzip_level <= 9:
        raise OptionError(f"invalid --gzip-level value ({flags.gzip_level}), should be 1-9")
    if not flags.topics and not flags.topic_pattern:
        raise OptionError("--topic or --topic-pattern required")
    if not flags.topics and not flags.lookupd_http_addresses:
        raise OptionError("--lookupd-http-address must be specified when no --topic specified")
    _check_names(flags)
    check_bounds(flags)
    return consumer_options(PROGRAM, flags, max_in_flight=flags.max_in_flight)


def _check_names(flags: ToFileFlags) -> None:
    check_names("topic", flags.topics)
    check_names("channel", [flags.channel])
    try:
        re.compile(flags.topic_pattern)
    except re.error as error:
        raise OptionError(f"--topic-pattern is invalid: {error}") from None
    if flags.needs_revision and "<REV>" not in flags.filename_format:
        raise OptionError(
            "missing <REV> in --filename-format when gzip, rotation, or work dir enabled "
            f"({flags.filename_format!r})"
        )
