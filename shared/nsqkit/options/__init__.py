"""Options of every program: flags, configuration file, help, and what `/config` shows of them.

A program declares one attrs class with `option()` and calls `load`. See `option.py` for an example.
"""

from nsqkit.logging import LogLevel
from nsqkit.options.durations import format_duration, parse_duration
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
    FatalValueError,
    Kind,
    TlsRequired,
    TlsVersion,
)
from nsqkit.options.load import ExitError, Parsed, load, load_parsed, parse
from nsqkit.options.option import (
    HIDDEN,
    ConfigValue,
    Option,
    OptionError,
    check_bounds,
    find_option,
    option,
    option_value,
    options_of,
)

__all__ = [
    "BOOL",
    "DURATION",
    "FLOAT",
    "FLOATS",
    "HIDDEN",
    "INT",
    "LOG_LEVEL",
    "STRING",
    "STRINGS",
    "TLS_REQUIRED",
    "TLS_VERSION",
    "ConfigValue",
    "ExitError",
    "FatalValueError",
    "Kind",
    "LogLevel",
    "Option",
    "OptionError",
    "Parsed",
    "TlsRequired",
    "TlsVersion",
    "check_bounds",
    "find_option",
    "format_duration",
    "load",
    "load_parsed",
    "option",
    "option_value",
    "options_of",
    "parse",
    "parse_duration",
]
