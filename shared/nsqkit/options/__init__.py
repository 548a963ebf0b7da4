"""Options of every program: flags, configuration file, help, and what `/config` shows of them.

A program declares one attrs class with `option()` and calls `load`. See `option.py` for an example.
"""

from nsqkit.logging import LogLevel
from nsqkit.options.annotations import Address, Bytes, Duration, FilePath, Port, Url
from nsqkit.options.checks import (
    OptionError,
    check_listen_addresses,
    check_target_addresses,
    check_values,
    refusal,
)
from nsqkit.options.daemon import DaemonOptions
from nsqkit.options.durations import (
    HOUR,
    MILLISECOND,
    MINUTE,
    SECOND,
    format_duration,
    parse_duration,
)
from nsqkit.options.kinds import (
    BOOL,
    DURATION,
    FLOAT,
    FLOATS,
    INT,
    LOG_LEVEL,
    STRING,
    STRINGS,
    TLS_REQUIRED,
    TLS_VERSION,
    TLS_VERSIONS,
    FatalValueError,
    Kind,
    TlsRequired,
    TlsVersion,
)
from nsqkit.options.load import ExitError, load, parse
from nsqkit.options.nearest import did_you_mean
from nsqkit.options.option import (
    HIDDEN,
    NO_EFFECT,
    ConfigValue,
    Group,
    Option,
    Tables,
    find_option,
    option,
    option_value,
    options_of,
    tables,
    tables_of,
)

__all__ = [
    "BOOL",
    "DURATION",
    "FLOAT",
    "FLOATS",
    "HIDDEN",
    "HOUR",
    "INT",
    "LOG_LEVEL",
    "MILLISECOND",
    "MINUTE",
    "NO_EFFECT",
    "SECOND",
    "STRING",
    "STRINGS",
    "TLS_REQUIRED",
    "TLS_VERSION",
    "TLS_VERSIONS",
    "Address",
    "Bytes",
    "ConfigValue",
    "DaemonOptions",
    "Duration",
    "ExitError",
    "FatalValueError",
    "FilePath",
    "Group",
    "Kind",
    "LogLevel",
    "Option",
    "OptionError",
    "Port",
    "Tables",
    "TlsRequired",
    "TlsVersion",
    "Url",
    "check_listen_addresses",
    "check_target_addresses",
    "check_values",
    "did_you_mean",
    "find_option",
    "format_duration",
    "load",
    "option",
    "option_value",
    "options_of",
    "parse",
    "parse_duration",
    "refusal",
    "tables",
    "tables_of",
]
