"""What the options of all daemons have in common."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nsqkit.logging import LOG_FORMATS, TEXT, LogLevel
from nsqkit.options.annotations import FilePath
from nsqkit.options.option import HIDDEN, NO_EFFECT, Group, option

__all__ = ["DaemonOptions"]


@attrs.define(kw_only=True)
class DaemonOptions:
    """Base of the options of a daemon, that is, of a program with a configuration file."""

    log_level: LogLevel = option(
        LogLevel.INFO, help="Least severe level to log: debug, info, warn, error or fatal."
    )
    log_format: str = option(
        TEXT,
        choices=LOG_FORMATS,
        help="Format of log lines. text: as the original writes them. json: one JSON object per line.",
    )

    AUDIT: ClassVar = Group("Audit")

    audit_file: FilePath = option(
        "",
        help="File to append a line of JSON to for each change that is made over HTTP, and for each refusal. It may be "
        "renamed: the next line goes to a new file. -: stderr. Empty: no audit trail.",
    )
    audit_required: bool = option(
        False, help="Refuse changes while --audit-file cannot be written. Publishing and consuming continue."
    )

    WITHOUT_EFFECT: ClassVar = NO_EFFECT

    verbose: bool = option(
        False, config_name=HIDDEN, help="Use --log-level instead. It has no effect in the original, either."
    )

    origins: dict[str, str] = attrs.field(init=False, factory=dict, eq=False, repr=False)
    """Where a value comes from that the file gave: by the field's name, `max_msg_size in /etc/nsq/nsqd.toml`."""
