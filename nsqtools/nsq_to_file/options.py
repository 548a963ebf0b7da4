"""The flags of nsq_to_file. `load` reads the command line, `validate` checks the values."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import attrs

from nsqkit.client import ClientOptions
from nsqkit.options import (
    LOG_LEVEL,
    MINUTE,
    SECOND,
    Bytes,
    Duration,
    FatalValueError,
    FilePath,
    Group,
    LogLevel,
    OptionError,
    check_values,
    did_you_mean,
    option,
)
from nsqkit.options import load as load_options
from nsqkit.version import version_line
from nsqtools.common import (
    WHERE_FROM,
    Channel,
    ConsumerFlags,
    Topic,
    check_names,
    check_positive,
    check_sources,
    consumer_options,
)

__all__ = ["PROGRAM", "ToFileFlags", "load", "validate"]

PROGRAM: Final = "nsq_to_file"
_SYNOPSIS = "writes the messages of topics to files, one line each"
_EXAMPLE = """
# one topic of one nsqd into /var/log/nsq, a new compressed file every hour
nsq_to_file --topic=orders --nsqd-tcp-address=127.0.0.1:4150 --output-dir=/var/log/nsq --gzip
# all topics of the cluster whose name ends in _log; files are moved to /archive/done when they are complete
nsq_to_file --topic-pattern='_log$' --lookupd-http-address=127.0.0.1:4161 --rotate-size=100000000 \\
    --output-dir=/archive/done --work-dir=/archive/in-progress

A message is finished only when it has been synced to disk (fsync). If the program ends before that, it is
delivered again: a line may be there twice, but none is missing.
SIGHUP closes the files (for logrotate). SIGTERM and SIGINT write and sync received messages, then exit.
"""


def _log_level(text: str) -> LogLevel:
    try:
        return LogLevel.parse(text)
    except ValueError:
        raise FatalValueError(f"--log-level is invalid{did_you_mean(text, LOG_LEVEL.words)}") from None


_LOG_LEVEL: Final = attrs.evolve(LOG_LEVEL, from_text=_log_level)


def load(argv: Sequence[str]) -> ToFileFlags:
    """The flags of this command line (without the program's name). Exits after `--help` or an error."""
    return load_options(
        ToFileFlags,
        argv,
        program=PROGRAM,
        version=version_line(PROGRAM, built_with=False),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )


@attrs.define(kw_only=True)
class ToFileFlags(ConsumerFlags):
    """The flags of nsq_to_file."""

    log_level: Annotated[LogLevel, _LOG_LEVEL] = option(
        LogLevel.INFO, help="Least severe level to log: debug, info, warn, error or fatal."
    )
    log_prefix: str = option("[nsq_to_file] ", help="Prefix of every log line.")

    WHAT: ClassVar = Group("What")

    topics: list[Topic] = option(flag="topic", help="Topic to write.")
    topic_pattern: str = option(
        "",
        placeholder="REGEXP",
        help="Write only topics whose name contains a match of this regular expression (Python's). Without "
        "--topic: all such topics that the nsqlookupds know.",
    )
    topic_refresh: Duration = option(
        1 * MINUTE,
        minimum=1,
        help="Without --topic: time between two requests to the nsqlookupds for topics. The first one is "
        "sent at start. (The original's nsq_to_file sends the first one after this time.)",
    )
    channel: Channel = option("nsq_to_file", help="Channel to consume.")
    max_in_flight: int = option(
        200,
        minimum=1,
        help="Maximum number of messages of a topic in flight. After this many, files are synced, so a "
        "higher number means fewer syncs.",
    )

    FILES: ClassVar = Group("Files")

    output_dir: FilePath = option(
        "/tmp",  # noqa: S108 - the original's default; the program warns
        help="Directory for completed files. The default is shared by all users of the machine: "
        "give a directory of your own. Below it no links are followed.",
    )
    work_dir: FilePath = option(
        "",
        help="Directory for files that are being written, on the same file system. A completed file is "
        "moved to --output-dir, and never replaces another. Files of a killed program are continued if "
        "possible (without --gzip and --rotate-interval), otherwise left here. Empty: --output-dir.",
    )
    filename_format: str = option(
        "<TOPIC>.<HOST><REV>.<DATETIME>.log",
        placeholder="NAME",
        help="Path of a file below --output-dir. <TOPIC>, <HOST> (--host-identifier), <PID> and <DATETIME> "
        "(--datetime-format) are replaced. <REV> becomes a number (-000000) that makes the name unique; it "
        "is required with --gzip, --rotate-size, --rotate-interval and --work-dir.",
    )
    datetime_format: str = option(
        "%Y-%m-%d_%H",
        placeholder="FORMAT",
        help="Format of <DATETIME>, as for strftime, in local time: %Y %y %m %d %H %I %M %S %p %B %b %A %a "
        "%Z %z %%. When the result changes, a new file begins.",
    )
    host_identifier: str = option(
        "", help="Text for <HOST>. <SHORT_HOST> and <HOSTNAME> in it are replaced. Empty: <SHORT_HOST>."
    )
    gzip: bool = option(
        False,
        help="Compress files, with names in .gz. Each sync ends a gzip member, so that everything synced "
        "can be read.",
    )
    gzip_level: int = option(6, help="Compression level, 1 (fast) to 9 (small).")
    skip_empty_files: bool = option(False, help="Create no file for a period without messages.")

    WHEN: ClassVar = Group("When")

    rotate_size: Bytes = option(
        0, minimum=0, help="Begin a new file when a file has this size (before compression). 0: never."
    )
    rotate_interval: Duration = option(
        0, minimum=0, help="Begin a new file when a file has been open for this time. 0: never."
    )
    sync_interval: Duration = option(
        30 * SECOND,
        help="Longest time between two syncs to disk; messages are finished after a sync. Files are also "
        "synced when no more messages may be in flight, and when they are closed. Must be below "
        "--msg-timeout of nsqd.",
    )

    LOOKUP: ClassVar = WHERE_FROM

    http_client_connect_timeout: Duration = option(
        2 * SECOND, help="Time to connect to an nsqlookupd, to ask for topics."
    )
    http_client_request_timeout: Duration = option(
        5 * SECOND, help="Time for its response. The limit of a whole request is the sum of both."
    )

    @property
    def needs_revision(self) -> bool:
        """Whether names must be made unique."""
        return bool(self.gzip or self.rotate_size or self.rotate_interval or self.moves)

    @property
    def moves(self) -> bool:
        """Whether files are moved when they are complete."""
        return bool(self.work_dir) and os.path.abspath(self.work_dir) != os.path.abspath(self.output_dir)


def validate(flags: ToFileFlags) -> ClientOptions:
    """Check the flags (`OptionError`), and return the options of the consumers. No file is touched."""
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
    check_values(flags)
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
