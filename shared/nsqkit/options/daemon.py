"""What the options of all daemons have in common."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nsqkit.logging import LOG_FORMATS, TEXT, LogLevel
from nsqkit.options.option import HIDDEN, NO_EFFECT, option

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

    WITHOUT_EFFECT: ClassVar = NO_EFFECT

    verbose: bool = option(
        False, config_name=HIDDEN, help="Use --log-level instead. It has no effect in the original, either."
    )

    origins: dict[str, str] = attrs.field(init=False, factory=dict, eq=False, repr=False)
    """Where a value comes from that the file gave: by the field's name, `max_msg_size in /etc/nsq/nsqd.toml`."""
