"""The options of nsqlookupd: what can be set, what it is by default, and which values are refused.

Durations are nanoseconds. `load` reads command line and file, `validate` looks at the values.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs

from nsqkit.logging import LOG_FORMATS, TEXT
from nsqkit.options import DURATION, HIDDEN, STRING, LogLevel, OptionError, check_bounds, option
from nsqkit.options import load as load_options
from nsqkit.version import version_line

__all__ = ["LookupdOptions", "load", "validate"]

_SYNOPSIS = "knows which nsqd has which topic, and tells consumers"
_EXAMPLE = """
# one registry; two or three of them, on hosts of their own, make a cluster that does not depend on one
nsqlookupd
# every nsqd announces itself to all of them
nsqd --lookupd-tcp-address=127.0.0.1:4160 --data-path=/var/lib/nsqd
# who has a topic?
curl 'http://127.0.0.1:4161/lookup?topic=greetings'
"""


def load(argv: Sequence[str]) -> LookupdOptions:
    """The options for this command line (without the program's name), or the end of the program."""
    return load_options(
        LookupdOptions,
        argv,
        program="nsqlookupd",
        version=version_line("nsqlookupd"),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )


def host_name() -> str:
    """What this machine calls itself."""
    return os.uname().nodename


@attrs.define(kw_only=True)
class LookupdOptions:
    """Every option of nsqlookupd; the groups are those of the help."""

    # --- General ---
    verbose: bool = option(False, config_name=HIDDEN, help="Accepted, no effect here.")
    log_level: LogLevel = option(
        LogLevel.INFO, help="Least serious lines to log: debug, info, warn, error or fatal."
    )
    log_prefix: str = option("[nsqlookupd] ", help="What every log line begins with.")
    log_format: str = option(
        TEXT,
        placeholder="FORMAT",
        help="Form of the log lines: text, or json, one JSON object a line. Not known to the original.",
    )

    # --- Network ---
    tcp_address: str = option(
        "0.0.0.0:4160",
        group="Network",
        placeholder="ADDRESS",
        help="Where nsqds connect: host:port, or a path for a unix socket.",
    )
    http_address: str = option(
        "0.0.0.0:4161",
        group="Network",
        placeholder="ADDRESS",
        help="Where the HTTP interface listens, for consumers: host:port, or a path for a unix socket.",
    )
    broadcast_address: str = option(
        factory=host_name,
        kind=STRING,
        group="Network",
        placeholder="HOST",
        help="Host name or address under which nsqds reach this nsqlookupd's HTTP interface: each nsqd asks "
        "there for the channels of a topic that is new to it, so a wrong one delays every new topic.",
    )

    # --- Registry ---
    inactive_producer_timeout: int = option(
        "5m",
        kind=DURATION,
        group="Registry",
        minimum=0,
        help="Hide an nsqd that was not heard of for so long; nsqds report every 15 seconds.",
    )
    tombstone_lifetime: int = option(
        "45s",
        kind=DURATION,
        group="Registry",
        minimum=0,
        help="How long a tombstoned nsqd stays hidden from look-ups of the topic.",
    )


def validate(options: LookupdOptions) -> None:
    """Refuse what nsqlookupd cannot run with (`OptionError`). Addresses are not resolved."""
    for flag, address in (("tcp", options.tcp_address), ("http", options.http_address)):
        if not address:
            raise OptionError(f"--{flag}-address must not be empty")
    if options.log_format not in LOG_FORMATS:
        raise OptionError(f"--log-format must be {' or '.join(LOG_FORMATS)}")
    check_bounds(options)
