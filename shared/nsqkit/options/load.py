"""From a command line to an instance of an options class.

Order: the flags are parsed; `-version` then wins over everything; the configuration file is read; each
option takes its value from the flag, else from the file, else from its declaration.

`parse` does all that and ends a program only by raising `ExitError`; `load` and `load_parsed` print what
that holds and exit. Exit codes: 0 for help and version, 2 for a mistake on the command line, 1 for anything
else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

import attrs

from nsqkit.logging import fatal_line, stamped_line
from nsqkit.options.config_file import ConfigFileError, ConfigValueError, read_config_file
from nsqkit.options.flags import FlagError, HelpRequestedError, parse_flags
from nsqkit.options.kinds import BOOL, STRING, FatalValueError
from nsqkit.options.option import HIDDEN, Option, options_of

__all__ = ["ExitError", "Parsed", "load", "load_parsed", "parse"]

OptionsT = TypeVar("OptionsT", bound=attrs.AttrsInstance)

_GENERAL = "General"
_VERSION = Option(
    field="-version",  # no attribute's name, so that it meets no field
    flag="version",
    config_name=HIDDEN,
    kind=BOOL,
    help="Print the version and exit.",
    group=_GENERAL,
    placeholder="",
)
_CONFIG = Option(
    field="-config",
    flag="config",
    config_name=HIDDEN,
    kind=STRING,
    help="TOML file with options.",
    group=_GENERAL,
    placeholder="PATH",
)


class ExitError(Exception):
    """The program is to end before it has begun: with this code, after writing these texts."""

    def __init__(self, code: int, *, stdout: str = "", stderr: str = "") -> None:
        super().__init__(code, stdout, stderr)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


@attrs.frozen
class Parsed(Generic[OptionsT]):
    """Everything that a command line and a configuration file said."""

    options: OptionsT
    arguments: list[str]
    """The words after the flags."""
    given: frozenset[str]
    """The fields whose value comes from a flag or from the file."""


def parse(
    cls: type[OptionsT],
    argv: Sequence[str],
    *,
    program: str,
    version: str | None = None,
    synopsis: str = "",
    example: str = "",
    config_file: bool = True,
) -> Parsed[OptionsT]:
    """Read `argv` (without the program's name) and the configuration file that it names; values are not
    validated.

    `version` is the line that `-version` prints (None: there is no such flag), `synopsis` says in a few
    words what the program does, `example` holds lines to copy. With `config_file=False` there is no
    `-config`. Raises `ExitError`.
    """
    builtin = [_VERSION] * (version is not None) + [_CONFIG] * config_file

    def usage_text() -> str:
        from nsqkit.options.usage import usage  # here, for it is seldom needed

        return usage(
            cls, builtin, program=program, synopsis=synopsis, example=example, config_file=config_file
        )

    try:
        flags = parse_flags([*builtin, *options_of(cls)], argv)
    except HelpRequestedError:
        raise ExitError(0, stderr=usage_text()) from None
    except FlagError as error:
        raise ExitError(2, stderr=f"{error}\n{usage_text()}") from None
    except FatalValueError as error:
        raise ExitError(1, stderr=stamped_line(str(error))) from None
    values = flags.values
    if values.pop(_VERSION.field, False):
        raise ExitError(0, stdout=f"{version}\n")
    path = values.pop(_CONFIG.field, "")
    if path:
        values = _from_file(cls, path, values, program) | values
    return Parsed(cls(**values), flags.arguments, frozenset(values))


def load(
    cls: type[OptionsT],
    argv: Sequence[str],
    *,
    program: str,
    version: str | None = None,
    synopsis: str = "",
    example: str = "",
    config_file: bool = True,
) -> OptionsT:
    """The options that `argv` and the configuration file give, as `parse`, or the end of the program.

    Words after the flags are ignored, as daemons do.
    """
    return load_parsed(
        cls,
        argv,
        program=program,
        version=version,
        synopsis=synopsis,
        example=example,
        config_file=config_file,
    ).options


def load_parsed(
    cls: type[OptionsT],
    argv: Sequence[str],
    *,
    program: str,
    version: str | None = None,
    synopsis: str = "",
    example: str = "",
    config_file: bool = True,
) -> Parsed[OptionsT]:
    """As `load`, for a program that wants the words after the flags, or to know what was given."""
    try:
        return parse(
            cls,
            argv,
            program=program,
            version=version,
            synopsis=synopsis,
            example=example,
            config_file=config_file,
        )
    except ExitError as error:
        _exit(error)


def _from_file(
    cls: type[attrs.AttrsInstance], path: str, given: dict[str, Any], program: str
) -> dict[str, Any]:
    wanted = [option for option in options_of(cls) if option.field not in given]
    try:
        return read_config_file(path, wanted)
    except ConfigFileError as error:
        raise ExitError(1, stderr=fatal_line(f"[{program}] ", str(error))) from error
    except ConfigValueError as error:
        raise ExitError(1, stderr=stamped_line(str(error))) from error


def _exit(error: ExitError) -> NoReturn:
    sys.stdout.write(error.stdout)
    sys.stderr.write(error.stderr)
    raise SystemExit(error.code)
