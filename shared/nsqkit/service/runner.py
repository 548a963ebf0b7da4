"""The process of a daemon, from its options to its exit code.

The exit code is 0 after an orderly stop, and 1, with a line on stderr, when the daemon cannot start or must end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import trio

from nsqkit.logging import LogLevel, configure, fatal_line, get_logger
from nsqkit.options import OptionError
from nsqkit.service.descriptors import raise_descriptor_limit
from nsqkit.version import version_line

__all__ = ["fatal_errors", "run_daemon"]


class _Options(Protocol):
    log_level: LogLevel
    log_prefix: str
    log_format: str


class _Daemon(Protocol):
    async def run(self) -> None: ...


OptionsT = TypeVar("OptionsT", bound=_Options)


def run_daemon(
    name: str,
    options: OptionsT,
    validate: Callable[[OptionsT], object],
    make: Callable[[OptionsT], _Daemon],
    start_error: type[Exception],
) -> None:
    """Check the options, make the daemon and run it to its end. For errors see `fatal_errors`."""
    with fatal_errors(name, options.log_format, start_error):
        validate(options)
        configure(options.log_level, options.log_prefix, log_format=options.log_format)
        raise_descriptor_limit()
        get_logger(name).info("%s", version_line(name))
        trio.run(make(options).run)


@contextlib.contextmanager
def fatal_errors(name: str, log_format: str, *cannot_start: type[Exception]) -> Iterator[None]:
    """Exit with 1 and a line on stderr after `OptionError`, one of these errors, or an OSError while running."""
    start_errors: tuple[type[Exception], ...] = (OptionError, *cannot_start)
    try:
        yield
    except start_errors as error:
        reason = f"failed to instantiate {name} - {error}"
    except OSError as error:
        reason = f"failed to go on - {error}"
    else:
        return
    sys.stderr.write(fatal_line(f"[{name}] ", reason, log_format))
    sys.exit(1)
